"""Command line application, to which the modules of commands add theirs."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from mspipe_triton.cli.help import PlainGroup

app = typer.Typer(
    cls=PlainGroup,
    help="Fast training of memory-based temporal graph neural networks on event streams.",
    pretty_exceptions_enable=False,
    epilog="""
    For example
      mspipe-triton train               on a small built-in stream
      mspipe-triton train events.csv    on your own table of events
      mspipe-triton train --help        all settings
    """,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(cls=PlainGroup, help="Describe and generate event streams.")
graphpipe_app = typer.Typer(cls=PlainGroup, invoke_without_command=True, subcommand_metavar="[COMMAND [ARGS]...]")


def _print_version(show: bool) -> None:
    """Print the versions of the package, torch and Python, and end."""
    if not show:
        return
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    print(f"mspipe-triton {version('mspipe-triton')} (torch {torch}, Python {platform.python_version()})")
    raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train memory-based temporal graph neural networks on event streams, fast."""


def print_error(message: str) -> None:
    """Print an error to stderr as one line."""
    print(f"mspipe-triton: {' '.join(message.split())}", file=sys.stderr)
