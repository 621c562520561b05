"""The timeline of a run as a chart: a row for each resource, and a block for each stage of an iteration."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.schedules import RESOURCES
from mspipe_triton.pipeline.timeline import Timeline
from mspipe_triton.report.charts import Chart, Key
from mspipe_triton.report.svg import STYLE, colour, inline

# Variables of the stages' colours.
STAGES = {
    "sample": "s6", "features": "s1", "memory": "s2", "patch": "s5", "train": "s3", "forward": "s3", "backward": "s7",
    "exchange": "s8", "update": "s4", "iteration": "s3",
}  # fmt: skip
_WIDTH, _ROW, _AXIS = 1080, 46, 44  # pixels
_DIGIT = 8.0  # pixels of a digit
_MARGIN = 80  # pixels beside the plot, for the names of resources


def stage_variable(stage: str) -> str:
    """Return the variable of a stage's colour."""
    return STAGES.get(stage, "s6")


def gantt(name: str, timeline: Timeline) -> Chart:
    """Draw a timeline."""
    order = list(dict.fromkeys([*RESOURCES.values(), *(span.resource for span in timeline.spans)]))
    present = {span.resource for span in timeline.spans}
    rows = {resource: row for row, resource in enumerate(each for each in order if each in present)}
    length = timeline.seconds * 1e3
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(_WIDTH / 72, (_AXIS + _ROW * len(rows)) / 72), layout="constrained")
        axes = figure.subplots()
    titles = {}
    for number, span in enumerate(timeline.spans):
        identity = f"block{number}"
        titles[identity] = f"{span.stage} of iteration {span.iteration}: {1e3 * (span.end - span.start):.2f} ms"
        start, end = max(1e3 * span.start, 0.0), min(1e3 * span.end, length)
        box = Rectangle((start, rows[span.resource] - 0.36), end - start, 0.72, gid=identity)
        width = (end - start) / length * (_WIDTH - _MARGIN)
        edge = "card" if width > 4 else stage_variable(span.stage)  # so that a short stage stays visible
        box.set(facecolor=colour(stage_variable(span.stage)), edgecolor=colour(edge), lw=1.0)
        axes.add_patch(box)
        if width > _DIGIT * (len(str(span.iteration)) + 1):
            place = ((start + end) / 2, rows[span.resource])
            axes.annotate(str(span.iteration), place, ha="center", va="center", color=colour("on"))
    axes.set_xlim(0, length)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [resource.replace("_", " ") for resource in rows])
    axes.set_xlabel("ms")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colour("line"))
    axes.tick_params(length=0, labelcolor=colour("soft"), pad=6)
    axes.tick_params(axis="y", labelcolor=colour("text"))
    axes.xaxis.label.set_color(colour("soft"))
    axes.grid(axis="x", color=colour("line"), lw=0.8)
    axes.set_axisbelow(True)
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    stages = dict.fromkeys(stage for stage in STAGES if any(span.stage == stage for span in timeline.spans))
    caption = (
        f"{timeline.iterations} typical iterations of epoch {timeline.epoch}: one ends every "
        f"{length / timeline.iterations:.1f} ms. Numbers count the epoch's iterations from 0."
    )
    svg = inline(figure, name, f"{caption} {_use(timeline.spans, timeline.seconds)}", titles)
    return Chart("Timeline of a steady period", svg, [Key(STAGES[stage], "box", stage) for stage in stages], caption, True)


def _use(spans: tuple[Span, ...], seconds: float) -> str:
    """Say how long each resource is in use."""
    busy: dict[str, float] = {}
    for span in spans:
        inside = min(span.end, seconds) - max(span.start, 0.0)
        busy[span.resource] = busy.get(span.resource, 0.0) + inside
    return "In use: " + ", ".join(f"{name.replace('_', ' ')} {time / seconds:.0%}" for name, time in busy.items()) + "."
