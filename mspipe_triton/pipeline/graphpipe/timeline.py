"""Simulation of a plan: the passes, transfers and all-reduces of one mini-batch, on the event loop of all pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import fsum
from typing import NamedTuple

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graph import Dependency, Stage, StageGraph
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD, Tasks


class PlanSpan(NamedTuple):
    """A task of a mini-batch.

    Args:
        stage: index of the stage whose devices or link it occupies.
        kind: `FORWARD` or `BACKWARD` pass, `SYNC` of the gradients of its parameters, or a transfer: `OUTPUTS` from
            the stage `other`, `GRADIENTS` to it.
        micro_batch: number of the pass that it is or that sends it; 0 for `SYNC`.
        start: in seconds.
        end: in seconds.
        other: index of the other stage of a transfer.
        device: the device of a measured pass; None in simulations, where all devices of a stage do the same.
    """

    stage: int
    kind: str
    micro_batch: int
    start: float
    end: float
    other: int | None = None
    device: int | None = None


@dataclass(frozen=True)
class Timeline:
    """One mini-batch under a plan, simulated or measured, from time 0. A measured one has passes and sync by device.

    Args:
        plan: the plan.
        makespan: seconds from the start of the first task to the end of the last one.
        spans: all tasks that take place, by stage, in the order in which its devices and then its links run them.
            A measured timeline has no transfers.
    """

    plan: PipelinePlan
    makespan: float
    spans: tuple[PlanSpan, ...]

    @property
    def time_per_sample(self) -> float:
        """Seconds per sample."""
        return self.makespan / self.plan.problem.batch

    @cached_property
    def period(self) -> float:
        """Seconds per sample in steady state, of the slowest device.

        It is measured from the end of the device's first backward pass to the end of its last one. A stage with one
        pass per mini-batch has no steady state, and counts with the whole makespan.
        """
        ends: dict[tuple[int, int | None], list[float]] = {}
        for span in self.spans:
            if span.kind == BACKWARD:
                ends.setdefault((span.stage, span.device), []).append(span.end)
        result = 0.0
        for (stage, _), each in ends.items():
            micro_batch = self.plan.stages[stage].rhythm.micro_batch
            steady = (max(each) - min(each)) / (len(each) - 1) if len(each) > 1 else self.makespan
            result = max(result, steady / micro_batch)
        return result

    @cached_property
    def passes(self) -> dict[int, tuple[PlanSpan, ...]]:
        """Passes and sync of each device of the plan, by device. All devices of a stage run its simulated passes."""
        rows: dict[int, list[PlanSpan]] = {device: [] for stage in self.plan.stages for device in stage.devices}
        for span in self.spans:
            if span.other is None:
                for device in self.plan.stages[span.stage].devices if span.device is None else (span.device,):
                    rows[device].append(span)
        return {device: tuple(row) for device, row in rows.items()}

    @cached_property
    def busy(self) -> dict[int, float]:
        """Seconds that each device of the plan works, by device: passes and sync, without transfers beside them."""
        return {device: fsum(span.end - span.start for span in row) for device, row in self.passes.items()}

    @property
    def bubble(self) -> dict[int, float]:
        """Share of the makespan that each device of the plan is idle, 0 to 1, by device."""
        return {
            device: max(0.0, 1 - seconds / self.makespan) if self.makespan else 0.0
            for device, seconds in self.busy.items()
        }

    @cached_property
    def memory(self) -> dict[int, float]:
        """Most bytes that each device of the plan needs at a time, by device.

        That is its state, and the activations of the micro-batches whose forward pass has started and whose backward
        pass has not ended. Sizes are those of the problem, in measured timelines too.
        """
        result: dict[int, float] = {}
        for stage in self.plan.stages:
            for device in stage.devices:
                row = self.passes[device]
                changes = [(span.start, 1) for span in row if span.kind == FORWARD]
                changes += [(span.end, -1) for span in row if span.kind == BACKWARD]
                most = max(accumulate(change for _, change in sorted(changes)), default=0)
                result[device] = self.plan.problem.memory(
                    stage.operators, stage.rhythm.micro_batch, len(stage.devices), most
                )
        return result


def makespan(plan: PipelinePlan) -> float:
    """Return the makespan of `simulate_plan`, in seconds, in less time.

    Raises:
        GraphError: some passes can never start.
    """
    return max(Tasks(plan).run()[1])


def simulate_plan(plan: PipelinePlan) -> Timeline:
    """Simulate one synchronous iteration over a mini-batch.

    * All devices of a stage run its passes in the order of its schedule, and then `Problem.sync`.
    * A forward pass waits for those forward passes of the stages before it that cover its samples; a backward pass for
      those backward passes of the stages that receive its output. Micro-batches of stages may differ in size.
    * What a micro-batch sends is a transfer of its own. The outputs that a stage receives follow one another on a link,
      by their first sample; so do the gradients that it sends back, in the other direction. Links run beside the
      devices.
    * Data that a stage uses, and that none of the stages right before it computes (in chains), pass through those
      between; each stage receives them once.
    * Costless operators (`OperatorGraph.joins`) receive no transfers. The backward passes of all stages that one joins
      wait for their forward passes over the same samples.

    Raises:
        GraphError: some passes can never start.
    """
    tasks = Tasks(plan)
    starts, ends = tasks.run()
    spans = [
        PlanSpan(row.stage, row.kind, number, starts[row.first + number], ends[row.first + number], row.other)
        for row in tasks.rows
        for number in range(row.count)
    ]
    return Timeline(
        plan, max(ends), tuple(sorted(spans, key=lambda one: (one.stage, one.other is not None, one.start)))
    )


def stage_graph(plan: PipelinePlan) -> StageGraph:
    """Build the steady state of 1F1B as a stage graph, whose iteration is a micro-batch.

    A resource is a stage of the plan, with the devices that it has; iteration i runs the forward pass "F stage" of
    micro-batch i, and then the backward pass "B stage" of micro-batch i − (w − 1), if the stage holds w of them. So a
    backward pass comes w − v iterations after that of a following stage that holds v, and w − 1 after the forward
    passes with which it joins. The sync, once per mini-batch, is no part of it.

    Raises:
        GraphError: the stages differ in their micro-batch, a group is larger than 1, a transfer takes time, or a pass
            takes none.
    """
    rhythms = {stage.rhythm for stage in plan.stages}
    if len(rhythms) > 1 or any(rhythm.group > 1 for rhythm in rhythms):
        names = ", ".join(f"{each.micro_batch} × {each.group}" for each in sorted(rhythms, key=lambda each: each.unit))
        raise GraphError(f"a stage graph needs one micro-batch and group 1 for all stages, not {names}")
    tasks = Tasks(plan)
    for row in tasks.rows:
        if row.other is not None:
            link = f"from {plan.stages[row.other].name} to {plan.stages[row.stage].name}"
            raise GraphError(f"a stage graph has no transfers, but that {link} takes {row.seconds:g} seconds")
    stages, dependencies = [], []
    for index, stage in enumerate(plan.stages):
        forward, backward = plan.problem.seconds(stage.operators, stage.rhythm.micro_batch, len(stage.devices))
        stages.append(Stage(f"F {stage.name}", stage.name, forward))
        stages.append(Stage(f"B {stage.name}", stage.name, backward))
        for each in stage.after:
            before = plan.stages[each]
            dependencies.append(Dependency(f"F {before.name}", f"F {stage.name}"))
            distance = before.in_flight - stage.in_flight
            dependencies.append(Dependency(f"B {stage.name}", f"B {before.name}", distance))
        for each in tasks.together[index]:
            dependencies.append(Dependency(f"F {plan.stages[each].name}", f"B {stage.name}", stage.in_flight - 1))
    return StageGraph(tuple(stages), tuple(dependencies))
