"""Search spaces, measurement and profiles that tune a run; the room is kept, nothing is tuned yet."""

if __name__ != "mspipe_triton.tuning":
    raise ImportError(
        f"this package installs as mspipe_triton.tuning, not as {__name__!r}: write `import mspipe_triton.tuning`"
    )
