"""Pictures of the documentation: their text is text, and they are small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.pictures.style import compact

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORDS = {
    "ablation": {"serial", "exact", "training loss"},
    "embeddings": {"group of items", "last event", "principal component", "10"},
    "iteration": {"sample", "train"},
    "pipeline": {"serial", "exact", "copy_in", "one period"},
    "tuning": {"trial", "prefetch", "best so far"},
}


@pytest.mark.parametrize("name", WORDS)
def test_text_of_a_picture_is_text(name: str) -> None:
    svg = (DOCS / f"{name}.svg").read_text(encoding="utf-8")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {word for word in WORDS[name] if any(word in text for text in texts)} == WORDS[name]
    assert len(svg) < 50_000
    assert svg.count("\n") < 1000


def test_every_picture_is_checked() -> None:
    assert {path.stem for path in DOCS.rglob("*.svg")} == {*WORDS, "graphpipe"}  # tests/test_graphpipe_page.py has that


def test_compacting_rounds_coordinates_and_keeps_the_text() -> None:
    path = '<path d="M 0 280.8 \nL 662.4125 -1.0 \nz\n" style="fill: #ffffff"/>'
    text = '<text style="font-family: \'DejaVu Sans\'" x="45.862227" transform="rotate(-0 4 5)">0.125</text>'
    assert compact(path) == '<path d="M 0 280.8 L 662.4 -1 z" style="fill: #ffffff"/>'
    assert compact(text) == '<text style="font-family: \'DejaVu Sans\', Verdana, sans-serif" x="45.9">0.125</text>'
