"""Pictures of plans as SVG: the DAG of stages, and beside it what each device does over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, fsum, inf, log10
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from mspipe_triton.errors import ConfigError
from mspipe_triton.files import atomic_file
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan, PipelineStage
from mspipe_triton.pipeline.graphpipe.timeline import Timeline
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD, SYNC

FILLS = {FORWARD: "#0072b2", BACKWARD: "#e69f00", SYNC: "#9a9a9a"}
NUMBERS = {FORWARD: "#ffffff", BACKWARD: "#000000"}
TEXT, FAINT, LINE = "#1f2933", "#5f6b7a", "#8a94a3"
CHARACTER = 0.6  # mean width of a character, in font sizes
MARGIN, TOP, AXIS = 24, 62, 36
CAPTION, APART = 20, 10  # height of a panel's caption, and of the space above that of the second panel
TIME_WIDTH = 1120
DEVICE_LABEL = 74
PANEL, GAP, WIDEST = 820, 14, 4  # width of the DAG, between boxes, and boxes in a row
# By the most rows of boxes: height of a box, distance between rows, and largest width of a box.
SIZES = ((8, 48.0, 78.0, 230.0), (16, 34.0, 52.0, 250.0), (inf, 20.0, 31.0, 400.0))


class Box(NamedTuple):
    """A rectangle in pixels, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


class Panel(NamedTuple):
    """Rows of height `row` of all devices, from `top` down, with a caption above them unless it is empty."""

    timeline: Timeline
    caption: str
    top: float
    row: float

    @property
    def bottom(self) -> float:
        """End of the last row."""
        return self.top + self.timeline.plan.devices * self.row


def draw(timeline: Timeline, path: Path, measured: Timeline | None = None) -> None:
    """Draw a simulated mini-batch as a whole or not at all.

    On the left, stages are boxes with their operators, their devices, and the micro-batches that they hold × samples of
    each; arrows show whose outputs a stage receives, dashed lines which stages a costless operator joins. On the right,
    every device has a row: forward passes are blue, backward passes orange, sync grey, bubbles empty; a pass shows the
    number of its micro-batch where it is wide enough. Transfers run beside the passes and are not drawn.

    Args:
        timeline: the simulation.
        path: the file.
        measured: the same mini-batch as a run measured it. Its devices have their rows below the simulated ones, on the
            same scale of time; a line at the end of each shows its makespan.

    Raises:
        ConfigError: the name of the file does not end in .svg.
    """
    check_picture(path)
    plan = timeline.plan
    boxes = _boxes(plan)
    bottom = max(box.y + box.height for box in boxes)
    panels = _panels(timeline, measured, bottom - TOP - AXIS)
    edge = max(box.x + box.width for box in boxes) + 36
    width = edge + DEVICE_LABEL + TIME_WIDTH + MARGIN
    height = max(bottom + MARGIN, panels[-1].bottom + AXIS + MARGIN)
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-family="Helvetica, Arial, sans-serif" fill="{TEXT}">\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n'
            f'<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{LINE}"/></marker></defs>\n'
        )
        for part in (_title(panels, width), _graph(plan, boxes), _timelines(panels, edge + DEVICE_LABEL)):
            file.writelines(f"{line}\n" for line in part)
        file.write("</svg>\n")


def check_picture(path: Path) -> None:
    """Check the name of a picture's file.

    Raises:
        ConfigError: it does not end in .svg.
    """
    if path.suffix.lower() != ".svg":
        raise ConfigError(f"pictures are .svg files, so {path.name} needs that ending")


def _text(x: float, y: float, text: str, size: float = 11, **attributes: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}"{extra}>{escape(text)}</text>'


def _cut(text: str, width: float, size: float) -> str:
    """Shorten a text to a width, in its middle."""
    room = max(3, int(width / (CHARACTER * size)))
    if len(text) <= room:
        return text
    end = room * 2 // 5
    return f"{text[: room - 1 - end].rstrip(' …')}…{text[len(text) - end :].lstrip(' …')}"


def _title(panels: Sequence[Panel], width: float) -> Iterator[str]:
    plan = panels[0].timeline.plan
    first, *rest = [f"{_milliseconds(each.timeline.time_per_sample)} ms" for each in panels]
    times = f"{first} per sample" + "".join(f" simulated and {each} measured" for each in rest)
    facts = (
        f"{_count(plan.devices, 'device')}, mini-batch of {_count(plan.problem.batch, 'sample')}, "
        f"{times}, depth {plan.depth}"
    )
    yield _text(MARGIN, 30, plan.problem.graph.name, 17, font_weight="bold")
    yield _text(MARGIN, 48, facts, 12, fill=FAINT)
    x = width - MARGIN
    for kind in (SYNC, BACKWARD, FORWARD):
        if kind == SYNC and not any(span.kind == SYNC for each in panels for span in each.timeline.spans):
            continue
        x -= 12 + CHARACTER * 12 * len(kind)
        yield _text(x + 16, 48, kind, 12)
        yield f'<rect x="{x:.2f}" y="38" width="11" height="11" fill="{FILLS[kind]}"/>'
        x -= 18


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def _boxes(plan: PipelinePlan) -> list[Box]:
    """Place the boxes of all stages below those that they receive from: a row per level, or several if it is wide."""
    levels: list[int] = []
    for stage in plan.stages:
        levels.append(1 + max((levels[each] for each in stage.after), default=-1))
    rows: list[list[int]] = []
    columns: dict[int, float] = {}
    for level in range(plan.depth):
        stages = [index for index, each in enumerate(levels) if each == level]
        wishes = {index: [columns[each] for each in plan.stages[index].after] or [index] for index in stages}
        stages.sort(key=lambda index: fsum(wishes[index]) / len(wishes[index]))
        parts = ceil(len(stages) / WIDEST)
        for part in range(parts):
            rows.append(stages[part::parts])
            # Shifted rows leave room for arrows between their boxes.
            first = (WIDEST - len(rows[-1])) / 2 + (part % 2 and len(rows[-1]) == WIDEST) / 2
            columns |= {index: first + number for number, index in enumerate(rows[-1])}
    height, step, most = next(sizes for rows_most, *sizes in SIZES if len(rows) <= rows_most)
    edge = min(columns.values())
    width = min(most, PANEL / max(map(len, rows)) - GAP)
    return [
        Box(MARGIN + (columns[index] - edge) * (width + GAP), TOP + number * step, width, height)
        for index, number in sorted((index, number) for number, row in enumerate(rows) for index in row)
    ]


def _graph(plan: PipelinePlan, boxes: list[Box]) -> Iterator[str]:
    for index, stage in enumerate(plan.stages):
        end = boxes[index]
        for each in stage.after:
            start = boxes[each]
            x, y = start.x + start.width / 2, start.y + start.height
            across, down = end.x + end.width / 2, end.y - 1
            bend = min(24.0, (down - y) / 2)
            yield (
                f'<path d="M{x:.1f} {y:.1f}C{x:.1f} {y + bend:.1f} {across:.1f} {down - bend:.1f} {across:.1f} '
                f'{down:.1f}" fill="none" stroke="{LINE}" stroke-width="1.4" marker-end="url(#arrow)"/>'
            )
        for each in stage.joins:
            start = boxes[each]
            yield (
                f'<path d="M{start.x + start.width / 2:.1f} {start.y + start.height / 2:.1f}L'
                f'{end.x + end.width / 2:.1f} {end.y + end.height / 2:.1f}" stroke="{LINE}" stroke-dasharray="4 3"/>'
            )
    for stage, box in zip(plan.stages, boxes, strict=True):
        yield from _stage(plan, stage, box)


def _stage(plan: PipelinePlan, stage: PipelineStage, box: Box) -> Iterator[str]:
    """Yield a box, with as many lines of text as its height has room for, and everything as its tooltip."""
    first, last = stage.devices[0], stage.devices[-1]
    devices = f"device {first}" if first == last else f"devices {first}–{last}"
    holds = f"holds {stage.in_flight} × {stage.rhythm.micro_batch}"
    operators = plan.problem.graph.summary(stage.operators)
    whole = (
        f"{stage.name} on {devices} holds {_count(stage.in_flight, 'micro-batch', 'es')} of "
        f"{_count(stage.rhythm.micro_batch, 'sample')}: {', '.join(plan.problem.graph.names(stage.operators))}"
    )
    yield f"<g><title>{escape(whole)}</title>"
    yield (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:g}" rx="5" '
        f'fill="#f3f6fa" stroke="{LINE}"/>'
    )
    if box.height < 30:
        head = f"{stage.name}, {devices}, {holds}: "
        lines = [head + _cut(operators, box.width - 14 - CHARACTER * 10.5 * len(head), 10.5)]
    elif box.height < 40:
        lines = [f"{stage.name}, {devices}, {holds}", operators]
    else:
        lines = [stage.name, operators, f"{devices}, {holds}"]
    for number, line in enumerate(lines):
        size = 12 if number == 0 and len(lines) > 1 else 10.5
        weight = "bold" if number == 0 and len(lines) == 3 else "normal"
        y = box.y + box.height / 2 + (number - (len(lines) - 1) / 2) * 14 + 4
        fill = TEXT if number < 2 else FAINT
        yield _text(box.x + 8, y, _cut(line, box.width - 14, size), size, font_weight=weight, fill=fill)
    yield "</g>"


def _panels(timeline: Timeline, measured: Timeline | None, room: float) -> list[Panel]:
    """Place one panel, or two below one another, in a height of `room`, or in more if rows would be too low."""
    devices = timeline.plan.devices
    if measured is None:
        return [Panel(timeline, "", TOP, min(34.0, max(18.0, room / devices)))]
    row = min(34.0, max(22.0, (room - 2 * CAPTION - APART) / (2 * devices)))
    first = Panel(timeline, "simulated", TOP + CAPTION, row)
    return [first, Panel(measured, "measured", first.bottom + APART + CAPTION, row)]


def _timelines(panels: Sequence[Panel], origin: float) -> Iterator[str]:
    """Yield panels on one scale of time from `origin`, with an axis in milliseconds and grid lines at round values."""
    longest = max(each.timeline.makespan for each in panels)
    scale = TIME_WIDTH / (longest or 1.0)
    bottom = panels[-1].bottom
    rough = longest * 1e3 / 8 or 1.0
    unit = 10.0 ** floor(log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    for number in range(floor(longest * 1e3 / step * (1 + 1e-9)) + 1):
        x = origin + number * step / (longest * 1e3 or 1.0) * TIME_WIDTH
        for each in panels:
            yield f'<path d="M{x:.2f} {each.top:g}V{each.bottom + 5:g}" stroke="#dde3ea"/>'
        yield _text(x, bottom + 18, f"{number * step:g}", 11, text_anchor="middle", fill=FAINT)
    yield _text(origin + TIME_WIDTH / 2, bottom + 34, "milliseconds", 11, text_anchor="middle", fill=FAINT)
    for each in panels:
        yield from _rows(each, origin, scale)
        if each.caption:
            x = origin + each.timeline.makespan * scale
            makespan = f"{float(_milliseconds(each.timeline.makespan)):g} ms"
            yield _text(origin - 8, each.top - 7, each.caption, 12, text_anchor="end", font_weight="bold")
            end = max(x, origin + CHARACTER * 11 * len(makespan))
            yield _text(end, each.top - 7, makespan, 11, text_anchor="end")
            yield f'<path d="M{x:.2f} {each.top - 3:g}V{each.bottom:g}" stroke="{TEXT}" stroke-width="1.2"/>'


def _rows(panel: Panel, origin: float, scale: float) -> Iterator[str]:
    """Yield the passes of every device."""
    row = panel.row
    size = 10.0 if row > 20 else 8.5
    top = float(panel.top)
    for device, spans in panel.timeline.passes.items():
        yield _text(origin - 8, top + row / 2 + 4, f"device {device}", 11, text_anchor="end", fill=FAINT)
        for span in spans:
            x, width = origin + span.start * scale, (span.end - span.start) * scale
            yield (
                f'<rect x="{x:.2f}" y="{top + 2:g}" width="{width:.2f}" height="{row - 4:g}" '
                f'fill="{FILLS[span.kind]}" stroke="#ffffff" stroke-width="{min(0.8, width / 8):.2f}"/>'
            )
            number = str(span.micro_batch)
            if span.kind in NUMBERS and width >= CHARACTER * size * len(number) + 3:
                attributes = {"text_anchor": "middle", "fill": NUMBERS[span.kind]}
                yield _text(x + width / 2, top + row / 2 + size * 0.36, number, size, **attributes)
        top += row
