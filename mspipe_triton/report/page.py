"""Writing of a report: templates filled in, as one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import mspipe_triton
from mspipe_triton.errors import RunFolderError
from mspipe_triton.files import atomic_file
from mspipe_triton.report.comparison_page import comparison_page
from mspipe_triton.report.run_page import run_page
from mspipe_triton.report.runs import Run
from mspipe_triton.report.target import COMPARISON, check_target, folders_of
from mspipe_triton.training.run_folder import RunFolder


def write_report(paths: Sequence[str], out: str | None = None) -> Path:
    """Write the page about a run, or the page that compares several.

    Args:
        paths: the run folders; a folder with runs of several seeds stands for all of them.
        out: the file to write, whose folder is created; by default report.html in the run folder, or comparison.html in
            the first one that is named. A report that is there is replaced.

    Returns:
        The path of the file.

    Raises:
        ConfigError: `out` is no name of an HTML file, or is a file that is no report; or a run is named twice.
        RunFolderError: a run is missing, or the page cannot be written.
    """
    runs = [Run.read(folder) for folder in folders_of(paths)]
    default = RunFolder(runs[0].folder).report if len(runs) == 1 else Path(paths[0]) / COMPARISON
    target = default if out is None else Path(out)
    check_target(target)
    text = page_text(runs)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(
            f"{target}: cannot be written: {error.strerror}; name a file elsewhere with --out"
        ) from None
    return target


def page_text(runs: Sequence[Run]) -> str:
    """Return the text of the page about a run, or of the page that compares several."""
    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    view: dict[str, Any] = run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    name = "run.html" if len(runs) == 1 else "comparison.html"
    return templates.get_template(name).render(view, version=mspipe_triton.__version__)
