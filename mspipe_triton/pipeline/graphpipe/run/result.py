"""Results of a pipelined run: what was planned, and beside it what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.timeline import Timeline


class Comparison(NamedTuple):
    """A quantity as the plan has it, and as the run measured it."""

    planned: float
    measured: float


@dataclass(frozen=True)
class StageResult:
    """One stage of a run.

    Args:
        name: the stage's.
        devices: its processes.
        forward: seconds of a forward pass over a micro-batch, the median over steps.
        backward: the same of a backward pass.
        memory: bytes per device, at most: parameters, gradients, optimiser state, and activations between passes.
        in_flight: micro-batches between their passes, at most.
    """

    name: str
    devices: tuple[int, ...]
    forward: Comparison
    backward: Comparison
    memory: Comparison
    in_flight: Comparison

    def to_json(self) -> dict[str, Any]:
        """Return the stage as JSON."""
        pairs = {name: getattr(self, name)._asdict() for name in ("forward", "backward", "memory", "in_flight")}
        return {"name": self.name, "devices": list(self.devices), **pairs}


@dataclass(frozen=True)
class RunResult:
    """A pipelined run.

    Args:
        plan: the plan that it carried out.
        steps: mini-batches that the model has been trained on, those before a resumption included.
        losses: of every mini-batch of this run, before its update.
        step_seconds: time of a mini-batch, from the start of the first pass to the end of the last one or of the sync;
            the median over steps.
        period: seconds per sample in steady state, as `Timeline.period`.
        stages: in the plan's order.
        timeline: the measured passes of a step of median time.
        bandwidth: bytes per second of the slowest link between stages; None if nothing crosses one.
        peak_rss: bytes of host memory of the largest process.
        seconds: wall time of all steps.
        operators: seconds of a forward and of a backward pass of each operator alone, by name, at its stage's share of
            a micro-batch; None if not measured, and without those of a stage whose operators cannot run alone.
    """

    plan: PipelinePlan
    steps: int
    losses: tuple[float, ...]
    step_seconds: Comparison
    period: Comparison
    stages: tuple[StageResult, ...]
    timeline: Timeline
    bandwidth: float | None
    peak_rss: int
    seconds: float
    operators: Mapping[str, tuple[float, float]] | None = None

    @property
    def samples_per_second(self) -> float:
        """Samples per second of a step of median time."""
        return self.plan.problem.batch / self.step_seconds.measured

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON; times are in seconds, memory is in bytes."""
        return {
            "model": self.plan.problem.graph.name,
            "batch": self.plan.problem.batch,
            "processes": self.plan.devices,
            "steps": self.steps,
            "losses": list(self.losses),
            "samples_per_second": self.samples_per_second,
            "step_seconds": self.step_seconds._asdict(),
            "period": self.period._asdict(),
            "stages": [each.to_json() for each in self.stages],
            "bandwidth": self.bandwidth,
            "peak_rss": self.peak_rss,
            "seconds": self.seconds,
            **({} if self.operators is None else {"operators": _passes(self.operators)}),
        }


def _passes(operators: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the times of operators as JSON."""
    return {name: {"forward": forward, "backward": backward} for name, (forward, backward) in operators.items()}
