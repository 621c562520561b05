"""Schedules: how many micro-batches stages hold, the order of passes, and that no stage waits in steady state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.schedule import Held, Rhythm, held, passes
from mspipe_triton.pipeline.graphpipe.timeline import makespan
from tests.pipeline.graphpipe.plans import chain_plan, operator, plan_of, with_held


def in_flight(followers: Mapping[int, Sequence[int]], unit: int = 1, batch: int = 1000) -> list[int]:
    """Units that every stage holds, by number."""
    result: dict[int, Held] = {}

    def hold(stage: int) -> Held:
        if stage not in result:
            result[stage] = held(unit, [hold(each) for each in followers.get(stage, ())], batch)
        return result[stage]

    stages = {*followers, *(each for many in followers.values() for each in many)}
    return [hold(stage).samples // unit for stage in sorted(stages)]


@pytest.mark.parametrize("unit", [1, 3])
def test_a_chain_of_six(unit: int) -> None:
    assert in_flight({stage: [stage + 1] for stage in range(5)}, unit) == [6, 5, 4, 3, 2, 1]


def test_two_branches_of_four_hold_four_not_eight() -> None:
    assert in_flight({0: [1], 1: [2], 2: [3], 4: [5], 5: [6], 6: [7]}) == [4, 3, 2, 1, 4, 3, 2, 1]


def test_four_branches_that_meet_in_stage_0_before_stage_5() -> None:
    assert in_flight({1: [0], 2: [0], 3: [0], 4: [0], 0: [5]}) == [2, 3, 3, 3, 3, 1]


def test_the_successor_that_holds_most_counts() -> None:
    assert in_flight({0: [1, 3], 1: [2], 2: [3]}) == [4, 3, 2, 1]


def test_no_stage_holds_more_than_a_mini_batch() -> None:
    assert in_flight({stage: [stage + 1] for stage in range(5)}, unit=2, batch=6) == [3, 3, 3, 3, 2, 1]


@pytest.mark.parametrize(
    ("unit", "successor", "samples"),
    [
        (4, Held(4, 4), 8),
        (4, Held(2, 2), 8),  # 2 + 2 · 4 + 2 − 2 · 2
        (2, Held(4, 4), 8),  # 4 + 2 · 2 + 4 − 2 · 2
        (1, Held(8, 4), 12),
        (2, Held(6, 3), 12),  # 6 + 2 · 2 + 3 − 2 = 11, in whole units
        (6, Held(4, 4), 18),  # 4 + 2 · 6 + 4 − 2 · 2 = 16, in whole units
    ],
)
def test_stages_with_different_units(unit: int, successor: Held, samples: int) -> None:
    assert held(unit, [successor], 1000) == Held(samples, unit)


def test_groups_of_two_hold_two_units() -> None:
    plan = plan_of([operator("a"), operator("b")], [("a", "b")], 12, Rhythm(2, group=2))
    assert [stage.in_flight for stage in plan.stages] == [4, 2]
    assert list(passes(Rhythm(2, group=2), 8, 12)) == [
        *((True, number) for number in range(4)),
        (False, 0),
        (False, 1),
        (True, 4),
        (True, 5),
        *((False, number) for number in range(2, 6)),
    ]


def test_1f1b_by_hand() -> None:
    order = [(True, 0), (True, 1), (False, 0), (True, 2), (False, 1), (True, 3), (False, 2), (False, 3)]
    assert list(passes(Rhythm(3), 6, 12)) == order


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 12))
def test_passes_run_every_micro_batch_once_each_way_in_order(
    micro_batch: int, group: int, units: int, batches: int
) -> None:
    rhythm, batch = Rhythm(micro_batch, group), micro_batch * batches
    samples = min(batch, units * rhythm.unit)
    order = list(passes(rhythm, samples, batch))
    for direction in (True, False):
        assert [number for forward, number in order if forward == direction] == list(range(batches))
    holds = most = 0
    for forward, number in order:
        assert forward or order.index((True, number)) < order.index((False, number))
        holds += micro_batch if forward else -micro_batch
        most = max(most, holds)
    assert most == samples
    assert holds == 0


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_a_rhythm_needs_numbers_of_at_least_one(numbers: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1, not 0"):
        Rhythm(*numbers)


def wait_per_sample(plans: Sequence[float], samples: int, bottleneck: float) -> float:
    """Time per sample beyond the bottleneck's, between two mini-batches of which one is longer by some samples."""
    shorter, longer = plans
    return (longer - shorter) / samples - bottleneck


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)
)
def test_no_bubble_in_the_bottleneck_of_any_chain(stages: list[tuple[int, int, int]]) -> None:
    units = [unit for unit, *_ in stages]
    costs = [(forward, backward) for _, forward, backward in stages]
    plans = [chain_plan(costs, batch, units) for batch in (360, 480)]
    spans = [makespan(plan) for plan in plans]
    assert wait_per_sample(spans, 120, plans[0].bottleneck) == pytest.approx(0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_bubble_in_the_bottleneck_of_branches_with_equal_shares(data: st.DataObject) -> None:
    names = [f"o{number}" for number in range(data.draw(st.integers(1, 5)))]
    costs = {name: data.draw(st.integers(1, 9)) for name in names}
    rhythms = {name: Rhythm(data.draw(st.sampled_from([1, 2, 3, 4])), data.draw(st.integers(1, 2))) for name in names}
    edges = [(one, other) for one in names for other in names if one < other and data.draw(st.booleans())]
    operators = [operator(name, cost, 2 * cost) for name, cost in costs.items()]
    plans = [plan_of(operators, edges, batch, rhythms) for batch in (480, 720)]
    spans = [makespan(plan) for plan in plans]
    assert wait_per_sample(spans, 240, plans[0].bottleneck) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("units", [(2, 2, 2), (2, 4, 4), (4, 2, 1), (2, 3, 3)])
def test_one_micro_batch_less_leaves_a_bubble(units: tuple[int, int, int]) -> None:
    plans = [with_held(chain_plan([(1, 1)] * 3, batch, units), 0, -1) for batch in (360, 480)]
    spans = [makespan(plan) for plan in plans]
    assert wait_per_sample(spans, 120, plans[0].bottleneck) > 0.01
