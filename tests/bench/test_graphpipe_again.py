"""The study of plans that follow from measured costs: its model, its rounds, and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
import torch

from bench.graphpipe_runs import again
from bench.studies import graphpipe_again
from bench.studies.graphpipe_again import measure
from bench.studies.sleeping import FORWARD, UNEQUAL, TwoBranch, build_unequal, graph
from mspipe_triton.pipeline.graphpipe.costs import total
from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.timeline import makespan


def test_layers_are_believed_equal_and_sleep_as_long_on_average() -> None:
    module, inputs = build_unequal()
    assert isinstance(module, TwoBranch)
    sleeps = [each.sleep for each in chain(module.a, module.b)]
    assert sleeps == [total(FORWARD, times=each) for each in chain(*UNEQUAL)]
    assert sum(each.per_sample for each in sleeps) == pytest.approx(len(sleeps) * FORWARD.per_sample)
    model = graph(model=build_unequal)
    costs = {model.operators[index].forward for index in members(model.placed)}
    assert costs == {FORWARD}
    assert module(*inputs).ndim == 0


def exact_runs(plans: Sequence[PipelinePlan], *_: Any, profile: bool) -> list[dict[str, Any]]:
    """Results as if layers took exactly their times, a tenth less alone, and nothing crossed slowly."""
    assert profile
    times = dict(zip([f"{branch}.{layer}" for branch in "ab" for layer in range(5)], chain(*UNEQUAL), strict=True))
    (plan,) = plans
    stages, operators = [], {}
    for stage in plan.stages:
        unit = FORWARD.fixed + FORWARD.per_sample * stage.rhythm.micro_batch
        seconds = 0.0
        for name in plan.problem.graph.names(stage.operators & plan.problem.graph.placed):
            operators[name] = {"forward": 0.9 * times[name] * unit, "backward": 1.8 * times[name] * unit}
            seconds += times[name] * unit
        stages.append({"forward": {"measured": seconds}, "backward": {"measured": 2 * seconds}})
    longest = max(each["backward"]["measured"] * 1.5 for each in stages)
    passes = plan.problem.batch // plan.stages[0].rhythm.micro_batch
    steps = {"planned": makespan(plan), "measured": longest * passes}
    return [{"stages": stages, "step_seconds": steps, "bandwidth": None, "operators": operators}]


def test_the_second_plan_is_from_exact_times_and_so_is_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphpipe_again, "train", exact_runs)
    report = json.loads(json.dumps(measure(2, 3)))
    first, second, third = report["rounds"]
    assert first["stages"] != second["stages"] == third["stages"]
    assert report["gain"] == pytest.approx(first["measured"] / third["measured"])
    assert first["measured"] > 1.2 * second["measured"]
    assert second["measured"] == pytest.approx(third["measured"])
    assert second["simulated"] == pytest.approx(third["simulated"])
    for row in report["rounds"]:
        assert sorted(chain(*row["stages"])) == [f"{branch}.{layer}" for branch in "ab" for layer in range(5)]
        assert row["ratio"] == pytest.approx(row["measured"] / row["simulated"])


def test_table() -> None:
    row = {"stages": [["a.0", "a.1"], ["b.0"]], "micro_batch": 8, "simulated": 0.96, "measured": 1.5, "ratio": 1.5625}
    later = {"stages": [["a.0"], ["a.1", "b.0"]], "micro_batch": 4, "simulated": 1.2, "measured": 1.25, "ratio": 1.0417}
    assert again({"rounds": [row, later]}).splitlines()[2:] == [
        "| 1 | a0 a1; b0 | 8 | 960 | 1,500 | 1.56 | 1.00 |",
        "| 2 | a0; a1 b0 | 4 | 1,200 | 1,250 | 1.04 | 1.20 |",
    ]


@pytest.mark.slow
def test_plans_from_measured_times_are_faster_and_as_fast_as_simulated() -> None:
    torch.set_num_threads(1)
    report = measure(steps=3, rounds=3)
    first, second, third = report["rounds"]
    assert first["ratio"] > 1.3
    for each in (second, third):
        assert 0.9 < each["ratio"] < 1.15
        assert first["measured"] > 1.1 * each["measured"]
    assert second["measured"] == pytest.approx(third["measured"], rel=0.1)
