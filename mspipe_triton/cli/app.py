"""Command line application, to which the modules of commands add theirs."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Fast training of memory-based temporal graph neural networks on event streams.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Describe and generate event streams.")
graphpipe_app = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND [ARGS]...]")
