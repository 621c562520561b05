"""Memory of a pipelined run: what a process holds between passes, beside what the plan says."""

from __future__ import annotations

import pytest
import torch

from tests.pipeline.graphpipe.run.layouts import NAMED, by_hand
from tests.pipeline.graphpipe.run.memory import held, planned_activations
from tests.processes.pool import Pool

DTYPE = torch.float64


@pytest.mark.parametrize(("name", "world"), [("mmt", 4), ("two-branch", 3), ("diamond", 4)])
@pytest.mark.sample(3)
def test_activations_are_freed_as_planned(processes: Pool, name: str, world: int) -> None:
    """A run counts a tensor once that two operators of a stage save, and the plan counts it twice.

    A number that a loss saves per pass is spread over the samples of a larger one in the plan.
    """
    plan = by_hand(name, NAMED[name][world], DTYPE)
    for index, in_flight, activations in processes(plan.devices, held, plan, name, DTYPE):
        stage = plan.stages[index]
        assert in_flight == stage.in_flight
        planned = planned_activations(plan, stage)
        assert 0.7 * planned <= activations <= planned + 8 * in_flight
