"""Pipelined runs of small modules in a pool of processes, and their comparison with the unpipelined module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mspipe_triton.pipeline.graphpipe.capture.load import Model
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace, trace
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan
from mspipe_triton.pipeline.graphpipe.work import FORWARD
from tests.pipeline.graphpipe.run.cases import BATCH, batches, build
from tests.pipeline.graphpipe.run.oracle import OPTIMIZERS, STEPS, Outcome, differences, expected
from tests.processes.pool import Pool

CLOCK = 1e-3  # seconds by which the clocks of two processes may differ
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


class Process(NamedTuple):
    """Result of a process of a run.

    Args:
        stage: index of its stage.
        parameters: names of those that it trains.
        gradients: of the first mini-batch, by name.
        losses: its shares of the losses of all steps.
        state: the entries of the module's `state_dict` that its stage uses, after all steps.
        rest: those that no stage uses.
        in_flight: micro-batches between their passes, at most.
        spans: its passes in the last step.
    """

    stage: int
    parameters: list[str]
    gradients: dict[str, Tensor]
    losses: list[float]
    state: dict[str, Tensor]
    rest: dict[str, Tensor]
    in_flight: int
    spans: tuple[PlanSpan, ...]


def train(plan: PipelinePlan, name: str, dtype: torch.dtype, optimizer: str, seed: int = 0) -> Process:
    """Train a stage in this process, on the gradients of the first mini-batch and then ten others."""
    first, *others = batches(name, dtype, 1 + STEPS)
    trainer = trainer_of(plan, name, dtype, optimizer, seed)
    assert dist.get_rank() in trainer.stage.devices
    gradients = {key: value.clone() for key, value in trainer.gradients(first, {}).items()}
    with torch.no_grad():  # passes change buffers, such as the statistics of batch norm
        for key, value in build(name, dtype).state_dict().items():
            if key in trainer.state:
                trainer.state[key].copy_(value)
    reports = [trainer.step(inputs, {}) for inputs in others]
    assert trainer.steps == STEPS
    losses, in_flight = [each.loss for each in reports], max(each.in_flight for each in reports)
    state = {key: value.detach().clone() for key, value in trainer.state.items()}
    return Process(
        trainer.index, list(trainer.parameters), gradients, losses, state, trainer.rest, in_flight, reports[-1].spans
    )


def trainer_of(plan: PipelinePlan, name: str, dtype: torch.dtype, optimizer: str, seed: int = 0) -> StageTrainer:
    """Return the trainer of this process, with the weights that the module always starts with."""
    (first,) = batches(name, dtype, 1)
    module = _module(name, dtype)
    module.load_state_dict(build(name, dtype).state_dict())
    with patch("mspipe_triton.pipeline.graphpipe.run.program.trace", _trace):
        return StageTrainer(plan, Model(module, tuple(each[:4] for each in first), {}), OPTIMIZERS[optimizer], seed)


@cache
def _module(name: str, dtype: torch.dtype) -> nn.Module:
    return build(name, dtype)


def _trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int) -> Trace:
    """Trace a module once per process and batch, since that takes most of a case's time."""
    if (module, batch) not in _traces:
        _traces[module, batch] = trace(module, args, kwargs, batch)
    return _traces[module, batch]


_traces: dict[tuple[nn.Module, int], Trace] = {}


def compare(
    processes: Pool, plan: PipelinePlan, name: str, dtype: torch.dtype, optimizer: str, micro_batch: int = BATCH
) -> None:
    """Check that a plan trains a module as the plain loop does.

    Args:
        processes: where it runs.
        plan: the plan.
        name: of the module.
        dtype: of its weights and inputs.
        optimizer: of `OPTIMIZERS`.
        micro_batch: samples of a pass of the plain loop.
    """
    results = processes(plan.devices, train, plan, name, dtype, optimizer)
    actual, reference = joined(plan, results), expected(name, dtype, optimizer, micro_batch)
    for quantity in ("gradients", "losses", "state"):
        errors = differences(getattr(actual, quantity), getattr(reference, quantity))
        wrong = {key: error for key, error in errors.items() if not error <= TOLERANCE[dtype]}
        assert not wrong, (quantity, wrong)
    for each in results:
        assert each.in_flight <= plan.stages[each.stage].in_flight
    check_order(plan, results)


def joined(plan: PipelinePlan, results: list[Process]) -> Outcome:
    """Return the outcome of all processes; those of a stage must agree to the bit, and no two stages train the same."""
    gradients: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    trained: dict[str, int] = {}
    for each in results:
        first = results[plan.stages[each.stage].devices[0]]
        assert equal(each.gradients, first.gradients)
        assert equal(each.state, first.state)
        assert equal(each.rest, results[0].rest)
        assert all(trained.setdefault(key, each.stage) == each.stage for key in each.parameters)
        assert each.gradients.keys() <= {*each.parameters}
        gradients |= each.gradients
        for key, value in each.state.items():
            state[key] = value if key in each.parameters else state.get(key, value)
    losses = [
        torch.tensor(sum(step), dtype=torch.float64) for step in zip(*(each.losses for each in results), strict=True)
    ]
    return Outcome(gradients, dict(zip(map(str, range(STEPS)), losses, strict=True)), state | results[0].rest)


def check_order(plan: PipelinePlan, results: list[Process]) -> None:
    """Check that no forward pass begins before those of the stages before it, over any of its samples, have begun.

    Stages on several devices are left out, whose passes have different samples.
    """
    starts = {
        (span.stage, span.device, span.micro_batch): span.start
        for each in results
        for span in each.spans
        if span.kind == FORWARD
    }
    for (index, _, number), start in starts.items():
        size = plan.stages[index].rhythm.micro_batch
        for each in plan.stages[index].after:
            before = plan.stages[each]
            if len(before.devices) > 1 or len(plan.stages[index].devices) > 1:
                continue
            first, last = (sample // before.rhythm.micro_batch for sample in (number * size, (number + 1) * size - 1))
            assert start > max(starts[each, before.devices[0], one] for one in range(first, last + 1)) - CLOCK


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return True if two sets of tensors have the same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
