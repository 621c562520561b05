"""A second simulation of plans: longest paths over an explicit graph of tasks, by relaxation until nothing changes."""

from __future__ import annotations

from itertools import pairwise

from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan

Task = tuple[str, int, int, int | None]  # kind, stage, micro-batch, other stage of a transfer


def crossing(plan: PipelinePlan, before: int, after: int) -> set[int]:
    """Operators in or before a stage whose outputs go from it to another."""
    graph = plan.problem.graph
    needs = {stage: sets(plan, stage) for stage in range(len(plan.stages))}
    users = {index: {user for source, user in graph.edges if source == index} for index in range(len(graph.operators))}
    if is_chain(plan):
        sources = {index for stage in range(before + 1) for index in needs[stage]}
        targets = {index for stage in range(after, len(plan.stages)) for index in needs[stage]}
        return {index for index in sources if users[index] & targets}
    return {index for index in needs[before] if users[index] & needs[after]}


def is_chain(plan: PipelinePlan) -> bool:
    return all(stage.after == ((number - 1,) if number else ()) for number, stage in enumerate(plan.stages))


def sets(plan: PipelinePlan, stage: int) -> set[int]:
    """Operators of a stage, without those that only join others."""
    graph = plan.problem.graph
    return {
        index
        for index in range(len(graph.operators))
        if plan.stages[stage].operators >> index & 1 and index not in graph.joins
    }


def oracle(plan: PipelinePlan) -> dict[Task, tuple[float, float]]:
    """Return the start and the end of every task that takes time, and of every pass."""
    problem, stages = plan.problem, plan.stages
    size = [stage.rhythm.micro_batch for stage in stages]
    times: dict[Task, float] = {}
    edges: list[tuple[Task, Task]] = []

    def covers(one: int, number: int, other: int) -> list[int]:
        """Micro-batches of another stage that share samples with one of a stage."""
        samples = range(number * size[one], (number + 1) * size[one])
        return sorted({sample // size[other] for sample in samples})

    for index, stage in enumerate(stages):
        total = problem.batch // size[index]
        forward, backward = problem.seconds(stage.operators, size[index], len(stage.devices))
        order: list[Task] = []
        runs = backs = 0
        while backs < total:
            count = min(stage.in_flight, total) if not runs else min(stage.rhythm.group, total - runs)
            order += [("forward", index, runs + each, None) for each in range(count)]
            runs += count
            count = min(stage.rhythm.group, total - backs)
            order += [("backward", index, backs + each, None) for each in range(count)]
            backs += count
        for task in order:
            times[task] = forward if task[0] == "forward" else backward
        if seconds := problem.sync(stage.operators, len(stage.devices)):
            order.append(("sync", index, 0, None))
            times[order[-1]] = seconds
        edges += pairwise(order)
    for index, stage in enumerate(stages):
        received: list[tuple[int, int, Task]] = []
        returned: list[Task] = []
        numbers = range(problem.batch // size[index])
        for before in stage.after:
            data = sum(problem.graph.operators[each].output for each in crossing(plan, before, index))
            seconds = data / problem.cluster.link(stages[before].devices, stage.devices)
            for number in range(problem.batch // size[before]):
                task: Task = ("outputs", index, number, before)
                if seconds:
                    times[task] = seconds * size[before]
                    received.append((number * size[before], before, task))
                    edges.append((("forward", before, number, None), task))
                for each in covers(before, number, index):
                    edges.append(
                        (task if seconds else ("forward", before, number, None), ("forward", index, each, None))
                    )
            for number in numbers:
                task = ("gradients", index, number, before)
                if seconds:
                    times[task] = seconds * size[index]
                    edges.append((("backward", index, number, None), task))
                for each in covers(index, number, before):
                    edges.append(
                        (task if seconds else ("backward", index, number, None), ("backward", before, each, None))
                    )
        edges += pairwise(task for *_, task in sorted(received, key=lambda each: each[:2]))
        returned = [("gradients", index, number, before) for number in numbers for before in stage.after]
        edges += pairwise(task for task in returned if task in times)
        group = {index, *stage.joins} if stage.joins else set()
        for one in group:
            for another in group - {one}:
                for number in range(problem.batch // size[one]):
                    for each in covers(one, number, another):
                        edges.append((("forward", another, each, None), ("backward", one, number, None)))
    starts = dict.fromkeys(times, 0.0)
    changed, sweeps = True, 0
    while changed:
        changed, sweeps = False, sweeps + 1
        assert sweeps <= len(times) + 1, "the tasks wait for one another"
        for first, then in edges:
            if (end := starts[first] + times[first]) > starts[then]:
                starts[then], changed = end, True
    return {task: (start, start + times[task]) for task, start in starts.items()}
