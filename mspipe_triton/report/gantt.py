"""The timeline of a run as a chart: a row for each resource, and a block for each stage of an iteration."""

from __future__ import annotations

import matplotlib
from matplotlib.patches import Rectangle

from mspipe_triton.pipeline.schedules import RESOURCES
from mspipe_triton.pipeline.timeline import Timeline
from mspipe_triton.report.charts import Chart, Key, bare_axes
from mspipe_triton.report.svg import STYLE, colour, inline

# Variables of the stages' colours.
STAGES = {
    "sample": "s6", "features": "s1", "memory": "s2", "patch": "s5", "train": "s3", "forward": "s3", "backward": "s7",
    "exchange": "s8", "update": "s4", "iteration": "s3",
}  # fmt: skip
_WIDTH, _ROW, _AXIS = 1080, 46, 48  # pixels
_DIGIT = 8.0  # pixels of a digit
_MARGIN = 80  # pixels beside the plot, for the names of resources


def stage_variable(stage: str) -> str:
    """Return the variable of a stage's colour."""
    return STAGES.get(stage, "s6")


@matplotlib.rc_context(STYLE)
def gantt(name: str, timeline: Timeline) -> Chart:
    """Draw a timeline."""
    order = list(dict.fromkeys([*RESOURCES.values(), *(span.resource for span in timeline.spans)]))
    present = {span.resource for span in timeline.spans}
    rows = {resource: row for row, resource in enumerate(each for each in order if each in present)}
    length = timeline.seconds * 1e3
    figure, axes = bare_axes(_AXIS + _ROW * len(rows), _WIDTH, grid="x")
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
    axes.tick_params(axis="y", labelcolor=colour("text"))
    stages = dict.fromkeys(stage for stage in STAGES if any(span.stage == stage for span in timeline.spans))
    caption = (
        f"{timeline.iterations} typical iterations of epoch {timeline.epoch}: one ends every "
        f"{length / timeline.iterations:.1f} ms. Numbers count the epoch's iterations from 0. {_use(timeline)}"
    )
    svg = inline(figure, name, caption, titles)
    return Chart(
        "Timeline of a steady period", svg, [Key(STAGES[stage], "box", stage) for stage in stages], caption, True
    )


def _use(timeline: Timeline) -> str:
    """Say how long each resource is in use."""
    busy: dict[str, float] = {}
    for span in timeline.spans:
        inside = min(span.end, timeline.seconds) - max(span.start, 0.0)
        busy[span.resource] = busy.get(span.resource, 0.0) + inside
    return (
        "In use: "
        + ", ".join(f"{name.replace('_', ' ')} {time / timeline.seconds:.0%}" for name, time in busy.items())
        + "."
    )
