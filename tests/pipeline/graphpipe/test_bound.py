"""The lower bound: no simulated plan of small models is faster, equality by hand, and reasons for lack of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import inf

import pytest
from hypothesis import given, settings

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graphpipe.bound import Bound, lower_bound, shortage
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from tests.pipeline.graphpipe.stage_oracle import Groups, fits, makespan, ordered_partitions, pace, problems

ABOVE = 1 + 1e-12


def plans(problem: Problem, sizes: list[int]) -> Iterator[tuple[Groups, tuple[int, ...], tuple[int, ...], list[int]]]:
    """Yield partitions with devices, micro-batches and first forward passes that fit into devices and memory."""
    seen = set()
    for stages in ordered_partitions(problem):
        if frozenset(stages) in seen:
            continue
        seen.add(frozenset(stages))
        count = len(stages)
        for devices in product(range(1, problem.cluster.devices + 1), repeat=count):
            if sum(devices) > problem.cluster.devices:
                continue
            for choice in product(sizes, repeat=count):
                alternating = [count - index for index in range(count)]
                whole = [problem.batch // size for size in choice]
                for windows in [whole] if len({*choice}) > 1 else [whole, alternating]:
                    ways = zip(stages, choice, devices, windows, strict=True)
                    if all(fits(problem, *way) for way in ways):
                        yield stages, choice, devices, windows


@settings(max_examples=150, deadline=None)
@given(problems(operators=4, batch=4))
def test_no_plan_is_faster(problem: Problem) -> None:
    sizes = [1, 2, 4]
    possible = list(plans(problem, sizes))
    if not possible:
        return
    bound = lower_bound(problem, sizes)
    assert shortage(problem, sizes) is None
    for stages, choice, devices, windows in possible:
        assert bound.seconds * problem.batch <= makespan(problem, stages, choice, devices, windows) * ABOVE
        ways = zip(stages, choice, devices, strict=True)
        assert bound.load <= max(pace(problem, *way) for way in ways) * ABOVE


@settings(max_examples=150, deadline=None)
@given(problems())
def test_falls_with_devices_memory_and_choice(problem: Problem) -> None:
    if shortage(problem, [2, 4]) is not None:
        return
    bound = lower_bound(problem, [2, 4])
    cluster = problem.cluster
    more = replace(problem, cluster=replace(cluster, devices=cluster.devices + 1))
    larger = replace(problem, cluster=replace(cluster, memory=cluster.memory * 1.25))
    for one in (lower_bound(more, [2, 4]), lower_bound(larger, [2, 4]), lower_bound(problem, [1, 2, 4])):
        assert one.load <= bound.load * ABOVE
        assert one.path <= bound.path * ABOVE
        assert one.memory <= bound.memory * ABOVE


def chain(number: int, parameters: int = 0) -> OperatorGraph:
    """Equal operators in a row, of 1 + 2 seconds per sample."""
    ones = tuple(Operator(str(each), Duration(0, 1), Duration(0, 2), parameters) for each in range(number))
    return OperatorGraph(ones, tuple((each, each + 1) for each in range(number - 1)))


def test_one_operator() -> None:
    graph = OperatorGraph((Operator("a", Duration(3, 1), Duration(4, 2)),), ())
    assert lower_bound(Problem(graph, Cluster(1, inf), 8), [4]) == Bound(19 / 4, 19 / 4, 0)
    # On two devices of 2 samples each it needs 13 seconds per 4 samples, but 26 device seconds instead of 19.
    assert lower_bound(Problem(graph, Cluster(2, inf), 8), [4]) == Bound(13 / 4, 13 / 4, 0)


def test_data_parallel_devices_share_the_load() -> None:
    assert lower_bound(Problem(chain(3), Cluster(4, inf), 16), [1, 4]).load == 9 / 4


def test_all_reduce_counts() -> None:
    problem = Problem(chain(1, 80), Cluster(2, inf, 10), 4)
    # 4 samples need 12 seconds on one device; on two they need 6 and an all-reduce of 8.
    assert lower_bound(problem, [4]) == Bound(3, 3, 0)
    slow = Problem(chain(1, 20), Cluster(2, inf, 10), 4)
    assert lower_bound(slow, [4]) == Bound(2, 2, 0)


def test_one_sample_takes_the_path() -> None:
    assert lower_bound(Problem(chain(5), Cluster(3, inf), 1), [1]).path == 15


def test_joined_branches_wait_for_the_longest_forward_and_backward_path() -> None:
    operators = (Operator("a", Duration(7), Duration(1)), Operator("b", Duration(2), Duration(5)), Operator("loss"))
    problem = Problem(OperatorGraph(operators, ((0, 2), (1, 2))), Cluster(2, inf), 1)
    assert lower_bound(problem, [1]).path == 12


@pytest.mark.parametrize(("stages", "size"), [(2, 1), (4, 1), (4, 2), (6, 4)])
def test_chain_of_operators_that_exclude_one_another(stages: int, size: int) -> None:
    problem = Problem(chain(stages, 10), Cluster(stages, 70), 16)
    micro_batches = 16 // size
    best = (micro_batches + stages - 1) * 3 * size / 16
    assert lower_bound(problem, [size]) == Bound(3, best, best)


@pytest.mark.parametrize("size", [1, 4])
def test_joined_branches_of_operators_that_exclude_one_another(size: int) -> None:
    ones = [Operator(f"{branch}.{each}", Duration(0, 1), Duration(0, 2), 10) for branch in "ab" for each in range(4)]
    uses = [(f"{branch}.{each}", f"{branch}.{each + 1}") for branch in "ab" for each in range(3)]
    graph = OperatorGraph.of([*ones, Operator("loss")], [*uses, ("a.3", "loss"), ("b.3", "loss")])
    problem = Problem(graph, Cluster(8, 70), 16)
    bound = lower_bound(problem, [size])
    assert bound.memory == (16 // size + 3) * 3 * size / 16
    stages = tuple(frozenset([index]) for index in range(8))
    depths = [4 - int(graph.operators[index].name[2:]) for index in range(8)]
    assert makespan(problem, stages, [size] * 8, [1] * 8, depths) == bound.seconds * 16


def test_devices_are_shared_out_among_operators_that_exclude_one_another() -> None:
    costs = (1, 2, 4)
    ones = tuple(Operator(str(cost), Duration(0, cost), Duration(0, cost), 10) for cost in costs)
    # 8 devices as 1, 2 and 4 need 2 seconds per sample each; another one for the second or third alone helps nobody.
    problem = Problem(OperatorGraph(ones, ()), Cluster(8, 70), 16)
    assert lower_bound(problem, [16]).memory == 2
    assert lower_bound(problem, [16]).load == 14 / 8


def test_memory_limits_the_devices_of_an_operator() -> None:
    # All memory is 120 bytes; the small operators leave 90 to the large one, enough for two devices of 40.
    ones = (
        Operator("large", Duration(0, 12), Duration(), 10),
        *(Operator(str(i), Duration(), Duration(), 5, 0, 0) for i in range(2)),
    )
    problem = Problem(OperatorGraph(ones, ()), Cluster(3, 40), 6)
    assert lower_bound(problem, [6]).load == 6
    assert lower_bound(replace(problem, cluster=Cluster(3, 60)), [6]).load == 4


def test_all_reduce_runs_beside_the_backward_passes_of_other_stages() -> None:
    # "b" needs two devices for its activations, so an all-reduce of 8 seconds; meanwhile "a" runs backward for 5.
    ones = (Operator("a", Duration(1), Duration(5), 8), Operator("b", Duration(2), Duration(3), 8, 5))
    problem = Problem(OperatorGraph(ones, ((0, 1),)), Cluster(3, 40, 1), 2)
    bound = lower_bound(problem, [2])
    assert (bound.load * 2, bound.path * 2) == (13, 14)
    stages = (frozenset([0]), frozenset([1]))
    assert makespan(problem, stages, [2, 2], [1, 2], [1, 1]) == 14


def operator(name: str, parameters: float, activations: float = 0) -> Operator:
    return Operator(name, Duration(1), Duration(1), int(parameters), int(activations))


@pytest.mark.parametrize(
    ("operators", "devices", "sizes", "reason"),
    [
        (
            [operator("big", 4.5e9, 2e9)],
            8,
            [4, 8],
            "operator 'big' needs 20.00 GB on each device with 1 sample in flight; devices have 16.00 GB",
        ),
        (
            [operator("wide", 1e9, 7e9)],
            2,
            [4],
            "operator 'wide' needs 18.00 GB on each device with 2 samples in flight; devices have 16.00 GB",
        ),
        (
            [operator(str(index), 1.5e9) for index in range(6)],
            2,
            [1],
            "the model needs at least 36.00 GB; 2 devices of 16.00 GB have 32.00 GB",
        ),
        (
            [operator(str(index), 2.25e9 + index) for index in range(3)],
            2,
            [1],
            "3 operators need a device each, since any two need at least 18.00 GB and a device has 16.00 GB; there are "
            "2 devices",
        ),
        (
            [operator("a", 3e9), operator("wide", 1e9, 6e9)],
            2,
            [4],
            "operator 'wide' needs 28.00 GB on each device with 1 micro-batch of 4 in flight, on at most "
            "1 device; devices have 16.00 GB",
        ),
    ],
    ids=["one operator", "activations", "total", "exclusive", "devices that are left"],
)
def test_shortages(operators: list[Operator], devices: int, sizes: list[int], reason: str) -> None:
    problem = Problem(OperatorGraph(tuple(operators), ()), Cluster(devices, 16e9), 16)
    assert shortage(problem, sizes) == reason
    with pytest.raises(GraphError, match=re.escape(reason)):
        lower_bound(problem, sizes)


@pytest.mark.parametrize("sizes", [[], [3], [0], [16]])
def test_wrong_micro_batches(sizes: list[int]) -> None:
    with pytest.raises(ConfigError):
        lower_bound(Problem(chain(2), Cluster(2, inf), 8), sizes)
