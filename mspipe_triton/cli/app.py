"""Command line application, to which the modules of commands add theirs."""

from __future__ import annotations

import sys

import typer

app = typer.Typer(
    help="Fast training of memory-based temporal graph neural networks on event streams.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Describe and generate event streams.")
graphpipe_app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND [ARGS]...]")


def print_error(message: str) -> None:
    """Print an error to stderr as one line."""
    print(f"mspipe-triton: {' '.join(message.split())}", file=sys.stderr)
