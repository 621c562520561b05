"""Entry point of `python -m mspipe_triton`, with the same commands as `mspipe-triton`."""

from mspipe_triton.cli.commands import main

if __name__ == "__main__":
    main()
