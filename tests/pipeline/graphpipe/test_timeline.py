"""Timelines computed by hand, against a second simulation, and as measured; the steady state as a stage graph."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import inf
from timeit import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan, Timeline, makespan, simulate_plan, stage_graph
from mspipe_triton.pipeline.graphpipe.work import carried
from mspipe_triton.pipeline.plan import steady_period
from mspipe_triton.pipeline.simulate import simulate
from tests.pipeline.graphpipe.plans import chain_plan, measured, operator, plan_of, random_plans, with_held
from tests.pipeline.graphpipe.task_oracle import oracle


def times(timeline: Timeline, kind: str, stage: int) -> list[tuple[float, float]]:
    """Start and end of a stage's tasks of one kind, by micro-batch."""
    return [(each.start, each.end) for each in timeline.spans if (each.kind, each.stage) == (kind, stage)]


def test_a_chain_of_two_with_unequal_passes() -> None:
    operators = [operator("a", 1, 2, parameters=10, activations=3), operator("b", 3, 4, parameters=1, activations=5)]
    timeline = simulate_plan(plan_of(operators, [("a", "b")], 2))
    assert times(timeline, "forward", 0) == [(0, 1), (1, 2)]
    assert times(timeline, "forward", 1) == [(1, 4), (8, 11)]
    assert times(timeline, "backward", 1) == [(4, 8), (11, 15)]
    assert times(timeline, "backward", 0) == [(8, 10), (15, 17)]
    assert (timeline.makespan, timeline.time_per_sample) == (17, 8.5)
    assert timeline.busy == {0: 6, 1: 14}
    assert timeline.bubble == pytest.approx({0: 11 / 17, 1: 3 / 17})
    assert timeline.memory == {0: 4 * 10 + 2 * 3, 1: 4 * 1 + 5}
    assert len(timeline.spans) == 8


def test_transfers_take_time_beside_the_passes() -> None:
    operators = [operator("a", 1, 2, output=2), operator("b", 3, 4, output=9)]
    timeline = simulate_plan(plan_of(operators, [("a", "b")], 2, bandwidth=1.0))
    assert times(timeline, "outputs", 1) == [(1, 3), (3, 5)]
    assert times(timeline, "forward", 1) == [(3, 6), (10, 13)]
    assert times(timeline, "backward", 1) == [(6, 10), (13, 17)]
    assert times(timeline, "gradients", 1) == [(10, 12), (17, 19)]
    assert times(timeline, "backward", 0) == [(12, 14), (19, 21)]
    assert timeline.makespan == 21
    assert timeline.busy == {0: 6, 1: 14}
    assert {each.other for each in timeline.spans if each.kind in ("outputs", "gradients")} == {0}


def test_a_stage_receives_one_tensor_at_a_time() -> None:
    operators = [operator("a", 1, 1, output=2), operator("b", 1, 1, output=3), operator("c", 1, 1)]
    timeline = simulate_plan(plan_of(operators, [("a", "c"), ("b", "c")], 1, bandwidth=1.0))
    assert times(timeline, "outputs", 2) == [(1, 3), (3, 6)]
    assert times(timeline, "gradients", 2) == [(8, 10), (10, 13)]
    assert timeline.makespan == 14


def test_branches_that_a_costless_loss_joins() -> None:
    operators = [operator("a", 1, 1), operator("b", 2, 5), Operator("loss")]
    timeline = simulate_plan(plan_of(operators, [("a", "loss"), ("b", "loss")], 2))
    assert times(timeline, "forward", 0) == [(0, 1), (3, 4)]
    assert times(timeline, "backward", 0) == [(2, 3), (9, 10)]
    assert times(timeline, "forward", 1) == [(0, 2), (7, 9)]
    assert times(timeline, "backward", 1) == [(2, 7), (9, 14)]
    assert timeline.makespan == 14


def test_a_costless_loss_receives_no_transfers() -> None:
    operators = [operator("a", 1, 1, output=900), operator("b", 2, 5, output=900), Operator("loss")]
    plan = plan_of(operators, [("a", "loss"), ("b", "loss")], 2, bandwidth=1.0)
    assert (makespan(plan), plan.bottleneck) == (14, 7)


def test_devices_of_a_stage_share_a_micro_batch_and_sum_their_gradients() -> None:
    graph = OperatorGraph((operator("a", 1, 2, parameters=8, activations=5),), ())
    plan = assemble(Problem(graph, Cluster(2, inf, bandwidth=4.0), 4), [Part(1, 2, Rhythm(2))])
    timeline = simulate_plan(plan)
    assert times(timeline, "forward", 0) == [(0, 1), (3, 4)]
    assert times(timeline, "sync", 0) == [(6, 8)]  # each device sends 2 · 8 / 2 bytes
    assert timeline.makespan == makespan(plan) == 8
    assert timeline.busy == {0: 8, 1: 8}
    assert timeline.passes == dict.fromkeys((0, 1), timeline.spans)
    assert timeline.bubble == {0: 0, 1: 0}
    assert timeline.memory == {0: 37, 1: 37}


def test_a_measured_timeline_is_about_each_device_on_its_own() -> None:
    graph = OperatorGraph((operator("a", 1, 2, parameters=8, activations=5),), ())
    plan = assemble(Problem(graph, Cluster(2, inf, bandwidth=4.0), 4), [Part(1, 2, Rhythm(2))])
    tasks = [
        (0, "forward", 0, 0, 1), (0, "backward", 0, 1, 3), (0, "forward", 1, 4, 5), (0, "backward", 1, 6, 8),
        (0, "sync", 0, 9, 10),
        (1, "forward", 0, 1, 3), (1, "forward", 1, 3, 4), (1, "backward", 0, 4, 6), (1, "backward", 1, 6, 9),
        (1, "sync", 0, 9, 10),
    ]  # fmt: skip
    spans = [PlanSpan(0, *task, None, device) for device, *task in tasks]
    timeline = Timeline(plan, 10, tuple(spans))
    assert timeline.passes == {0: tuple(spans[:5]), 1: tuple(spans[5:])}
    assert timeline.time_per_sample == 2.5
    assert timeline.busy == {0: 7, 1: 9}
    assert timeline.bubble == pytest.approx({0: 0.3, 1: 0.1})
    assert timeline.memory == {0: 4 * 8 + 5, 1: 4 * 8 + 2 * 5}


@settings(max_examples=50, deadline=None)
@given(random_plans())
def test_a_simulation_by_device_is_the_same(plan: PipelinePlan) -> None:
    timeline = simulate_plan(plan)
    spans = [span._replace(device=device) for device, row in timeline.passes.items() for span in row]
    other = Timeline(plan, timeline.makespan, tuple(spans))
    assert (other.busy, other.bubble, other.memory) == (timeline.busy, timeline.bubble, timeline.memory)
    late = measured(timeline)
    assert late.makespan >= timeline.makespan
    assert all(late.busy[device] >= seconds for device, seconds in timeline.busy.items())


def test_micro_batches_of_different_size_wait_for_the_samples_that_they_share() -> None:
    timeline = simulate_plan(chain_plan([(1, 1), (1, 1)], 4, units=(1, 2)))
    assert times(timeline, "forward", 0) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert times(timeline, "forward", 1) == [(2, 4), (6, 8)]
    assert times(timeline, "backward", 1) == [(4, 6), (8, 10)]
    assert times(timeline, "backward", 0) == [(6, 7), (7, 8), (10, 11), (11, 12)]


def test_data_pass_through_the_stages_of_a_chain_once() -> None:
    operators = [operator("a", output=1), operator("b", output=10), operator("c", output=100), operator("d")]
    uses = [("a", "c"), ("b", "c"), ("a", "d"), ("c", "d")]
    assert carried(plan_of(operators, uses, 1, chain=True)) == {(0, 1): 0b0001, (1, 2): 0b0011, (2, 3): 0b0101}
    assert carried(plan_of(operators, uses, 1)) == {(0, 2): 0b0001, (1, 2): 0b0010, (0, 3): 0b0001, (2, 3): 0b0100}
    timeline = simulate_plan(plan_of(operators, uses, 1, bandwidth=1.0, chain=True))
    lengths = {each.stage: each.end - each.start for each in timeline.spans if each.kind == "outputs"}
    assert lengths == {1: 1, 2: 11, 3: 101}


@pytest.mark.parametrize("stages", [1, 2, 5, 8])
@pytest.mark.parametrize("batches", [1, 3, 16])
def test_equal_stages_take_the_published_time(stages: int, batches: int) -> None:
    timeline = simulate_plan(chain_plan([(3, 5)] * stages, batches))
    assert timeline.makespan == (batches + stages - 1) * (3 + 5)
    assert timeline.bubble == pytest.approx(dict.fromkeys(range(stages), (stages - 1) / (batches + stages - 1)))


@settings(max_examples=150, deadline=None)
@given(random_plans())
def test_every_task_against_a_second_simulation(plan: PipelinePlan) -> None:
    timeline = simulate_plan(plan)
    simulated = {
        (each.kind, each.stage, each.micro_batch, each.other): (each.start, each.end) for each in timeline.spans
    }
    expected = oracle(plan)
    assert simulated.keys() == expected.keys()
    for task, span in expected.items():
        assert simulated[task] == pytest.approx(span), task
    assert timeline.makespan == makespan(plan) == max(end for _, end in simulated.values())
    for stage in plan.stages:
        assert all(timeline.memory[device] <= plan.memory(stage) for device in stage.devices)
    work = max(timeline.busy.values())
    assert timeline.makespan >= work
    assert min(timeline.bubble.values()) == pytest.approx(1 - work / timeline.makespan)


def test_a_stage_that_holds_too_little_for_its_successor_can_never_start() -> None:
    plan = with_held(chain_plan([(1, 1), (1, 1)], 4, units=(1, 2)), 0, -3)
    with pytest.raises(GraphError, match=r"forward 0 of stage 1 waits for forward 1 of stage 0|forward 1 of stage 0"):
        simulate_plan(plan)


def test_a_large_plan_takes_milliseconds() -> None:
    operators = [operator(f"o{number}", output=1) for number in range(32)]
    names = [each.name for each in operators]
    plan = plan_of(operators, pairwise(names), 128, bandwidth=1e6)
    assert min(repeat(lambda: makespan(plan), number=1, repeat=5)) < 0.06


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_steady_state_is_a_stage_graph_whose_period_is_the_bottleneck(data: st.DataObject) -> None:
    names = [f"o{number}" for number in range(data.draw(st.integers(1, 6)))]
    costs = st.integers(1, 9).map(lambda cost: cost / 10)
    operators = [operator(name, cost := data.draw(costs), 2 * cost) for name in names]
    edges = [(one, other) for one in names for other in names if one < other and data.draw(st.booleans())]
    edges += [(name, "loss") for name in names]
    plan = plan_of([*operators, Operator("loss")], edges, 128, Rhythm(data.draw(st.sampled_from([1, 4]))))
    micro_batch = plan.stages[0].rhythm.micro_batch
    assert float(steady_period(stage_graph(plan))) == pytest.approx(plan.bottleneck * micro_batch, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=6), st.integers(0, 4))
def test_the_period_of_any_chain_with_one_micro_batch_less_against_long_runs(
    costs: list[tuple[int, int]], place: int
) -> None:
    plans = [chain_plan(costs, batch) for batch in (100, 200)]
    assert steady_period(stage_graph(plans[0])) == plans[0].bottleneck
    plans = [with_held(plan, place % (len(costs) - 1), -1) for plan in plans]
    period = steady_period(stage_graph(plans[0]))
    assert (makespan(plans[1]) - makespan(plans[0])) / 100 == pytest.approx(float(period))
    assert simulate(stage_graph(plans[0]), 200).period() == period


@pytest.mark.parametrize("stages", range(2, 7))
def test_a_balanced_chain_holds_no_micro_batch_too_many(stages: int) -> None:
    plan = chain_plan([(1, 2)] * stages, 64)
    for index in range(stages - 1):
        assert steady_period(stage_graph(with_held(plan, index, -1))) > 3


def test_branches_that_divide_their_time_differently_may_wait() -> None:
    operators = [operator("a", 5, 5), operator("b", 9, 1), operator("c", 1, 9), operator("d", 5, 5)]
    uses = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    plans = [plan_of(operators, uses, batch) for batch in (120, 240)]
    period = steady_period(stage_graph(plans[0]))
    assert plans[0].bottleneck == 10
    # F a, F b, F d, B d, B c, B a: 38 seconds, and then "a" runs the forward pass three micro-batches later.
    assert period == Fraction(38, 3)
    assert (makespan(plans[1]) - makespan(plans[0])) / 120 == pytest.approx(float(period))


def test_a_stage_graph_refuses_what_it_cannot_express() -> None:
    operators, uses = [operator("a", output=3), operator("b")], [("a", "b")]
    with pytest.raises(GraphError, match="one micro-batch and group 1 for all stages, not 2 × 2"):
        stage_graph(plan_of(operators, uses, 12, Rhythm(2, 2)))
    with pytest.raises(GraphError, match="for all stages, not 2 × 1, 4 × 1"):
        stage_graph(plan_of(operators, uses, 12, {"a": Rhythm(4), "b": Rhythm(2)}))
    with pytest.raises(GraphError, match=r"from stage 0 to stage 1 takes 1\.5 seconds"):
        stage_graph(plan_of(operators, uses, 12, bandwidth=2.0))
    with pytest.raises(GraphError, match="time above 0"):
        stage_graph(plan_of([replace(operators[0], backward=Duration())], [], 12))
