"""Command that writes the page about a run, or the page that compares several."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from mspipe_triton.cli.app import app
from mspipe_triton.errors import ConfigError

_EXTRA = ("matplotlib", "jinja2")


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run folder, or several to compare.", metavar="RUN...")],
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
    from mspipe_triton.cli.console import console
    from mspipe_triton.report.page import write_report

    console.print(f"Wrote {write_report(runs, out)}", soft_wrap=True)
