"""Waits between stages of a chain of which neither uses results of the other: one process starts late."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist

from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD
from tests.pipeline.graphpipe.run.cases import batches
from tests.pipeline.graphpipe.run.harness import CLOCK, trainer_of
from tests.pipeline.graphpipe.run.layouts import Layout, Share, by_hand
from tests.processes.pool import Pool

DELAY = 0.2


def start_late(plan: PipelinePlan, rank: int) -> tuple[PlanSpan, ...]:
    """Train on a mini-batch, in one process some time after the other, and return the passes."""
    trainer = trainer_of(plan, "two-losses", torch.float64, "sgd")
    (inputs,) = batches("two-losses", torch.float64, 1)
    dist.barrier()
    if dist.get_rank() == rank:
        time.sleep(DELAY)
    return trainer.step(inputs, {}).spans


@pytest.mark.parametrize("late", [0, 1])
def test_chains_wait_where_nothing_crosses(processes: Pool, late: int) -> None:
    plan = by_hand("two-losses", Layout((Share("a", 1, 4), Share("b", 1, 4)), chain=True))
    one, other = processes(2, start_late, plan, late)
    first, second = (
        [[span.start for span in spans if span.kind == kind] for kind in (FORWARD, BACKWARD)] for spans in (one, other)
    )
    if late == 0:
        assert first[0][0] < second[0][0] + CLOCK
    else:
        assert second[1][0] < first[1][0] + CLOCK
