"""Style of all pictures: matplotlib's settings, and SVG files that are small and keep their text as text."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

FONT = "DejaVu Sans"
FALLBACKS = "Verdana, sans-serif"  # Verdana's letters are as wide
DECIMALS = 1  # of coordinates, in points


def pyplot(name: str) -> ModuleType:
    """matplotlib's pyplot with the pictures' settings; `name` makes the ids of an SVG the same every time."""
    import matplotlib

    matplotlib.use("agg")
    settings = {"font.family": FONT, "font.size": 9.5, "svg.hashsalt": name, "svg.fonttype": "none"}
    matplotlib.rcParams |= settings
    from matplotlib import pyplot

    return pyplot


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the file's ending."""
    if path.suffix != ".svg":
        figure.savefig(path, dpi=200)
        return
    text = StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    path.write_text(compact(text.getvalue()), encoding="utf-8")


def compact(svg: str) -> str:
    """An SVG of matplotlib with rounded coordinates, one line per path, and fonts to fall back on."""
    svg = re.sub(r'\b(d|x|y|points|transform)="([^"]*)"', lambda match: f'{match[1]}="{_rounded(match[2])}"', svg)
    svg = re.sub(r' transform="rotate\(-?0(\.0)? [^"]*\)"', "", svg)
    return svg.replace(f"'{FONT}'", f"'{FONT}', {FALLBACKS}")


def _rounded(text: str) -> str:
    """Path data or coordinates on one line, with few decimals."""
    numbers = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.{DECIMALS}f}".removesuffix(".0"), text)
    return " ".join(numbers.split())
