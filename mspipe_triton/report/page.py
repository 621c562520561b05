"""Writing of a report: templates filled in, as one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import mspipe_triton
from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.files import atomic_file
from mspipe_triton.report.comparison_page import comparison_page
from mspipe_triton.report.run_page import run_page
from mspipe_triton.report.runs import Run
from mspipe_triton.training.run_folder import RunFolder

COMPARISON = "comparison.html"
MARK = '<meta name="generator" content="mspipe-triton report">'


def write_report(paths: Sequence[str], out: str | None = None) -> Path:
    """Write the page about a run, or the page that compares several.

    Args:
        paths: the run folders.
        out: the file to write, whose folder is created; by default report.html in the run folder, or comparison.html in
            the first one. A report that is there is replaced.

    Returns:
        The path of the file.

    Raises:
        ConfigError: `out` is no name of an HTML file, or is a file that is no report; or a run is named twice.
        RunFolderError: a run is missing, or the page cannot be written.
    """
    twice = next((path for i, path in enumerate(paths) if _real(path) in map(_real, paths[:i])), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; name runs that differ")
    runs = [Run.read(path) for path in paths]
    default = RunFolder(runs[0].folder).report if len(runs) == 1 else runs[0].folder / COMPARISON
    target = default if out is None else Path(out)
    _check(target)
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


def _check(target: Path) -> None:
    """Refuse a target that is not an HTML file, or whose file is not a report.

    Raises:
        ConfigError: it is one of these.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {target} is no name of a page; let it end in .html")
    if target.is_dir():
        raise ConfigError(f"--out {target} is a folder; name a file in it")
    if target.is_file() and MARK.encode() not in target.read_bytes()[:2000]:
        raise ConfigError(f"--out {target} is a file that `report` did not write; name another")


def _real(path: str) -> Path:
    return Path(path).resolve()
