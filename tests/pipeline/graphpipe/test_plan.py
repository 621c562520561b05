"""Problems and plans: costs of stages by hand, and partitions that are no plans."""

from __future__ import annotations

from math import inf

import pytest

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

ONE = Rhythm(2)


def diamond(cluster: Cluster = Cluster(4, 1000, 10.0)) -> Problem:  # noqa: B008  # frozen
    """a before b and c, which are before d; a costless loss follows."""
    operators = [Operator(name, Duration(1, 2), Duration(3, 4), 5, 6, 7) for name in "abcd"]
    uses = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "loss")]
    return Problem(OperatorGraph.of([*operators, Operator("loss")], uses), cluster, 8)


def test_costs_of_a_stage() -> None:
    problem = diamond()
    both = 0b0110  # b and c, which receive a's output once
    assert problem.seconds(both, 4, 1) == (2 + 4 * 4, 6 + 8 * 4)
    assert problem.seconds(both, 4, 3) == (2 + 4 * 2, 6 + 8 * 2)  # 4 samples on 3 devices: 2 on one of them
    assert problem.sync(both, 1) == 0
    assert problem.sync(both, 4) == pytest.approx(2 * 3 / 4 * 10 / 10)
    assert problem.cost(both).received == 7
    assert problem.cost(0b1000).received == 14
    assert problem.time_per_sample(both, 4, 1) == pytest.approx((18 + 38) / 4)
    assert problem.memory(both, 4, 1, 3) == 10 * 4 + 12 * 4 * 3
    assert problem.memory(both, 4, 3, 3) == 10 * 4 + 12 * 2 * 3


def test_transfers_can_be_the_bottleneck() -> None:
    assert diamond(Cluster(4, 1000, 0.5)).time_per_sample(0b1000, 4, 1) == 14 / 0.5


def test_links_within_and_between_nodes() -> None:
    cluster = Cluster(6, 1000, 100.0, 4, 10.0)
    assert cluster.link((0, 1), (2, 3)) == 100
    assert cluster.link((3,), (4,)) == 10
    assert (cluster.slowest, Cluster(4, 1000, 100.0, 4, 10.0).slowest) == (10, 100)
    assert Cluster(4, 1000).link((0,), (1,)) == inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 1.0), "devices must be above 0, not 0"),
        ((2, 0.0), "memory must be above 0"),
        ((2, 1.0, -1.0), "bandwidth must be above 0"),
        ((2.5, 1.0), "devices must be a whole number"),
        ((5000, 1.0), "devices must be at most 4,096"),
    ],
)
def test_clusters_that_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Cluster(*arguments)


@pytest.mark.parametrize("changes", [{"batch": 0}, {"batch": 2.0}, {"copies": 0}, {"replicas": 0}])
def test_problems_that_are_refused(changes: dict) -> None:
    graph = diamond().graph
    with pytest.raises(ConfigError, match="must be a whole number of at least 1"):
        Problem(**{"graph": graph, "cluster": Cluster(1, 1), "batch": 2, **changes})


def test_assembling_orders_stages_and_follows_the_data() -> None:
    plan = assemble(diamond(), [Part(0b1000, 1, ONE), Part(0b0010, 1, ONE), Part(0b0001, 1, ONE), Part(0b0100, 1, ONE)])
    names = [plan.problem.graph.names(each.operators) for each in plan.stages]
    assert names == [("a",), ("b",), ("c",), ("d", "loss")]
    assert [each.after for each in plan.stages] == [(), (0,), (0,), (1, 2)]
    assert [each.in_flight for each in plan.stages] == [3, 2, 2, 1]
    assert [each.devices for each in plan.stages] == [(0,), (1,), (2,), (3,)]
    assert plan.followers == ((1, 2), (3,), (3,), ())
    assert (plan.depth, plan.devices) == (3, 4)
    assert [part.operators for part in plan.parts] == [0b0001, 0b0010, 0b0100, 0b1000]


def test_a_chain_follows_its_order() -> None:
    parts = [Part(1 << index, 1, ONE) for index in (0, 2, 1, 3)]
    plan = assemble(diamond(), parts, chain=True)
    assert [each.after for each in plan.stages] == [(), (0,), (1,), (2,)]
    assert [each.in_flight for each in plan.stages] == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("sets", "chain", "words"),
    [
        ((0b0011, 0b1110), False, "operator 'b' is in two stages"),
        ((0b0011, 0b1000), False, "operator 'c' is not in exactly one stage"),
        ((0b1001, 0b0110), False, "use one another in a cycle"),
        ((0b1000, 0b0111), True, "uses the output of a later one"),
    ],
)
def test_partitions_that_are_no_plans(sets: tuple[int, ...], chain: bool, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        assemble(diamond(), [Part(each, 1, ONE) for each in sets], chain)


@pytest.mark.parametrize(
    ("part", "cluster", "words"),
    [
        (Part(0b1111, 5, Rhythm(8)), Cluster(4, 1000), "need 5 devices of 4"),
        (Part(0b1111, 1, Rhythm(8)), Cluster(4, 100), "GB on each device; devices have"),
        (
            Part(0b1111, 3, Rhythm(2)),
            Cluster(4, 1000),
            "a stage on 3 devices may have at most 2, with micro-batches of 2",
        ),
        (Part(0b1111, 1, Rhythm(3)), Cluster(4, 1000), "micro-batch 3 does not divide the batch of 8"),
    ],
)
def test_plans_that_do_not_fit(part: Part, cluster: Cluster, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        assemble(diamond(cluster), [part])
