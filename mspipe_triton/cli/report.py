"""Command that writes the page about a run, or the page that compares several."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mspipe_triton.cli.app import app
from mspipe_triton.cli.transient import transient
from mspipe_triton.errors import ConfigError
from mspipe_triton.report.target import check_target, folders_of

_EXTRA = ("matplotlib", "jinja2")


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run folder, or several to compare, or that of `train --seeds`.", metavar="RUN..."),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="The .html file to write.", metavar="FILE", show_default="RUN/report.html, several: comparison.html"
        ),
    ] = None,
) -> None:
    """Write a page about a run, or one that compares runs: scores, loss, stage times, timeline, plans, settings.

    The page is one file that works offline.
    """
    missing = next((name for name in _EXTRA if find_spec(name) is None), None)
    if missing is not None:
        raise ConfigError(
            f"report needs the extra report ({missing} is not installed); use `pip install 'mspipe-triton[report]'`, "
            "or in a checkout `pip install '.[report]'`"
        )
    folders = folders_of(runs)
    if out is not None:
        check_target(Path(out))
    with transient(f"Reading {runs[0] if len(runs) == 1 else f'{len(folders)} runs'} ..."):
        from mspipe_triton.cli.console import console
        from mspipe_triton.report.page import write_report

        target = write_report(runs, out)
    console.print(f"Wrote {target}", soft_wrap=True)
