"""Record of a run: what every process reports, and the result that follows from all reports."""

from __future__ import annotations

import resource
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, median_low

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.run.result import Comparison, RunResult, StageResult
from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer, StepReport
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan, Timeline, simulate_plan
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD

STEPS = 64


@dataclass
class Record:
    """Report of a process at the end of a run.

    Args:
        device: the process.
        spans: passes of the last `STEPS` mini-batches, without the first one of the run if there are more.
        in_flight: micro-batches between their passes, at most.
        memory: bytes of parameters, gradients, optimiser state, and activations between passes, at most; on a GPU, all
            that torch allocated.
        peak_rss: bytes of host memory.
        operators: seconds of a forward and of a backward pass of the stage's operators, by name; None if not measured.
    """

    device: int
    spans: deque[tuple[PlanSpan, ...]] = field(default_factory=lambda: deque(maxlen=STEPS))
    in_flight: int = 0
    memory: int = 0
    peak_rss: int = 0
    operators: dict[str, tuple[float, float]] | None = None

    def add(self, report: StepReport, trainer: StageTrainer, first: bool, last: bool) -> None:
        """Add a mini-batch.

        Args:
            report: of the trainer.
            trainer: the trainer.
            first: it is the first one of the run, which also warms up.
            last: it is the last one.
        """
        if not first or last:
            self.spans.append(report.spans)
        self.in_flight = max(self.in_flight, report.in_flight)
        if first:
            self.memory = _state_bytes(trainer) + report.activations
        if last:
            if trainer.device.type == "cuda":
                self.memory = torch.cuda.max_memory_allocated(trainer.device)
            unit = 1 if sys.platform == "darwin" else 1024
            self.peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _state_bytes(trainer: StageTrainer) -> int:
    """Return the bytes of a stage's parameters, gradients, buffers and optimiser state."""
    state = trainer.optimizer.state if trainer.optimizer is not None else {}
    moments = [each for each in tree_leaves([dict(one) for one in state.values()]) if isinstance(each, Tensor)]
    unique = {id(each): each for each in trainer.state.values()}.values()
    trained = [each for each in unique if isinstance(each, nn.Parameter)]
    return sum(each.nbytes for each in (*unique, *trained, *moments))


def summarise(
    plan: PipelinePlan,
    records: Sequence[Record],
    losses: Sequence[float],
    steps: int,
    bandwidth: float | None,
    seconds: float,
) -> RunResult:
    """Build the result of a run.

    Args:
        plan: the plan.
        records: of all processes.
        losses: of all mini-batches.
        steps: that the model has been trained on in all.
        bandwidth: of the slowest link, in bytes per second.
        seconds: wall time of all steps.
    """
    timelines = [
        _timeline(plan, [span for each in spans for span in each])
        for spans in zip(*(record.spans for record in records), strict=True)
    ]
    simulated = simulate_plan(plan)
    typical = median_low(each.makespan for each in timelines)
    by_device = {record.device: record for record in records}
    results = []
    for index, stage in enumerate(plan.stages):
        planned = plan.problem.seconds(stage.operators, stage.rhythm.micro_batch, len(stage.devices))
        passes = [
            median(
                span.end - span.start
                for each in timelines
                for span in each.spans
                if span.stage == index and span.kind == kind
            )
            for kind in (FORWARD, BACKWARD)
        ]
        results.append(
            StageResult(
                stage.name,
                stage.devices,
                Comparison(planned[0], passes[0]),
                Comparison(planned[1], passes[1]),
                Comparison(plan.memory(stage), max(by_device[device].memory for device in stage.devices)),
                Comparison(stage.in_flight, max(by_device[device].in_flight for device in stage.devices)),
            )
        )
    return RunResult(
        plan,
        steps,
        tuple(losses),
        Comparison(simulated.makespan, median(each.makespan for each in timelines)),
        Comparison(simulated.period, median(each.period for each in timelines)),
        tuple(results),
        next(each for each in timelines if each.makespan == typical),
        bandwidth,
        max(record.peak_rss for record in records),
        seconds,
        _operators(records),
    )


def _operators(records: Sequence[Record]) -> dict[str, tuple[float, float]] | None:
    """Return the times of all operators, medians over the processes of a stage; None if not measured."""
    times: dict[str, list[tuple[float, float]]] = {}
    measured = [record.operators for record in records if record.operators is not None]
    for name, each in (pair for operators in measured for pair in operators.items()):
        times.setdefault(name, []).append(each)
    medians = {name: tuple(map(median, zip(*each, strict=True))) for name, each in times.items()}
    return {name: (forward, backward) for name, (forward, backward) in medians.items()} if measured else None


def _timeline(plan: PipelinePlan, spans: Sequence[PlanSpan]) -> Timeline:
    """Return the passes of a mini-batch as a timeline that begins at 0."""
    zero = min(span.start for span in spans)
    moved = [span._replace(start=span.start - zero, end=span.end - zero) for span in spans]
    moved.sort(key=lambda span: (span.stage, span.device or 0, span.start))
    return Timeline(plan, max(span.end for span in moved), tuple(moved))
