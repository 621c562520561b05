"""Every figure in the documentation is the one in the JSON that it names."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mspipe_triton.cli.screens import result_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
# A cell such as `23,702 <!-- peers-wiki.json ours.train_events_per_s -->`, with % for a share.
FIGURE = re.compile(r"([-\d.,]+)(?:\s*(%))?\s*<!-- (\S+\.json) (\S+) -->")


def look_up(file: str, path: str) -> float:
    value: Any = json.loads((ROOT / "bench" / "results" / file).read_text(encoding="utf-8"))
    for key in re.findall(r'"[^"]+"|[^."]+', path):
        key = key.strip('"')
        value = value[int(key)] if isinstance(value, list) else value[key]
    return float(value)


def figures(page: str) -> list[tuple[str, str, str, str]]:
    return FIGURE.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_those_of_the_results(page: str) -> None:
    for shown, percent, file, path in figures(page):
        decimals = len(shown.partition(".")[2])
        value = look_up(file, path) * (100 if percent else 1)
        assert shown.replace(",", "") == f"{value:.{decimals}f}", f"{page}: {file} {path}"


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_measured_columns_hold_figures_with_their_source_alone(page: str) -> None:
    checked, columns = 0, []
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = [place for place, cell in enumerate(cells) if cell in ("measured", "ours", "PyG")]
        else:
            for place in columns:
                left = FIGURE.sub("", cells[place])
                assert not re.search(r"\d", left), f"{page}: a figure without its source in {cells[place]!r}"
                checked += bool(FIGURE.search(cells[place]))
    assert checked >= 4


def test_results_say_where_they_come_from() -> None:
    results = sorted((ROOT / "bench" / "results").glob("*.json"))
    assert results
    for file in results:
        content = json.loads(file.read_text(encoding="utf-8"))
        assert {"command", "machine", "versions"} <= content.keys(), file.name
        assert {"cpu", "cores", "threads"} <= content["machine"].keys(), file.name


def test_the_readme_quotes_the_built_in_run() -> None:
    file = ROOT / "bench" / "results" / "train-synthetic.json"
    result = json.loads(file.read_text(encoding="utf-8"))["result"]
    console = Console(width=88, file=StringIO(), record=True)
    console.print(result_table(result))
    quoted = (ROOT / "README.md").read_text(encoding="utf-8").split("```\n")
    printed = [line.rstrip() for line in console.export_text().splitlines()]
    assert printed in [[line.rstrip() for line in block.splitlines()] for block in quoted]
