"""Charts of a page: lines over epochs with levels to compare with, bars, and their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Literal

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mspipe_triton.report.svg import SERIES, STYLE, colour, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 460, 250  # pixels
_BAR, _GROUPED, _SPACE, _AXIS = 32, 17, 16, 48  # pixels: bars alone and in groups, between groups, the axis
_LETTERS = 24  # of a bar's label, of which the last are shown
_MARKED = 60  # points of a series, above which its line shows none
_LEVELS = ("s4", "s7", "s8", "s6")
_SHAPES = {"o": "dot", "D": "diamond"}  # of points in a key
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_LEVEL_DASHES = ("dashed", "dotted", "dashdot", (0, (6, 2, 1, 2, 1, 2)))


@dataclass(frozen=True)
class Series:
    """Values by epoch, drawn as a line, or as points if there is one value.

    Args:
        label: its name in the key. values: by epoch. variable: of its colour. number: of its dashes, from 0.
        marker: its points, "o" or "D" as matplotlib names them.
    """

    label: str
    values: Mapping[int, float]
    variable: str = "s1"
    number: int = 0
    marker: str = "o"


@dataclass(frozen=True)
class Key:
    """A row of a chart's key: a sample of its line or point in the colour of a variable, a name, and a value or ""."""

    variable: str
    sample: str
    label: str
    value: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart with its heading, the rows of its key, and a sentence about it."""

    title: str
    svg: Markup
    keys: Sequence[Key] = ()
    caption: str = ""
    wide: bool = False


def variable_of(number: int) -> str:
    """Return the variable of the colour of a series."""
    return SERIES[number % len(SERIES)]


@matplotlib.rc_context(STYLE)
def line_chart(
    name: str, title: str, series: Sequence[Series], levels: Mapping[str, float] | None = None, caption: str = "",
    epochs: int = 0, form: str = "{x:.4f}", largest: float = inf,
) -> Chart | None:  # fmt: skip
    """Draw series over epochs, and levels that do not depend on the epoch, as dashed lines.

    Args:
        name: distinguishes the chart from others of its page. title: its heading. caption: a sentence below it.
        series: those without values are left out. levels: by their names. epochs: number of epochs to show at least.
        form: of the last values, which the key shows. largest: the largest value possible.

    Returns:
        The chart; None if there is nothing to draw.
    """
    series = [each for each in series if each.values]
    levels = {label: level for label, level in (levels or {}).items() if isfinite(level)}
    if not series:
        return None
    figure, axes = bare_axes(_HEIGHT)
    keys = []
    for each in series:
        points = {epoch: value for epoch, value in sorted(each.values.items()) if isfinite(value)}
        alone, number = len(each.values) == 1, each.number % len(_DASHES)
        line = {"ls": "none", "ms": 8} if alone else {"ls": _DASHES[number], "ms": 5 if len(points) <= _MARKED else 0}
        axes.plot([*points], [*points.values()], color=colour(each.variable), marker=each.marker, mew=0, **line)
        sample = _SHAPES[each.marker] if alone else f"d{number}"
        keys.append(Key(each.variable, sample, each.label, form.format(x=[nan, *points.values()][-1])))
    for number, (label, level) in enumerate(levels.items()):
        variable = _LEVELS[number % 4]
        axes.axhline(level, color=colour(variable), ls=_LEVEL_DASHES[number % 4], lw=1.5, zorder=1)
        keys.append(Key(variable, f"l{number % 4}", label, form.format(x=level)))
    axes.margins(x=0.04, y=0.1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, largest + 0.03 * (largest - low)))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    last_epoch = max([epochs, *(epoch for each in series for epoch in each.values)])
    first_epoch = min([1 if epochs else last_epoch, *(epoch for each in series for epoch in each.values)])
    space = 0.04 * (last_epoch - first_epoch) or 0.5
    axes.set_xlim(first_epoch - space, last_epoch + space)
    described = "; ".join(f"{key.label} {key.value}" for key in keys)
    return Chart(title, inline(figure, name, f"{title}. Last values: {described}"), keys, caption)


@matplotlib.rc_context(STYLE)
def bar_chart(
    name: str, title: str, rows: Mapping[str, Mapping[str, float]], unit: str, variables: Mapping[str, str],
    caption: str = "", form: str = "{x:,.4g}",
) -> Chart | None:  # fmt: skip
    """Draw horizontal bars with their values behind them.

    Args:
        rows: by the label of a bar, the value of each group; groups share a chart and differ in colour.
        unit: of the values. variables: of the colours, by group if there are several, else by row. form: of the values.

    Returns:
        The chart; None if there is nothing to draw.
    """
    groups = list(dict.fromkeys(group for values in rows.values() for group in values))
    if not groups:
        return None
    heights = [_BAR if len(groups) == 1 else _GROUPED * len(values) + _SPACE for values in rows.values()]
    thickness = _GROUPED if len(groups) > 1 else 0.7 * _BAR
    figure, axes = bare_axes(_AXIS + sum(heights), grid="x")
    largest = max(value for values in rows.values() for value in values.values())
    described = []
    middles = [above + height / 2 for above, height in zip(accumulate([0, *heights]), heights, strict=False)]
    for place, (label, values) in zip(middles, rows.items(), strict=True):
        for number, group in enumerate(group for group in groups if group in values):
            value = values[group]
            middle = place + (number - (len(values) - 1) / 2) * thickness
            variable = variables[group if len(groups) > 1 else label]
            axes.barh(middle, value, thickness * 0.92 if len(groups) > 1 else thickness, color=colour(variable), lw=0)
            text = form.format(x=value)
            axes.annotate(text, (value, middle), (4, 0), textcoords="offset points", va="center", color=colour("text"))
            described.append(" ".join(filter(None, [label, group if len(groups) > 1 else "", text, unit])))
    axes.set_yticks(middles, [label if len(label) <= _LETTERS else f"…{label[1 - _LETTERS :]}" for label in rows])
    axes.set_ylim(sum(heights), 0)
    axes.set_xlim(0, largest * 1.22 or 1)
    axes.tick_params(axis="y", length=0, labelcolor=colour("text"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.set_xlabel(unit)
    keys = [Key(variables[group], "box", group) for group in groups] if len(groups) > 1 else []
    return Chart(title, inline(figure, name, f"{title}: {', '.join(described)}"), keys, caption)


def bare_axes(height: float, width: float = _WIDTH, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """Make a figure with axes in the page's style, a grid along one axis, and a line below; sizes are in pixels."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colour("line"))
    axes.tick_params(length=0, labelcolor=colour("soft"), pad=6)
    axes.xaxis.label.set_color(colour("soft"))
    axes.grid(axis=grid, color=colour("line"), lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes
