"""Figures of the documentation: each equals the one in the JSON that docs/figures.toml or a table's mark names."""

from __future__ import annotations

import json
import re
import tomllib
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.pages import TABLES, rendered
from mspipe_triton.cli.result_screen import result_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
FIGURES: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "docs" / "figures.toml").read_text(encoding="utf-8"))
NUMBER = r"(-?\d[\d,]*(?:\.\d+)?)"
# Columns of tables that hold no measurement.
UNMEASURED = re.compile(r"target|limit|promised")


def look_up(source: str) -> float:
    """The value at "file path", times 100 where a % follows."""
    match = re.fullmatch(r"(\S+\.json) (.*?)( %)?", source)
    assert match, source
    value: Any = json.loads((ROOT / "bench" / "results" / match[1]).read_text(encoding="utf-8"))
    for key in re.findall(r'"[^"]+"|[^."]+', match[2]):
        value = value[int(key)] if isinstance(value, list) else value[key.strip('"')]
    return float(value) * (100 if match[3] else 1)


def flat(page: str) -> str:
    """A page with every space and line end as one space."""
    return re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))


def pattern(text: str) -> str:
    """The regular expression of a text of figures.toml, whose {} are numbers."""
    return NUMBER.join(re.escape(part) for part in text.split("{}"))


@pytest.mark.parametrize(("page", "text"), [(page, text) for page, texts in FIGURES.items() for text in texts])
def test_figures_are_those_of_the_results(page: str, text: str) -> None:
    (shown,) = re.findall(pattern(text), flat(page))
    figures = [shown] if isinstance(shown, str) else shown
    sources = FIGURES[page][text]
    sources = [sources] if isinstance(sources, str) else sources
    assert len(figures) == len(sources)
    for figure, source in zip(figures, sources, strict=True):
        decimals = len(figure.partition(".")[2])
        assert figure.replace(",", "") == f"{look_up(source):.{decimals}f}", source


@pytest.mark.parametrize(("table", "render"), TABLES, ids=[table.result for table, _ in TABLES])
def test_tables_are_those_of_the_results(table: Any, render: Any) -> None:
    assert table.path.read_text(encoding="utf-8") == rendered(table, render), "run `python -m bench.pages`"


@pytest.mark.parametrize("page", [page for page in PAGES if page == "README.md" or page.startswith("docs/measured/")])
def test_measured_tables_hold_no_figure_without_a_source(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"<!-- table of (\S+),.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    rows = [pattern(line) for line in FIGURES.get(page, {}) if line.startswith("|")]
    head: list[str] = []
    for line in text.splitlines():
        cells = line.split("|")
        if not line.startswith("|"):
            head = []
        elif not head:
            head = cells
        elif not any(re.fullmatch(row, line) for row in rows):
            measured = [
                cell
                for title, cell in list(zip(head, cells, strict=True))[2:]
                if not UNMEASURED.search(title) and re.search(r"\d", cell)
            ]
            assert not measured, f"{page}: no source for {line}"


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_are_linked_and_links_lead_somewhere() -> None:
    linked = set()
    for page in [*PAGES, "CONTRIBUTING.md"]:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
            if "://" in target:
                continue
            path = (ROOT / page).parent.joinpath(target).resolve() if target else ROOT / page
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"
            linked.add(path)
    assert {page for page in PAGES if (ROOT / page).resolve() not in linked} <= {"README.md"}


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
