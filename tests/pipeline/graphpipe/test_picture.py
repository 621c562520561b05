"""Pictures of plans: the boxes, arrows and passes that they show, and that nothing overlaps or lies outside."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import inf
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.operators import Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.picture import CHARACTER, FILLS, TIME_WIDTH, draw
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.timeline import Timeline, simulate_plan
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD, SYNC
from tests.pipeline.graphpipe.plans import chain_plan, measured, operator, plan_of, replicated_plan

SVG = "{http://www.w3.org/2000/svg}"


class Rectangle(NamedTuple):
    """Edges of a rectangle: left, top, right, bottom."""

    start: float
    top: float
    end: float
    bottom: float

    @classmethod
    def of(cls, element: ElementTree.Element) -> Rectangle:
        x, y, width, height = (float(element.get(name, "0")) for name in ("x", "y", "width", "height"))
        return cls(x, y, x + width, y + height)

    def overlaps(self, other: Rectangle) -> bool:
        margin = 0.02  # coordinates are rounded to hundredths
        return (
            self.start < other.end - margin
            and other.start < self.end - margin
            and self.top < other.bottom - margin
            and other.top < self.bottom - margin
        )


def picture(plan: PipelinePlan, folder: Path, run: Timeline | None = None) -> ElementTree.Element:
    path = folder / "plan.svg"
    draw(simulate_plan(plan), path, run)
    assert [file.name for file in folder.iterdir()] == ["plan.svg"]
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def texts(root: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def passes_of(root: ElementTree.Element, kind: str) -> list[Rectangle]:
    """Rectangles of a kind in the timeline, without the legend's."""
    return [
        Rectangle.of(each)
        for each in root.findall(f"{SVG}rect")
        if each.get("fill") == FILLS[kind] and each.get("stroke")
    ]


def boxes_of(root: ElementTree.Element) -> list[Rectangle]:
    return [Rectangle.of(each) for group in root.iter(f"{SVG}g") for each in group.iter(f"{SVG}rect")]


def branches(count: int, depth: int, batch: int, devices: int = 1) -> PipelinePlan:
    """Branches of equal stages that meet in a last one."""
    operators = [operator(f"branch.{branch}.{level}") for branch in range(count) for level in range(depth)]
    last = [branch * depth + depth - 1 for branch in range(count)]
    edges = [(index, index + 1) for index in range(count * depth) if index not in last]
    edges = [edge for edge in edges if edge[1] < count * depth] + [(index, count * depth) for index in last]
    graph = OperatorGraph((*operators, operator("head")), tuple(sorted(edges)), "branches")
    parts = [
        Part(1 << index, devices if index < count * depth else 1, Rhythm(devices))
        for index in range(len(graph.operators))
    ]
    return assemble(Problem(graph, Cluster(sum(part.devices for part in parts), inf), batch), parts)


def test_two_branches_with_their_stages_arrows_and_facts(tmp_path: Path) -> None:
    names = [f"{branch}{level}" for branch in "ab" for level in range(4)]
    uses = [(one, other) for one, other in pairwise(names) if one[0] == other[0]]
    operators = [operator(name, 1e-3, 2e-3) for name in names]
    plan = plan_of([*operators, Operator("loss")], [*uses, ("a3", "loss"), ("b3", "loss")], 32)
    root = picture(plan, tmp_path)
    words = texts(root)
    assert "8 devices, mini-batch of 32 samples, 3.281 ms per sample, depth 4" in words
    assert [word for word in words if word.startswith("stage")] == [f"stage {number}" for number in range(8)]
    assert [word for word in words if word.startswith("device ") and "holds" not in word] == [
        f"device {number}" for number in range(8)
    ]
    assert "device 0, holds 4 × 1" in words
    assert "b3, loss" in words
    assert len(root.findall(f"{SVG}path[@marker-end]")) == 6
    assert len(root.findall(f"{SVG}path[@stroke-dasharray]")) == 1
    assert len(passes_of(root, FORWARD)) == len(passes_of(root, BACKWARD)) == 8 * 32
    assert passes_of(root, SYNC) == []
    assert "sync" not in words
    assert words[words.index("milliseconds") - 6 : words.index("milliseconds")] == ["0", "20", "40", "60", "80", "100"]
    assert words.count("31") == 8  # only in the backward passes, which are wide enough


def test_passes_are_where_the_timeline_says(tmp_path: Path) -> None:
    root = picture(chain_plan([(1, 2), (3, 4)], 2), tmp_path)
    first = passes_of(root, FORWARD)[0]
    unit = first.end - first.start
    starts = [(each.start - first.start) / unit for each in passes_of(root, FORWARD)]
    assert starts == pytest.approx([0, 1, 1, 8], abs=2e-3)
    lengths = [(each.end - each.start) / unit for each in passes_of(root, BACKWARD)]
    assert lengths == pytest.approx([2, 2, 4, 4], abs=2e-3)
    assert len({each.top for each in passes_of(root, FORWARD)}) == 2


PLANS = {
    "one": chain_plan([(1, 2)], 1),
    "chain of 12": chain_plan([(1, 2)] * 12, 16),
    "chain of 32": chain_plan([(1, 2)] * 32, 32),
    "4 branches": branches(4, 2, 32),
    "7 branches on 29 devices": branches(7, 2, 32, devices=2),
    "16 branches": branches(16, 1, 32),
    "units": chain_plan([(1, 2), (3, 1)], 12, units=(3, 4)),
}


@pytest.mark.parametrize("name", PLANS)
def test_nothing_overlaps_or_lies_outside(name: str, tmp_path: Path) -> None:
    plan = PLANS[name]
    root = picture(plan, tmp_path)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    boxes = boxes_of(root)
    spans = [each for kind in FILLS for each in passes_of(root, kind)]
    assert len(boxes) == len(plan.stages)
    batch = plan.problem.batch
    assert len(spans) == sum(2 * batch // each.rhythm.micro_batch * len(each.devices) for each in plan.stages)
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    rows: dict[float, list[Rectangle]] = {}
    for each in spans:
        rows.setdefault(each.top, []).append(each)
        assert each.start >= max(box.end for box in boxes)
    assert len(rows) == sum(len(stage.devices) for stage in plan.stages)
    for row in rows.values():
        for one, other in pairwise(sorted(row)):
            assert not one.overlaps(other)
    for each in (*boxes, *spans):
        assert each.start >= 0
        assert each.top >= 60
        assert each.end <= width
        assert each.bottom <= height
    for group in root.iter(f"{SVG}g"):
        box = next(Rectangle.of(each) for each in group.iter(f"{SVG}rect"))
        for text in group.iter(f"{SVG}text"):
            assert float(text.get("font-size", "0")) >= 10
            end = float(text.get("x", "0")) + len(text.text or "") * CHARACTER * float(text.get("font-size", "0"))
            assert end <= box.end
            assert box.top < float(text.get("y", "0")) < box.bottom
    for index, stage in enumerate(plan.stages):
        for before in stage.after:
            assert boxes[before].bottom < boxes[index].top


def test_sync_and_long_names_and_markup(tmp_path: Path) -> None:
    names = [f"layers.{number}.<attention & output>" for number in range(9)]
    graph = OperatorGraph(tuple(operator(name, parameters=9) for name in names), (), "<b>&")
    plan = assemble(Problem(graph, Cluster(3, inf, bandwidth=1.0), 6), [Part(graph.everything, 3, Rhythm(3))])
    root = picture(plan, tmp_path)
    words = texts(root)
    assert words[0] == "<b>&"
    assert "devices 0–2, holds 1 × 3" in words
    assert any(word.startswith("layers.0") and "…" in word and word.endswith("(9)") for word in words)
    tooltip = next(each.text for each in root.iter(f"{SVG}title"))
    assert tooltip == f"stage 0 on devices 0–2 holds 1 micro-batch of 3 samples: {', '.join(names)}"
    assert len(passes_of(root, SYNC)) == 3
    assert "sync" in words


def test_only_svg(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pictures are \.svg files, so plan\.png needs that ending"):
        draw(simulate_plan(chain_plan([(1, 2)], 1)), tmp_path / "plan.png")
    assert list(tmp_path.iterdir()) == []


def test_a_summary_of_operators() -> None:
    graph = OperatorGraph(tuple(operator(f"layers.{number}") for number in range(8)), ())
    assert graph.summary(0b11) == "layers.0, layers.1"
    assert graph.summary(graph.everything) == "layers.0 … layers.7 (8)"


class Word(NamedTuple):
    """Text of a picture, with its rectangle at the mean width of characters."""

    text: str
    place: Rectangle

    @classmethod
    def of(cls, element: ElementTree.Element) -> Word:
        size, x, y = (float(element.get(name, "0")) for name in ("font-size", "x", "y"))
        text = element.text or ""
        width = len(text) * CHARACTER * size
        start = x - width * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")]
        return cls(text, Rectangle(start, y - size * 0.75, start + width, y + size * 0.2))


COMPARISONS = {**PLANS, "fork with a replicated stage": replicated_plan()}


@pytest.mark.parametrize("name", COMPARISONS)
def test_measured_rows_are_below_simulated_ones_on_one_scale(name: str, tmp_path: Path) -> None:
    plan = COMPARISONS[name]
    simulated, run = simulate_plan(plan), measured(simulate_plan(plan))
    root = picture(plan, tmp_path, run)
    words = [Word.of(each) for each in root.findall(f"{SVG}text")]
    origin = next(word.place.end + 8 for word in words if word.text == "simulated")
    scale = TIME_WIDTH / max(simulated.makespan, run.makespan)
    labels = [word for word in words if word.text.startswith("device ")]
    assert [word.text for word in labels] == 2 * [f"device {number}" for number in range(plan.devices)]
    tops = [word.place.top for word in labels]
    assert tops == sorted(set(tops))
    rows: dict[float, list[Rectangle]] = {}
    fills: dict[float, list[str]] = {}
    for each in root.findall(f"{SVG}rect"):
        if each.get("stroke"):
            rows.setdefault(float(each.get("y", "0")), []).append(Rectangle.of(each))
            fills.setdefault(float(each.get("y", "0")), []).append(each.get("fill", ""))
    assert list(rows) == sorted(rows)
    spans = [row for timeline in (simulated, run) for row in timeline.passes.values()]
    for label, (top, row), passes in zip(labels, rows.items(), spans, strict=True):
        assert top < label.place.top < label.place.bottom < row[0].bottom
        assert [each.start for each in row] == pytest.approx([origin + span.start * scale for span in passes], abs=0.02)
        assert [each.end for each in row] == pytest.approx([origin + span.end * scale for span in passes], abs=0.02)
        assert fills[top] == [FILLS[span.kind] for span in passes]
    ends = [path.get("d", "") for path in root.findall(f"{SVG}path[@stroke-width='1.2']")]
    assert [float(each[1:].split()[0]) for each in ends] == pytest.approx(
        [origin + timeline.makespan * scale for timeline in (simulated, run)], abs=0.02
    )


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("slower", [1, 1e3, 1e-3], ids=["close", "slow", "fast"])
def test_two_panels_are_inside_and_their_words_apart(name: str, slower: float, tmp_path: Path) -> None:
    plan = COMPARISONS[name]
    run = measured(simulate_plan(plan))
    spans = tuple(span._replace(start=span.start * slower, end=span.end * slower) for span in run.spans)
    root = picture(plan, tmp_path, Timeline(plan, run.makespan * slower, spans))
    words = [Word.of(each) for each in root.findall(f"{SVG}text")]
    rectangles = [Rectangle.of(each) for each in root.findall(f"{SVG}rect") if each.get("stroke")]
    width, height = (float(each) for each in root.get("viewBox", "").split()[2:])
    assert (root.get("width"), root.get("height")) == (f"{width:g}", f"{height:g}")
    for each in (*rectangles, *boxes_of(root), *(word.place for word in words)):
        assert each.start >= 0
        assert each.top >= 0
        assert each.end <= width
        assert each.bottom <= height
    outside = [word for word in words if not word.text.isdecimal() or word.place.top > rectangles[-1].bottom]
    for one, other in combinations(outside, 2):
        assert not one.place.overlaps(other.place), (one, other)
    for word in outside:
        assert not any(word.place.overlaps(each) for each in (*rectangles, *boxes_of(root))), word


def test_titles_and_captions_of_a_comparison(tmp_path: Path) -> None:
    plan = chain_plan([(1e-3, 2e-3), (3e-3, 4e-3)], 2)
    simulated = simulate_plan(plan)
    *spans, last = measured(simulated).spans
    words = texts(picture(plan, tmp_path, Timeline(plan, 12.3456, (*spans, last._replace(kind=SYNC)))))
    assert "2 devices, mini-batch of 2 samples, 8.5 ms per sample simulated and 6173 ms measured, depth 2" in words
    assert words.index("simulated") < words.index("17 ms") < words.index("measured") < words.index("12350 ms")
    assert words.count("milliseconds") == words.count("sync") == 1
