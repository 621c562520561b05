"""The event loop that simulations share: tasks on resources, each of which runs its tasks strictly in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mspipe_triton.errors import GraphError

Number = TypeVar("Number", int, float)


def run_in_order(
    orders: Sequence[Sequence[int]],
    waits: Sequence[Sequence[int]],
    times: Sequence[Number],
    name: Callable[[int], str] = "task {}".format,
) -> tuple[list[Number], list[Number]]:
    """Run tasks from time 0: each starts as soon as it is its turn on its resource and all that it waits for has ended.

    Args:
        orders: of each resource, its tasks in the order in which it runs them. Tasks are the numbers from 0 on; each
            is on one resource.
        waits: of each task, the tasks that must end before it starts, without the order of its resource.
        times: duration of each task; at least one. Integers stay exact.
        name: of a task, for messages.

    Returns:
        The start and the end of each task.

    Raises:
        GraphError: some tasks can never start, because they wait for one another.
    """
    starts: list[Number] = [times[0] * 0] * len(times)
    ends: list[Number | None] = [None] * len(times)
    turns, free = [0] * len(orders), starts[:1] * len(orders)
    sleepers: dict[int, list[int]] = {}  # resources by the task that they wait for
    awake = list(range(len(orders)))
    while awake:
        resource = awake.pop()
        order, moment = orders[resource], free[resource]
        for turn in range(turns[resource], len(order)):
            task = order[turn]
            for wait in waits[task]:
                end = ends[wait]
                if end is None:
                    sleepers.setdefault(wait, []).append(resource)
                    turns[resource] = turn
                    break
                if end > moment:
                    moment = end
            else:
                starts[task] = moment
                ends[task] = moment = moment + times[task]
                if task in sleepers:
                    awake += sleepers.pop(task)
                continue
            break
        free[resource] = moment
    result = [end for end in ends if end is not None]
    if sleepers:
        awaited, resources = next(iter(sleepers.items()))
        task = orders[resources[0]][turns[resources[0]]]
        raise GraphError(f"no stage can start after {len(result)} stages: {name(task)} waits for {name(awaited)}")
    return starts, result
