"""Picture of embeddings: the built-in stream's items, by their last event's features and by TGN's embeddings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.pictures.style import pyplot, save
from bench.report import RESULTS

RESULT = RESULTS / "embeddings.json"
COLOURS = (
    "#2f86c9", "#e09a1a", "#2e8b66", "#c0392b", "#9461b5", "#7a5230", "#e377b0", "#7d8fa3", "#a8b820", "#22b5c4",
)  # fmt: skip

SIZE = 2.6  # of a dot, in points


def main(out: Annotated[Path, typer.Option(help="An SVG or PNG file.")] = Path("docs/embeddings.svg")) -> None:
    """Draw both side by side, a dot per item, coloured by the item's group."""
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    figure, (before, after) = pyplot("embeddings").subplots(1, 2, figsize=(9.2, 4.6))
    _dots(before, [(group, x, y) for group, x, y, _, _ in report["points"]])
    _dots(after, [(group, x, y) for group, _, _, x, y in report["points"]])
    before.set_title("features of the item's last event", loc="left", fontsize=10)
    before.set(xlabel="feature 1", ylabel="feature 2")
    after.set_title("embedding after all events", loc="left", fontsize=10)
    after.set(xlabel="first principal component", ylabel="second")
    _legend(figure)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    save(figure, out)


def _dots(axes: Any, points: list[tuple[int, float, float]]) -> None:
    """Draw the dots of a group as one path, of very short lines with round ends, which keeps the file small."""
    xs = [x for _, x, _ in points]
    length = (max(xs) - min(xs)) / 1500  # about 0.2 points
    for group, colour in enumerate(COLOURS):
        lines = [(place, y) for each, x, y in points if each == group for place in (x, x + length, math.nan)]
        axes.plot(*zip(*lines, strict=True), color=colour, linewidth=SIZE, solid_capstyle="round", snap=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xticks=[], yticks=[])


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5, markeredgewidth=0, color=colour, label=str(group))
        for group, colour in enumerate(COLOURS, 1)
    ]
    figure.legend(
        handles=handles, title="group of items", loc="lower center", ncols=len(handles), frameon=False,
        handletextpad=0.1, columnspacing=1.4,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
