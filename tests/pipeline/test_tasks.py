"""The event loop of all simulations: order, exactness, and tasks that can never start."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.tasks import run_in_order


def test_tasks_wait_for_their_turn_and_for_others() -> None:
    starts, ends = run_in_order([[0, 1], [3, 2]], [(), (3,), (0,), ()], [2, 1, 4, 5])
    assert starts == [0, 5, 5, 0]
    assert ends == [2, 6, 9, 5]
    assert all(isinstance(moment, int) for moment in (*starts, *ends))


def test_large_integers_stay_exact_and_floats_are_floats() -> None:
    huge = 2**70 + 1
    assert run_in_order([[0, 1]], [(), ()], [huge, 1])[1] == [huge, huge + 1]
    starts, ends = run_in_order([[0], [1]], [(), (0,)], [0.5, 0.25])
    assert (starts, ends) == ([0.0, 0.5], [0.5, 0.75])
    assert all(isinstance(moment, float) for moment in (*starts, *ends))
    assert Fraction(ends[-1]) == Fraction(3, 4)


def test_several_resources_wake_up_by_the_same_task() -> None:
    starts, _ = run_in_order([[1], [2], [0]], [(), (0,), (0,)], [3, 1, 1])
    assert starts == [0, 3, 3]


@pytest.mark.parametrize(
    ("orders", "waits", "message"),
    [
        ([[0, 1], [2]], [(), (2,), (1,)], r"after 1 stages: task (1 waits for task 2|2 waits for task 1)"),
        ([[0, 1]], [(1,), ()], "after 0 stages: task 0 waits for task 1"),
        ([[0], [1], [2]], [(), (1,), (1,)], "after 1 stages: task [12] waits for task 1"),
    ],
    ids=["two resources", "its own successor", "itself"],
)
def test_tasks_that_can_never_start_are_named(
    orders: list[list[int]], waits: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(GraphError, match=re.compile(message)):
        run_in_order(orders, waits, [1, 1, 1][: len(waits)])
