"""The comparison of the engine with its plan, and the picture: measurements, and failures that they report."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.pictures import pipeline as draw_pipeline
from bench.studies.pipeline_period import (
    FASTER,
    FASTER_ON,
    PATCHES,
    VARIANTS,
    VECTORS,
    compare,
    failures,
    main,
    run,
    variant_plan,
)


def test_vectors_cover_every_bottleneck_and_bound() -> None:
    assert VECTORS[FASTER_ON] == (2, 3, 2, 6, 3)
    assert all(2 <= milliseconds <= 10 for vector in VECTORS.values() for milliseconds in vector)
    plans = {name: {variant: variant_plan(variant, vector) for variant in VARIANTS} for name, vector in VECTORS.items()}
    full = [name for each in plans.values() for name, load in each["mspipe"].utilisation.items() if load == 1]
    assert set(full) == {"sampler", "copy_in", "compute", "copy_out"}
    assert {each["mspipe"].staleness for each in plans.values()} == {0, 1, 2}
    for variant, least in FASTER.items():
        assert plans[FASTER_ON]["serial"].period / plans[FASTER_ON][variant].period > least
    for variant, patch in PATCHES.items():
        assert plans[FASTER_ON][variant].period == pytest.approx(6 + patch)


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, dict[str, Any]]]:
    return {"compute": compare(VECTORS["compute"], iterations=12, warmup=4, repeats=1)}


def test_every_variant_is_measured_beside_its_plan(cases: dict[str, dict[str, dict[str, Any]]]) -> None:
    for variant, case in cases["compute"].items():
        plan = variant_plan(variant, VECTORS["compute"])
        assert (case["planned_ms"], case["staleness"]) == (float(plan.period), plan.staleness)
        assert (
            case["measured_ms"] > 0.5 * case["planned_ms"]
        )  # runs are not faster than the plan, apart from noise at the ends
        assert case["measured_over_planned"] == pytest.approx(case["measured_ms"] / case["planned_ms"])
        assert sum(case["updates_missed"].values()) == 12
        assert max(map(int, case["updates_missed"])) <= plan.staleness
    assert list(cases["compute"]["mspipe"]["updates_missed"]) == ["0", "1"]
    assert cases["compute"]["serial"]["speed"] == 1
    assert cases["compute"]["mspipe"]["planned_speed"] == pytest.approx(16 / 6)


def test_failures_name_the_deviation(cases: dict[str, dict[str, dict[str, Any]]]) -> None:
    good = copy.deepcopy(cases)
    for variant, case in good["compute"].items():
        case.update(measured_over_planned=1.079, speed=FASTER.get(variant, 1.0))
    assert failures(good) == []
    for key, value, message in (
        ("measured_over_planned", 1.081, "compute, mspipe: 1.081 of the planned period"),
        ("measured_over_planned", 0.91, "compute, mspipe: 0.910 of the planned period"),
        ("speed", 2.44, "compute, mspipe: 2.44 times serial, not 2.45"),
        ("updates_missed", {"0": 4, "2": 1}, "compute, mspipe: a fetch missed more updates than its bound of 1"),
    ):
        bad = copy.deepcopy(good)
        bad["compute"]["mspipe"][key] = value
        assert failures(bad) == [message]


def test_command_writes_its_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "pipeline.json"
    with pytest.raises(typer.Exit) as exit_info:
        main(iterations=5, warmup=1, repeats=2, vector=["sampler"], out=out)
    report = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == report
    assert {"command", "date", "machine", "versions", "cases"} <= report.keys()
    assert list(report["cases"]) == ["sampler"]
    assert list(report["cases"]["sampler"]) == list(VARIANTS)
    assert exit_info.value.exit_code == bool(failures(report["cases"]))


def test_picture_shows_measured_stages_and_the_plan(tmp_path: Path) -> None:
    draw_pipeline.main(out=tmp_path / "pipeline.svg", iterations=25)
    assert (tmp_path / "pipeline.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    plans = {variant: variant_plan(variant, VECTORS["compute"]) for variant in draw_pipeline.PANELS}
    figure = draw_pipeline.draw(plans, {variant: run(plan, 25, 5) for variant, plan in plans.items()})
    for axes, plan in zip(figure.axes, plans.values(), strict=True):
        bars = axes.patches[1:]  # the first is the shade of a period
        solid = [bar for bar in bars if bar.get_facecolor()[3] == 1]
        assert len(solid) >= len(plan.graph.stages)
        assert len(bars) > len(solid)
        widths = {round(bar.get_width(), 3) for bar in bars if bar not in solid}
        assert widths == {float(stage.time) for stage in plan.graph.stages}
