"""Grouping of steps: branches stay parallel, chains get shorter, and shared parameters bring operators together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.coarsen import Step, group


@st.composite
def models(draw: st.DrawFn) -> list[Step]:
    """Random steps, each after up to three earlier ones, in a few module calls."""
    steps: list[Step] = []
    for index in range(draw(st.integers(1, 14))):
        uses = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        call = draw(st.sampled_from("abcd"))
        heavy, idle, work = draw(st.tuples(st.booleans(), st.booleans(), st.integers(1, 9)))
        steps.append(Step(str(index), tuple(uses), call, heavy, idle and not heavy, work=work))
    return steps


def later(edges: Sequence[Sequence[int]]) -> list[set[int]]:
    """Everything that comes after each node, by depth-first search; `edges` has the nodes right before each."""
    following: list[set[int]] = [set() for _ in edges]

    def visit(start: int, node: int) -> None:
        for other, before in enumerate(edges):
            if node in before and other not in following[start]:
                following[start].add(other)
                visit(start, other)

    for node in range(len(edges)):
        visit(node, node)
    return following


def quotient(steps: Sequence[Step], groups: Sequence[Sequence[int]]) -> list[set[int]]:
    """The groups right before each group; a step in several groups is computed by each."""
    times = {index: sum(index in each for each in groups) for index in range(len(steps))}
    owner = {index: number for number, each in enumerate(groups) for index in each if times[index] == 1}
    return [
        {owner[use] for index in each for use in steps[index].uses if use not in each} - {number}
        for number, each in enumerate(groups)
    ]


@settings(max_examples=150, deadline=None)
@given(models(), st.sampled_from([1, 3, 64]))
def test_heavy_steps_in_different_groups_are_ordered_as_before(steps: list[Step], most: int) -> None:
    outputs = frozenset({len(steps) - 1})
    groups = group(steps, outputs, most)
    order, among = later([each.uses for each in steps]), later(quotient(steps, groups))
    owner = {index: number for number, each in enumerate(groups) for index in each if steps[index].heavy}
    assert set(owner) == {index for index, step in enumerate(steps) if step.heavy}
    assert all(number not in following for number, following in enumerate(among))
    for one, first in owner.items():
        for other, second in owner.items():
            if first != second:
                assert (second in among[first]) == (other in order[one])


@settings(max_examples=100, deadline=None)
@given(models())
def test_fewer_operators_are_unions_of_more(steps: list[Step]) -> None:
    fine, coarse = (group(steps, frozenset({len(steps) - 1}), most) for most in (64, 2))
    assert len(coarse) <= len(fine)
    heavy = {index for index, step in enumerate(steps) if step.heavy}
    assert all(any(heavy & set(each) <= set(whole) for whole in coarse) for each in fine)
    for groups in (fine, coarse):
        assert all(before < number for number, each in enumerate(quotient(steps, groups)) for before in each)


@settings(max_examples=150, deadline=None)
@given(models(), st.data())
def test_a_parameter_is_trained_by_one_operator(steps: list[Step], data: st.DataObject) -> None:
    shared = []
    for step in steps:
        names = data.draw(st.frozensets(st.sampled_from("uvw"), max_size=1)) if step.heavy else frozenset()
        from_data = data.draw(st.booleans()) or any(shared[each].data for each in step.uses)
        shared.append(replace(step, trained=names, data=from_data))
    try:
        groups = group(shared, frozenset({len(steps) - 1}), 3)
    except GraphError:
        assume(False)
    assert all(number not in following for number, following in enumerate(later(quotient(shared, groups))))
    for name in "uvw":
        users = {index for index, step in enumerate(shared) if name in step.trained}
        assert sum(1 for each in groups if users & set(each)) <= 1


def chain(length: int, work: Sequence[int]) -> list[Step]:
    uses = [(index - 1,) if index else () for index in range(length)]
    return [Step(f"s{index}", uses[index], str(index), True, work=work[index]) for index in range(length)]


@pytest.mark.parametrize(
    ("most", "groups"),
    [
        (5, [(0,), (1,), (2,), (3,), (4,)]),
        (4, [(0,), (1,), (2, 3), (4,)]),
        (3, [(0, 1), (2, 3), (4,)]),
        (2, [(0, 1, 2, 3), (4,)]),
        (1, [(0, 1, 2, 3, 4)]),
    ],
)
def test_chains_merge_their_cheapest_neighbours_first(most: int, groups: list[tuple[int, ...]]) -> None:
    assert group(chain(5, [3, 5, 1, 2, 9]), frozenset({4}), most) == groups


def test_branches_are_never_merged() -> None:
    """A fork, two branches of two, and a join: four operators are left however few are allowed."""
    uses = [(), (0,), (1,), (0,), (3,), (2, 4)]
    steps = [Step(f"s{index}", each, str(index), True) for index, each in enumerate(uses)]
    assert group(steps, frozenset({5}), 1) == [(0,), (1, 2), (3, 4), (5,)]


def test_a_light_join_joins_what_follows_it_and_not_a_branch() -> None:
    steps = [
        Step("a", (), "a", True),
        Step("b", (), "b", True),
        Step("relu", (0,), "relu"),
        Step("add", (1, 2)),
        Step("c", (3,), "c", True),
    ]
    assert group(steps, frozenset({4})) == [(0, 2), (1,), (3, 4)]


def test_a_light_join_before_a_fork_is_an_operator() -> None:
    uses = [(), (), (0, 1), (2,), (2,)]
    steps = [Step(f"s{index}", each, str(index), index != 2) for index, each in enumerate(uses)]
    assert group(steps, frozenset({3, 4})) == [(0,), (1,), (2,), (3,), (4,)]


def test_a_residual_joins_the_end_of_its_block() -> None:
    steps = [
        Step("in", (), "in", True),
        Step("f", (0,), "f", True),
        Step("add", (0, 1)),
        Step("out", (2,), "out", True),
    ]
    assert group(steps, frozenset({3})) == [(0,), (1, 2), (3,)]


def test_steps_on_inputs_alone_are_part_of_every_operator_that_uses_them() -> None:
    steps = [Step("split"), Step("left", (0,)), Step("a", (1,), "a", True), Step("b", (0,), "b", True)]
    assert group(steps, frozenset({2, 3})) == [(0, 1, 2), (0, 3)]
    assert group([Step("relu"), Step("tanh", (0,))], frozenset({1})) == [(0, 1)]


def test_a_changed_parameter_joins_the_operator_that_uses_it() -> None:
    steps = [
        Step("norm", (), "p", True, data=False, trained=frozenset("w")),
        Step("a", (), "a", True),
        Step("scale", (0,), "p", data=False),
        Step("b", (1, 2), "b", True),
    ]
    assert group(steps, frozenset({3})) == [(1,), (0, 2, 3)]


def test_a_view_of_a_parameter_counts_as_the_parameter() -> None:
    """Both halves of a weight are used: in one module call the users are one operator, as if they used all of it."""
    steps = [
        Step("split", (), "m", True, True, data=False, trained=frozenset("w")),
        Step("q", (0,), "m", True),
        Step("k", (0,), "m", True),
        Step("product", (1, 2), "m", True),
        Step("end", (3,), "end", True),
    ]
    assert group(steps, frozenset({4})) == [(0, 1, 2, 3), (4,)]


def test_a_light_step_after_a_fork_joins_its_branch() -> None:
    uses = [(), (0,), (1,), (0,)]
    steps = [Step(f"s{index}", each, str(index), index != 1) for index, each in enumerate(uses)]
    assert group(steps, frozenset({2, 3})) == [(0,), (1, 2), (3,)]


def test_what_uses_a_tied_parameter_comes_after_the_operator_that_holds_it() -> None:
    """Parameter "u" is changed before "layer" uses it; "more", made of it alone, then needs the inputs of "layer"."""
    steps = [
        Step("half", (), "half", True, data=False, trained=frozenset("u")),
        Step("more", (0,), "more", True, data=False),
        Step("layer", (0,), "layer", True, trained=frozenset("u")),
        Step("one", (0, 1), "one", True),
        Step("other", (0, 1), "other"),
    ]
    assert group(steps, frozenset({2, 3, 4})) == [(0, 2), (1, 4), (3,)]


def test_branches_that_share_parameters_become_one() -> None:
    """Layer i of both branches is one operator, whichever branch is listed first."""
    uses = [(), (0,), (), (2,), (1, 3)]
    shared = ["u", "v", "u", "v", ""]
    steps = [Step(f"s{index}", uses[index], str(index), True, trained=frozenset(shared[index])) for index in range(5)]
    assert group(steps, frozenset({4})) == [(0, 2), (1, 3), (4,)]


def test_crossed_parameters_become_one_operator() -> None:
    uses = [(), (0,), (), (2,)]
    shared = ["u", "v", "v", "u"]
    steps = [Step(f"s{index}", uses[index], str(index), True, trained=frozenset(shared[index])) for index in range(4)]
    assert group(steps, frozenset({1, 3})) == [(0, 1, 2, 3)]


def test_a_loop_over_shared_layers_becomes_one_operator() -> None:
    uses = [(), (0,), (1,), (2,), (3,)]
    shared = ["u", "v", "u", "v", "w"]
    steps = [Step(f"s{index}", uses[index], str(index), True, trained=frozenset(shared[index])) for index in range(5)]
    assert group(steps, frozenset({4})) == [(0, 1, 2, 3), (4,)]


def test_shared_parameters_with_others_between_are_refused() -> None:
    steps = [
        Step("embedding", (), "e", True, trained=frozenset({"e.weight"})),
        Step("body", (0,), "b", True, trained=frozenset({"b.weight"})),
        Step("head", (1,), "h", True, trained=frozenset({"e.weight"})),
    ]
    message = (
        "operators 'embedding' and 'head' use the same state, 'e.weight', which training changes, so they must share a "
        "device, but 1 others lie between them, such as 'body'; use state of its own in each"
    )
    with pytest.raises(GraphError, match=f"^{re.escape(message)}$"):
        group(steps, frozenset({2}))


def test_a_change_of_a_buffer_is_part_of_the_operator_that_reads_the_buffer() -> None:
    """Neither the change nor the reading uses other steps; the change comes first, and is of another module call."""
    steps = [
        Step("left", (), "left", True),
        Step("change", (), "model", trained=frozenset({"ring"})),
        Step("read", (), "model", trained=frozenset({"ring"})),
        Step("right", (2,), "right", True),
        Step("join", (0, 3), "join", True),
    ]
    assert group(steps, frozenset({4})) == [(0,), (1, 2, 3), (4,)]
    assert group([*steps, Step("again", (2,), "again", True)], frozenset({4, 5})) == [(0,), (1, 2, 3, 5), (4,)]


def test_a_counter_is_part_of_some_operator() -> None:
    counter = Step("add", (), "model", data=False, trained=frozenset({"steps"}))
    assert group([Step("a", (), "a", True), counter], frozenset({0})) == [(0, 1)]


def test_a_long_model_is_grouped_quickly_enough_to_test() -> None:
    """600 blocks of five steps: a residual around a heavy and a light step, and a normalisation of two steps."""
    steps: list[Step] = []
    for block in range(600):
        last = len(steps) - 1
        before = (last,) if steps else ()
        steps.append(Step("f", before, f"f{block}", True))
        steps.append(Step("relu", (last + 1,), "relu"))
        steps.append(Step("add", (*before, last + 2), ""))
        steps.append(Step("mean", (last + 3,), f"n{block}"))
        steps.append(Step("scale", (last + 3, last + 4), f"n{block}", True))
    groups = group(steps, frozenset({len(steps) - 1}))
    assert len(groups) == 64
    assert sorted(index for each in groups for index in each) == list(range(3000))


def test_what_draws_numbers_or_changes_state_is_computed_once() -> None:
    """A dropout of the input that two branches use, and a counter that no operator's call contains."""
    steps = [
        Step("dropout", (), "drop", once=True),
        Step("count", (), "", once=True, data=False),
        Step("left", (0,), "left", heavy=True),
        Step("right", (0,), "right", heavy=True),
        Step("head", (2, 3), "head", heavy=True),
    ]
    groups = group(steps, frozenset({4}))
    assert sorted(step for each in groups for step in each) == [0, 1, 2, 3, 4]
    repeated = [replace(each, once=False) for each in steps]
    assert group(repeated, frozenset({4})) == [(0, 1, 2), (0, 3), (4,)]
