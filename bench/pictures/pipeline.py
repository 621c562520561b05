"""Picture of the pipeline at work: measured stages of a serial and a pipelined run, with the plan outlined below."""

from __future__ import annotations

import tempfile
from itertools import groupby, pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.pictures.style import pyplot, save
from bench.studies.pipeline_period import VECTORS, Measurement, run, variant_plan
from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.plan import Plan, make_plan
from mspipe_triton.pipeline.schedules import RESOURCES, STAGES
from mspipe_triton.pipeline.trace import MEASURED, PLANNED, Trace, read_spans

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = ("serial", "exact_small")
COLOURS = {
    "sample": "#7d8fa3",
    "features": "#2f86c9",
    "memory": "#e09a1a",
    "patch": "#c0392b",
    "train": "#2e8b66",
    "update": "#9461b5",
}
INK, FAINT, SHADE = "#22303c", "#8a97a3", "#eef2f7"
SHOWN_MS = 34.0
WARMUP = 10
ROWS = tuple(dict.fromkeys(RESOURCES.values()))


def main(
    out: Annotated[Path, typer.Option(help="An SVG or PNG file.")] = Path("docs/pipeline.svg"),
    vector: Annotated[str, typer.Option(help=f"Stage times: one of {', '.join(VECTORS)}.")] = "compute",
    iterations: int = 60,
) -> None:
    """Run stages that sleep, serially and pipelined, and draw the same time span of both."""
    plans = {variant: variant_plan(variant, VECTORS[vector]) for variant in PANELS}
    runs = {variant: run(plan, iterations, WARMUP) for variant, plan in plans.items()}
    save(draw(plans, runs), out)


def draw(plans: dict[str, Plan], runs: dict[str, Measurement]) -> Figure:
    """Draw one panel per run."""
    figure, panels = pyplot("pipeline").subplots(len(plans), 1, figsize=(9.2, 5.9), sharex=True)
    serial = next(iter(runs.values())).period
    for axes, (variant, plan) in zip(panels, plans.items(), strict=True):
        measurement = runs[variant]
        opening = "sample" if plan.schedule == "serial" else "train"
        first = _typical_iteration(measurement)
        _panel(axes, opening, first, *_trace_spans(plan, measurement.spans, first))
        every = f"an iteration every {measurement.period * 1e3:.1f} ms, planned {float(plan.period):g} ms"
        faster = f", {serial / measurement.period:.1f} times as fast" if measurement.period < serial else ""
        axes.set_title(plan.schedule, loc="left", fontweight="bold", color=INK, fontsize=12, pad=7)
        axes.set_title(every + faster, loc="right", color=INK, fontsize=9.5, pad=7)
    panels[-1].set_xlabel("milliseconds", color=INK)
    _legend(figure)
    figure.subplots_adjust(left=0.085, right=0.985, top=0.885, bottom=0.085, hspace=0.26)
    return figure


def _typical_iteration(measurement: Measurement) -> int:
    """First iteration of the span whose periods are nearest to the run's mean."""
    starts = [span.start for span in measurement.spans if span.stage == "train"]
    errors = [abs(later - start - measurement.period) for start, later in pairwise(starts)]
    length = ceil(SHOWN_MS / 1e3 / measurement.period) + 1
    return min(range(WARMUP, len(errors) - length), key=lambda first: sum(errors[first - 1 : first + length]))


def _trace_spans(plan: Plan, spans: list[Span], first: int) -> tuple[list[Span], list[Span]]:
    """Spans of a trace: the measured ones, and the spans of a plan that starts with iteration `first`."""
    trace = Trace()
    times = {name: float(milliseconds) / 1e3 for name, milliseconds in plan.graph.times.items()}
    for number, group in groupby(spans, key=lambda span: span.iteration):
        if number == first:
            trace.plan(make_plan(plan.schedule, times, plan.staleness))
        trace.add(1, list(group))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.write(path)
        return read_spans(path, MEASURED)[1], read_spans(path, PLANNED)[1]


def _panel(axes: Axes, opening: str, first: int, spans: list[Span], plan: list[Span]) -> None:
    """Draw rows of bars, from shortly before stage `opening` of iteration `first`, whose period is shaded."""
    starts = {span.iteration: span.start for span in spans if span.stage == opening}
    begin = starts[first] - 0.4e-3
    period = [(starts[first + ahead] - begin) * 1e3 for ahead in (0, 1)]
    axes.axvspan(*period, color=SHADE, zorder=0, linewidth=0)
    axes.annotate("one period", (sum(period) / 2, -0.54), ha="center", va="center", color=FAINT, fontsize=8.5)
    for span in spans:
        _bar(axes, span, begin, -0.34, 0.46, filled=True)
    for span in plan:
        _bar(axes, span, begin, 0.17, 0.26, filled=False)
    axes.set(xlim=(0, SHOWN_MS), ylim=(len(ROWS) - 0.5, -0.74), yticks=range(len(ROWS)), yticklabels=ROWS)
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    for row in range(1, len(ROWS)):
        axes.axhline(row - 0.46, color="#d8dee5", linewidth=0.7, zorder=0.5)


def _bar(axes: Axes, span: Span, begin: float, top: float, height: float, *, filled: bool) -> None:
    start, width = (span.start - begin) * 1e3, (span.end - span.start) * 1e3
    if start + width < 0 or start > SHOWN_MS:
        return
    row, colour = ROWS.index(span.resource) + top, COLOURS[span.stage]
    axes.barh(
        row, width, height, start, align="edge", facecolor=colour if filled else "none",
        edgecolor="white" if filled else colour, linewidth=0.6 if filled else 1.0, zorder=2,
    )  # fmt: skip
    begin_ms, end_ms = max(0.0, start), min(SHOWN_MS, start + width)
    if end_ms - begin_ms > 0.9:
        axes.text(
            (begin_ms + end_ms) / 2, row + height / 2 + 0.015, str(span.iteration), ha="center", va="center_baseline",
            color="white" if filled else colour, fontsize=9.5 if filled else 7.5, zorder=3,
            fontweight="bold" if filled else "normal",
        )  # fmt: skip


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=COLOURS[stage], label=stage) for stage in STAGES]
    handles.append(Patch(facecolor="none", edgecolor=INK, label="outlined: the plan"))
    figure.legend(
        handles=handles, loc="upper center", ncols=len(handles), frameon=False, labelcolor=INK,
        handlelength=1.1, handleheight=0.9, columnspacing=1.6, handletextpad=0.5,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
