"""Run of `make train` on the built-in stream, whose result the README quotes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.report import command, header, write
from mspipe_triton.cli.console import console
from mspipe_triton.cli.result_screen import result_table
from mspipe_triton.training.trainer import train


def main(out: Annotated[Path, typer.Option(help="The JSON file to write.")]) -> None:
    """Train with all defaults and an empty compile cache, in a temporary folder, and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/cache"
        result: dict[str, Any] = train(out=f"{folder}/run")
    console.print(result_table(result))
    write({**header(command("bench.studies.builtin")), "result": result}, out)


if __name__ == "__main__":
    typer.run(main)
