"""The study of pipelined runs that sleep: measured times beside simulated ones, and the speedup over the chain."""

from __future__ import annotations

import pytest

from bench.graphpipe_runs import run
from bench.studies.graphpipe_run import measure
from bench.studies.sleeping import FORWARD, graph
from mspipe_triton.pipeline.graphpipe.costs import total


def test_layers_cost_their_sleep() -> None:
    model = graph()
    costs = {each.name: (each.forward, each.backward) for each in model.operators}
    assert costs.pop(model.operators[model.joins[0]].name) == (total(), total())
    assert sorted(costs) == [f"{branch}.{layer}" for branch in "ab" for layer in range(4)]
    assert set(costs.values()) == {(FORWARD, total(FORWARD, times=2))}


@pytest.mark.slow
def test_runs_take_as_long_as_simulated() -> None:
    report = measure(steps=3, repeats=3)
    assert report["speedup"]["simulated"] > 1.2
    assert report["speedup"]["measured"] >= 1.1
    assert report["least_ratio"] > 0.99
    for facts in report["plans"].values():
        for kind in ("period", "step"):
            assert facts[kind]["ratio"] < 1.2, facts
    assert [line.split(" | ")[0] for line in run(report).splitlines()] == ["| plan", "| ---", "| DAG", "| chain"]
