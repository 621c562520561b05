"""Measured costs: stages take what was measured, and profiles are read as written, or refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import ConfigError, InputError
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, PipelineStage, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.profile import measured_costs, read_profile, write_profile
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.timeline import makespan
from tests.pipeline.graphpipe.json_faults import faulty
from tests.pipeline.graphpipe.plans import random_plans

SECONDS = st.one_of(st.just(0.0), st.floats(1e-7, 1e4))


def seconds_of(plan: PipelinePlan, stage: PipelineStage) -> tuple[float, float]:
    return plan.problem.seconds(stage.operators, stage.rhythm.micro_batch, len(stage.devices))


def with_costs(plan: PipelinePlan, graph: OperatorGraph) -> PipelinePlan:
    return replace(plan, problem=replace(plan.problem, graph=graph))


@st.composite
def free_plans(draw: st.DrawFn) -> PipelinePlan:
    """Draw a plan in which some operators take no time forward, backward or at all, or cost nothing."""
    plan = draw(random_plans())
    graph = plan.problem.graph
    operators = []
    for index, each in enumerate(graph.operators):
        no_forward, no_backward, nothing = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 3)) == 0
        if no_forward:
            each = replace(each, forward=Duration())
        if no_backward:
            each = replace(each, backward=Duration())
        if nothing and graph.successors[index]:  # without successors it would need no device
            each = Operator(each.name, output=each.output)
        operators.append(each)
    return with_costs(plan, replace(graph, operators=tuple(operators)))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.one_of(random_plans(), free_plans()))
def test_stages_take_the_measured_seconds(data: st.DataObject, plan: PipelinePlan) -> None:
    passes = [(data.draw(SECONDS), data.draw(SECONDS)) for _ in plan.stages]
    measured = with_costs(plan, measured_costs(plan, passes))
    for stage, seconds in zip(plan.stages, passes, strict=True):
        assert seconds_of(measured, stage) == pytest.approx(seconds, rel=1e-12, abs=0)
    for each, before in zip(measured.problem.graph.operators, plan.problem.graph.operators, strict=True):
        assert replace(each, forward=before.forward, backward=before.backward) == before
    assert measured.problem.graph.edges == plan.problem.graph.edges
    for index in plan.problem.graph.joins:
        assert measured.problem.graph.operators[index].costless


@settings(max_examples=150, deadline=None)
@given(st.data(), st.one_of(random_plans(), free_plans()))
def test_operators_have_the_proportions_of_their_times_and_stages_the_measured_seconds(
    data: st.DataObject, plan: PipelinePlan
) -> None:
    graph, positive = plan.problem.graph, st.floats(1e-6, 1e3)
    passes = [(data.draw(SECONDS), data.draw(SECONDS)) for _ in plan.stages]
    times = {graph.operators[index].name: (data.draw(positive), data.draw(positive)) for index in members(graph.placed)}
    measured = with_costs(plan, measured_costs(plan, passes, times))
    for stage, seconds in zip(plan.stages, passes, strict=True):
        assert seconds_of(measured, stage) == pytest.approx(seconds, rel=1e-12, abs=0)
        placed = list(members(stage.operators & graph.placed))
        sharing = [index for index in placed if not graph.operators[index].costless] or placed
        for kind in (0, 1):
            whole = sum(times[graph.operators[index].name][kind] for index in sharing)
            for index in sharing:
                each = measured.problem.seconds(1 << index, stage.rhythm.micro_batch, len(stage.devices))[kind]
                share = times[graph.operators[index].name][kind] / whole
                assert each == pytest.approx(share * seconds[kind], rel=1e-9, abs=0)
    for each, before in zip(measured.problem.graph.operators, graph.operators, strict=True):
        assert replace(each, forward=before.forward, backward=before.backward) == before
    for index in graph.joins:
        assert measured.problem.graph.operators[index].costless


@settings(max_examples=60, deadline=None)
@given(st.data(), st.one_of(random_plans(), free_plans()))
def test_times_of_some_operators_of_a_stage_do_not_count(data: st.DataObject, plan: PipelinePlan) -> None:
    graph = plan.problem.graph
    passes = [(data.draw(SECONDS), data.draw(SECONDS)) for _ in plan.stages]
    needed = [[each for each in members(stage.operators & graph.placed)] for stage in plan.stages]
    first = [next((each for each in one if not graph.operators[each].costless), one[0]) for one in needed]
    times = {graph.operators[each].name: (1.0, 2.0) for one in needed for each in one if each not in first}
    assert measured_costs(plan, passes, times) == measured_costs(plan, passes)


@settings(max_examples=60, deadline=None)
@given(st.one_of(random_plans(), free_plans()))
def test_the_plans_own_times_change_nothing(plan: PipelinePlan) -> None:
    graph = measured_costs(plan, [seconds_of(plan, stage) for stage in plan.stages])
    assert graph == plan.problem.graph
    assert makespan(with_costs(plan, graph)) == makespan(plan)


@settings(max_examples=60, deadline=None)
@given(random_plans())
def test_twice_as_slow_passes_make_an_iteration_of_passes_twice_as_slow(plan: PipelinePlan) -> None:
    problem = replace(plan.problem, cluster=replace(plan.problem.cluster, bandwidth=inf))
    plan = replace(plan, problem=problem)
    passes = [(2 * forward, 2 * backward) for forward, backward in (seconds_of(plan, each) for each in plan.stages)]
    assert makespan(with_costs(plan, measured_costs(plan, passes))) == pytest.approx(2 * makespan(plan), rel=1e-12)


def one_stage(*operators: Operator, micro_batch: int = 4, devices: int = 1) -> PipelinePlan:
    graph = OperatorGraph(operators, tuple((index, index + 1) for index in range(len(operators) - 1)), "small")
    part = Part(graph.placed, devices, Rhythm(micro_batch))
    return assemble(Problem(graph, Cluster(devices, inf), 8), [part])


def test_operators_without_times_keep_their_proportions() -> None:
    """Planned: 3 + 5 · 2 s forward and 2 s backward per pass, 2 of 4 samples on each device; measured: twice, half."""
    plan = one_stage(
        Operator("a", Duration(1, 2), Duration(1), 8), Operator("b", Duration(2, 3), Duration(1), 8), devices=2
    )
    a, b = measured_costs(plan, [(26, 1)]).operators
    assert (a.forward, a.backward) == (Duration(2, 4), Duration(0.5))
    assert (b.forward, b.backward) == (Duration(4, 6), Duration(0.5))


def test_operators_take_their_own_proportions() -> None:
    """Planned at 4 samples: 8 s, 0 s and 4 s forward. Alone: 1 s, 2 s and 1 s; together 8 s, so each takes twice that.

    Of 8 s that were planned, a quarter remains to "a", and half to "c" of 4 s; the time of "b" is fixed.
    """
    plan = one_stage(
        Operator("a", Duration(0, 2), Duration(1)), Operator("b", parameters=8), Operator("c", Duration(2, 0.5))
    )
    graph = measured_costs(plan, [(8, 3)], {"a": (1, 2), "b": (2, 1), "c": (1, 0)})
    assert [each.forward for each in graph.operators] == [Duration(0, 0.5), Duration(4), Duration(1, 0.25)]
    assert [each.backward for each in graph.operators] == [Duration(2), Duration(1), Duration(0)]


def test_time_that_was_not_planned_is_shared_by_operators_that_cost_anything() -> None:
    """Operator "view" costs nothing and "loss" joins: neither has a share of 6 s."""
    plan = one_stage(
        Operator("a", backward=Duration(0, 1), parameters=8),
        Operator("view", output=8),
        Operator("b", activations=8),
        Operator("loss"),
    )
    graph = measured_costs(plan, [(6, 8)])
    assert [each.forward for each in graph.operators] == [Duration(3), Duration(), Duration(3), Duration()]
    assert [each.backward for each in graph.operators] == [Duration(0, 2), Duration(), Duration(), Duration()]


def test_a_stage_that_costs_nothing_gets_its_time_all_the_same() -> None:
    plan = one_stage(Operator("view"), Operator("cast"), Operator("loss"))
    assert plan.problem.graph.names(plan.problem.graph.placed) == ("view", "cast")
    graph = measured_costs(plan, [(6, 0)])
    assert [each.forward for each in graph.operators] == [Duration(3), Duration(3), Duration()]
    assert list(members(graph.placed)) == [0, 1]


@pytest.mark.parametrize("seconds", [-1.0, nan, inf])
def test_times_that_no_pass_takes(seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"stage 0: a pass cannot take (-1\.0|nan|inf) seconds; measure it again"):
        measured_costs(one_stage(Operator("a", parameters=8)), [(1, seconds)])


@pytest.mark.parametrize("seconds", [-1.0, nan, inf])
def test_times_that_no_operator_takes(seconds: float) -> None:
    with pytest.raises(
        ConfigError, match=r"operator 'a': a pass cannot take (-1\.0|nan|inf) seconds; measure it again"
    ):
        measured_costs(one_stage(Operator("a", parameters=8)), [(1, 1)], {"a": (seconds, 1)})


def test_times_of_another_number_of_stages() -> None:
    with pytest.raises(ConfigError, match="has 1 stages, and times were measured of 2"):
        measured_costs(one_stage(Operator("a", parameters=8)), [(1, 1), (1, 1)])


GRAPH = OperatorGraph.of(
    [Operator("a", Duration(0.1, 2), Duration(3, 4e-7), 5), Operator("b", Duration(1, 1), Duration(0, 1 / 3))],
    [("a", "b")],
    "pair",
)
PLANNED = replace(GRAPH, operators=tuple(replace(each, forward=Duration(9, 9)) for each in GRAPH.operators))


@pytest.mark.parametrize("bandwidth", [None, 1e9 / 3])
def test_profiles_are_read_as_written(bandwidth: float | None, tmp_path: Path) -> None:
    write_profile(tmp_path / "costs.json", GRAPH, bandwidth)
    assert read_profile(tmp_path / "costs.json", PLANNED) == (GRAPH, bandwidth)
    assert [each.name for each in tmp_path.iterdir()] == ["costs.json"]


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, inf, nan])
def test_bandwidths_that_no_link_has(bandwidth: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bandwidth must be above 0 and finite"):
        write_profile(tmp_path / "costs.json", GRAPH, bandwidth)
    assert not list(tmp_path.iterdir())


def test_faults_anywhere_are_refused_or_harmless(tmp_path: Path) -> None:
    path, messages, harmless = tmp_path / "costs.json", list[str](), 0
    write_profile(path, GRAPH, 1e9)
    for each in faulty(json.loads(path.read_text(encoding="utf-8"))):
        path.write_text(json.dumps(each), encoding="utf-8")
        try:
            graph, bandwidth = read_profile(path, PLANNED)
        except InputError as error:
            messages.append(str(error))
        else:
            harmless += 1
            assert [each.name for each in graph.operators] == ["a", "b"]
            Problem(graph, Cluster(2, 1e9, inf if bandwidth is None else bandwidth), 8)
    assert len(messages) > 100
    assert all(str(path) in each and "\\n" not in each for each in messages)
    assert harmless > 10  # other times, no bandwidth, another name of the model


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("ac", "is of another model, other: operator 'b' is of pair, not in it"),
        ("abc", "is of another model, other: operator 'c' is in it, not of pair"),
    ],
)
def test_a_profile_of_another_model(names: str, words: str, tmp_path: Path) -> None:
    other = OperatorGraph(tuple(Operator(each) for each in names), (), "other")
    write_profile(tmp_path / "costs.json", other, None)
    with pytest.raises(InputError) as caught:
        read_profile(tmp_path / "costs.json", GRAPH)
    assert f"{words}; use a profile that a run of a plan for this model wrote" in str(caught.value)


def test_files_that_are_no_profile(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(InputError, match="no such file; name the file of a profile"):
        read_profile(path, GRAPH)
    path.write_text('{"stages": []}', encoding="utf-8")
    with pytest.raises(InputError, match='has no "times", so it is no profile'):
        read_profile(path, GRAPH)
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is empty: what wrote a profile failed"):
        read_profile(path, GRAPH)
