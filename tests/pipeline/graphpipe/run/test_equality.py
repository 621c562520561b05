"""Equality of pipelined runs and the unpipelined module: gradients, losses and ten steps, on two to four processes.

The error of a tensor is at most 1e-5 of its scale in float32, and 1e-12 in float64: about a hundred, and five thousand,
units of rounding.
"""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.pipeline.graphpipe.timeline import simulate_plan
from tests.pipeline.graphpipe.run.cases import CASES
from tests.pipeline.graphpipe.run.harness import compare
from tests.pipeline.graphpipe.run.layouts import FURTHER, NAMED, at_random, by_hand, planned
from tests.processes.pool import Pool

DTYPES = {"float32": torch.float32, "float64": torch.float64}
DETERMINISTIC = [name for name in CASES if name not in ("dropped", "normalised", "twins")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.sample(4)
def test_models(processes: Pool, name: str, world: int, dtype: str) -> None:
    plan = by_hand(name, NAMED[name][world], DTYPES[dtype])
    assert plan.devices == world
    compare(processes, plan, name, DTYPES[dtype], "adam" if dtype == "float32" else "sgd")


@pytest.mark.parametrize("kind", FURTHER)
@pytest.mark.sample(3)
def test_kinds_of_plans(processes: Pool, kind: str) -> None:
    name, layout = FURTHER[kind]
    compare(processes, by_hand(name, layout), name, torch.float64, "adam")


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", ["two-branch", "fan-out", "dlrm", "skip", "two-losses"])
@pytest.mark.sample(15)
def test_plans_of_the_planner(processes: Pool, name: str, world: int, replicas: int) -> None:
    for plan in planned(name, world, replicas):
        compare(processes, plan, name, torch.float64, "sgd")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.sample(90)
def test_random_plans(processes: Pool, name: str, world: int, seed: int) -> None:
    plan = at_random(name, world, seed)
    simulate_plan(plan)
    compare(processes, plan, name, torch.float64, "adam")
