"""Work of a process in a pipelined run: it trains its stage on the mini-batches, and saves it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from mspipe_triton.errors import ConfigError, GraphError, PipelineError
from mspipe_triton.pipeline.graphpipe.capture.load import load_model
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.run.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.pipeline.graphpipe.run.data import load_data
from mspipe_triton.pipeline.graphpipe.run.links import bandwidth
from mspipe_triton.pipeline.graphpipe.run.optimizers import load_optimizer
from mspipe_triton.pipeline.graphpipe.run.record import Record, summarise
from mspipe_triton.pipeline.graphpipe.run.result import RunResult
from mspipe_triton.pipeline.graphpipe.run.settings import RunSettings
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer


def work(
    plan: PipelinePlan,
    model: str,
    data: str,
    settings: RunSettings,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    profile: bool = False,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> RunResult | None:
    """Train the stage of this process; all processes of `torch.distributed` call this at the same time.

    Args:
        plan: the plan, which has a device per process.
        model: names a callable that returns the module and example inputs.
        data: names a callable that returns mini-batches.
        settings: of the run.
        device: of this process.
        checkpoint: folder of the checkpoints; None for none.
        resume: go on from the checkpoint there.
        profile: also measure the operators one by one, after the training.
        progress: is told the number of each mini-batch, from 1, and its loss, in process 0.

    Returns:
        The result in process 0, None in the others.

    Raises:
        InputError: the plan, the model, the data, the optimiser or the checkpoint do not fit.
        PipelineError: the loss is not finite.
    """
    _seed(settings.seed)
    trainer = StageTrainer(
        plan, load_model(model), load_optimizer(settings.optimizer, settings.lr), settings.seed, device
    )
    torch.manual_seed(settings.seed)
    source = load_data(data, settings.seed)
    if checkpoint is not None and resume:
        load_checkpoint(checkpoint, trainer)
        source.skip(trainer.steps)
    first, start = trainer.steps, time.perf_counter()
    record, losses = Record(dist.get_rank()), []
    while trainer.steps < settings.steps:
        batch = source.next(plan.problem.batch)
        beginning = trainer.steps == first
        report = trainer.step(batch.args, batch.kwargs, measured=beginning)
        losses.append(_total(report.loss, batch.checksum, trainer.steps))
        record.add(report, trainer, beginning, trainer.steps == settings.steps)
        if dist.get_rank() == 0:
            progress(trainer.steps, losses[-1])
        due = settings.every and trainer.steps % settings.every == 0
        if checkpoint is not None and (due or trainer.steps == settings.steps):
            save_checkpoint(checkpoint, trainer)
    seconds = time.perf_counter() - start
    speed = bandwidth(trainer)
    if profile:
        record.operators = _operators(trainer)
    records: list[Record | None] | None = [None] * plan.devices if dist.get_rank() == 0 else None
    dist.gather_object(record, records)
    if records is None:
        return None
    return summarise(plan, [each for each in records if each is not None], losses, trainer.steps, speed, seconds)


def _seed(seed: int) -> None:
    """Seed all generators that a user's callable may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _operators(trainer: StageTrainer) -> dict[str, tuple[float, float]]:
    """Return the times of the operators of a stage, or none if one of them cannot run on made-up values."""
    try:
        return trainer.operator_seconds()
    except GraphError:
        return {}


def _total(loss: float, checksum: int, step: int) -> float:
    """Return the loss of a mini-batch, the sum over all processes.

    Raises:
        ConfigError: the processes have different mini-batches.
        PipelineError: the loss is not finite.
    """
    mine = torch.tensor([loss, checksum], dtype=torch.float64)
    all_of_them = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(all_of_them, mine)
    for process, each in enumerate(all_of_them):
        if each[1] != all_of_them[0][1]:
            raise ConfigError(
                f"mini-batch {step} differs between processes 0 and {process}; --data must return the same in every "
                "process, so seed its random numbers"
            )
    total = sum(each[0].item() for each in all_of_them)
    if not isfinite(total):
        raise PipelineError(f"the loss of mini-batch {step} is {total}; use a smaller --lr, or check the data")
    return total
