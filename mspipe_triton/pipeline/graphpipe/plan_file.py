"""Plans as JSON files: the problem and the stages, and the plan that is built from them again."""

from __future__ import annotations

from math import inf, isinf
from pathlib import Path
from typing import Any

from mspipe_triton.errors import ConfigError, GraphError, InputError
from mspipe_triton.pipeline.graphpipe.json_value import JsonValue, read_json
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

FIX = "plan again with `mspipe-triton graphpipe --json`"
INFINITE = "infinite"  # JSON has no number for it


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem as JSON, without its model's name and its mini-batch; times are in seconds, sizes in bytes."""
    cluster = problem.cluster
    return {
        "operators": [
            {
                "name": each.name,
                "forward": duration_json(each.forward),
                "backward": duration_json(each.backward),
                "parameters": each.parameters,
                "activations": each.activations,
                "output": each.output,
            }
            for each in problem.graph.operators
        ],
        "edges": [list(edge) for edge in problem.graph.edges],
        "cluster": {
            "devices": cluster.devices,
            "memory": size_json(cluster.memory),
            "bandwidth": size_json(cluster.bandwidth),
            "node": cluster.node,
            "between": None if cluster.between is None else size_json(cluster.between),
        },
        "copies": problem.copies,
        "replicas": problem.replicas,
    }


def stages_json(plan: PipelinePlan) -> list[dict[str, Any]]:
    """Return the stages of a plan as JSON; memory is in bytes per device."""
    names = [stage.name for stage in plan.stages]
    return [
        {
            "name": stage.name,
            "operators": list(plan.problem.graph.names(stage.operators)),
            "devices": list(stage.devices),
            "micro_batch": stage.rhythm.micro_batch,
            "group": stage.rhythm.group,
            "after": [names[each] for each in stage.after],
            "joins": [names[each] for each in stage.joins],
            "memory": plan.memory(stage),
        }
        for stage in plan.stages
    ]


def in_flight_json(plan: PipelinePlan) -> dict[str, int]:
    """Return the micro-batches that every stage holds, by its name."""
    return {stage.name: stage.in_flight for stage in plan.stages}


def duration_json(duration: Duration) -> list[float]:
    """Return a duration as its two numbers, in seconds."""
    return [duration.fixed, duration.per_sample]


def read_duration(value: JsonValue) -> Duration:
    """Read what `duration_json` wrote.

    Raises:
        InputError: the value is no list of two numbers of at least 0.
    """
    return Duration(*(each.number() for each in value.items(2)))


def size_json(size: float) -> float | str:
    """Return bytes, or bytes per second, as a JSON value that may be `INFINITE`."""
    return INFINITE if isinf(size) else size


def read_plan(path: Path, sequential: bool = False) -> PipelinePlan:
    """Read a plan from the JSON of `mspipe-triton graphpipe --json`.

    Args:
        path: the file.
        sequential: read the best chain of stages in place of the plan whose stages form a DAG.

    Raises:
        InputError: the file cannot be read, holds something else or no chain, or its plan does not fit together.
    """
    file = read_json(path, "a plan", FIX)
    if "problem" not in file.members():
        raise file.error('has no "problem", so it is no plan, or an older version wrote it')
    problem = _problem(file)
    if sequential and file["sequential"].value is None:
        raise InputError(
            f"{path} has no chain of stages, since none fits into the memory of the devices; use the plan whose stages "
            "form a DAG, or plan with more memory"
        )
    return _plan(problem, file["sequential"] if sequential else file)


def _problem(file: JsonValue) -> Problem:
    """Build the problem of a file."""
    value = file["problem"]
    edges = [tuple(end.whole() for end in each.items(2)) for each in value["edges"].items()]
    batch, copies = file["batch"].whole(1), value["copies"].whole(1)
    replicas = value["replicas"].optional(lambda each: each.whole(1))
    operators, name = [_operator(each) for each in value["operators"].items()], file["model"].text()
    cluster = value["cluster"]
    try:
        graph = OperatorGraph(tuple(operators), tuple((before, after) for before, after in edges), name)
        devices = Cluster(
            cluster["devices"].whole(1),
            _size(cluster["memory"]),
            _size(cluster["bandwidth"]),
            cluster["node"].optional(lambda each: each.whole(1)),
            cluster["between"].optional(_size),
        )
    except (GraphError, ConfigError) as error:
        raise value.error(f"is wrong: {error}") from error
    return Problem(graph, devices, batch, copies, replicas)


def _operator(value: JsonValue) -> Operator:
    forward, backward = read_duration(value["forward"]), read_duration(value["backward"])
    sizes = (value[name].number() for name in ("parameters", "activations", "output"))
    return Operator(value["name"].text(), forward, backward, *sizes)


def _size(value: JsonValue) -> float:
    """Read what `size_json` wrote."""
    size: float = inf if value.value == INFINITE else value.number()
    return size


def _plan(problem: Problem, value: JsonValue) -> PipelinePlan:
    """Build the plan of an object with "stages", and compare it with what the object says of them."""
    stages = value["stages"].items()
    parts = [_part(problem, each) for each in stages]
    names = [each["name"].text() for each in stages]
    after = [[other.text() for other in each["after"].items()] for each in stages]
    chain = all(each == names[index - 1 : index] for index, each in enumerate(after) if index) and after[:1] == [[]]
    try:
        plan = assemble(problem, parts, chain)
    except GraphError as error:
        raise value.error(f"is no plan for its problem: {error}; it was edited, or another version wrote it") from error
    for stage, whole in zip(stages, stages_json(plan), strict=True):
        different = next((name for name, each in whole.items() if stage[name].value != each), None)
        if different is not None:
            raise _edited(stage[different])
    if value["in_flight"].value != in_flight_json(plan):
        raise _edited(value["in_flight"])
    return plan


def _part(problem: Problem, value: JsonValue) -> Part:
    graph = problem.graph
    numbers = {each.name: index for index, each in enumerate(graph.operators)}
    operators = 0
    for each in value["operators"].items():
        if each.text() not in numbers:
            raise each.error(f"is {each.value!r}, which is no operator of the problem")
        operators |= 1 << numbers[each.value]
    if not operators & graph.placed:
        raise value["operators"].error("has no operator that needs a device")
    devices = len(value["devices"].items())
    if not devices:
        raise value["devices"].error("is empty, and a stage needs a device")
    rhythm = Rhythm(value["micro_batch"].whole(1), value["group"].whole(1))
    return Part(operators & graph.placed, devices, rhythm)


def _edited(value: JsonValue) -> InputError:
    """Return the error of a value that the plan of its problem has otherwise."""
    return value.error("differs from the plan of these stages: the file was edited, or another version wrote it")
