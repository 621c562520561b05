"""The work of a plan: passes, transfers and all-reduces of one mini-batch as tasks of the shared event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.schedule import passes
from mspipe_triton.pipeline.tasks import run_in_order

FORWARD, BACKWARD, SYNC, OUTPUTS, GRADIENTS = "forward", "backward", "sync", "outputs", "gradients"


def carried(plan: PipelinePlan) -> dict[tuple[int, int], int]:
    """Return the operators whose outputs cross each edge of a plan, by indices of the sending and receiving stage."""
    graph = plan.problem.graph
    above: list[int] = []  # of each stage, the operators of all stages before it
    for stage in plan.stages:
        above.append(0)
        for each in stage.after:
            above[-1] |= above[each] | plan.stages[each].operators
    result: dict[tuple[int, int], int] = {}
    through = [0] * len(plan.stages)
    for index in reversed(range(len(plan.stages))):
        stage = plan.stages[index]
        uses = through[index]
        for operator in members(stage.operators & graph.placed):
            uses |= graph.predecessors[operator]
        uses &= ~stage.operators
        for each in stage.after:
            result[each, index] = uses & plan.stages[each].operators
            uses &= ~plan.stages[each].operators
        for each in reversed(stage.after):
            result[each, index] |= uses & above[each]
            through[each] |= uses & above[each]
            uses &= ~above[each]
    return result


@dataclass(frozen=True)
class Row:
    """Tasks of one kind, one for each micro-batch.

    Args:
        kind: `FORWARD`, `BACKWARD`, `SYNC`, `OUTPUTS` or `GRADIENTS`.
        stage: index of the stage whose devices or link they occupy.
        other: index of the stage at the other end of the link.
        first: number of the first task; those of the next micro-batches follow.
        count: the number of tasks.
        seconds: of each.
    """

    kind: str
    stage: int
    other: int | None
    first: int
    count: int
    seconds: float


class Tasks:
    """All tasks of a mini-batch under a plan, as `simulate_plan` describes them.

    Attributes:
        rows: the tasks; what takes no time is left out, but for passes.
        together: of each stage, the others whose forward passes its backward passes wait for.
    """

    def __init__(self, plan: PipelinePlan) -> None:
        self.rows: list[Row] = []
        self.together = [set[int]() for _ in plan.stages]
        self._plan, self._size = plan, 0
        self._forward: list[Row] = []
        self._backward: list[Row] = []
        self._transfers: dict[tuple[str, int, int], Row] = {}
        problem = plan.problem
        for index, stage in enumerate(plan.stages):
            joined = {index, *stage.joins} if stage.joins else set()
            for each in joined:
                self.together[each] |= joined - {each}
            count = problem.batch // stage.rhythm.micro_batch
            seconds = problem.seconds(stage.operators, stage.rhythm.micro_batch, len(stage.devices))
            self._forward.append(self._add(FORWARD, index, None, count, seconds[0]))
            self._backward.append(self._add(BACKWARD, index, None, count, seconds[1]))
        for index, stage in enumerate(plan.stages):
            if sync := problem.sync(stage.operators, len(stage.devices)):
                self._add(SYNC, index, None, 1, sync)
        for (before, index), operators in carried(plan).items():
            size = sum(problem.graph.operators[each].output for each in members(operators))
            link = problem.cluster.link(plan.stages[before].devices, plan.stages[index].devices)
            if size / link:
                for kind, sender in ((OUTPUTS, self._forward[before]), (GRADIENTS, self._backward[index])):
                    seconds_each = size * (problem.batch // sender.count) / link
                    row = self._add(kind, index, before, sender.count, seconds_each)
                    self._transfers[kind, before, index] = row

    def run(self) -> tuple[list[float], list[float]]:
        """Return the start and the end of each task.

        Raises:
            GraphError: some tasks can never start.
        """
        times = list(chain.from_iterable([row.seconds] * row.count for row in self.rows))
        return run_in_order(list(self._orders()), self._waits(), times, self._name)

    def _add(self, kind: str, stage: int, other: int | None, count: int, seconds: float) -> Row:
        row = Row(kind, stage, other, self._size, count, seconds)
        self.rows.append(row)
        self._size += count
        return row

    def _orders(self) -> Iterator[list[int]]:
        """Yield the tasks of the devices of every stage, and those of every link in each direction.

        A link is strict about its order, so outputs come by their first sample: all that come before one that a pass
        needs are then needed by that pass too.
        """
        batch = self._plan.problem.batch
        syncs = {row.stage: [row.first] for row in self.rows if row.kind == SYNC}
        for index, stage in enumerate(self._plan.stages):
            first = (self._backward[index].first, self._forward[index].first)
            order = passes(stage.rhythm, stage.in_flight * stage.rhythm.micro_batch, batch)
            yield [first[forward] + number for forward, number in order] + syncs.get(index, [])
            for kind in (OUTPUTS, GRADIENTS):
                links = [row for row in self._transfers.values() if (row.kind, row.stage) == (kind, index)]
                by_sample = [
                    (number * (batch // row.count), row.first + number) for row in links for number in range(row.count)
                ]
                yield [task for _, task in sorted(by_sample)]

    def _waits(self) -> list[tuple[int, ...]]:
        """Return what each task waits for."""
        waits: list[tuple[int, ...]] = [()] * self._size
        transfers = self._transfers
        for index, stage in enumerate(self._plan.stages):
            forward, backward = self._forward[index], self._backward[index]
            before = [transfers.get((OUTPUTS, each, index), self._forward[each]) for each in stage.after]
            after = [
                transfers.get((GRADIENTS, index, each), self._backward[each]) for each in self._plan.followers[index]
            ]
            after += [self._forward[each] for each in self.together[index]]
            for row, rows in ((forward, before), (backward, after)):
                if rows:
                    columns = [_last_tasks(each, row.count) for each in rows]
                    waits[row.first : row.first + row.count] = zip(*columns, strict=True)
        for (kind, before_index, index), row in transfers.items():
            sender = self._forward[before_index] if kind == OUTPUTS else self._backward[index]
            waits[row.first : row.first + row.count] = zip(_last_tasks(sender, row.count))
        return waits

    def _name(self, task: int) -> str:
        row = next(row for row in self.rows if row.first <= task < row.first + row.count)
        return f"{row.kind} {task - row.first} of {self._plan.stages[row.stage].name}"


def _last_tasks(row: Row, count: int) -> Sequence[int]:
    """Return, for each of `count` micro-batches, the task of the last one in a row that has samples of it.

    The tasks of a row end in order, so the last one stands for all.
    """
    if row.count == count:
        return range(row.first, row.first + count)
    return [row.first - 1 - (-number * row.count // count) for number in range(1, count + 1)]
