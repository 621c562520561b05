"""unique_nodes against a Python dict in order of first occurrence."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import unique_nodes

NODES = st.lists(st.one_of(st.integers(-3, 12), st.sampled_from([10**6, 10**6 - 1, 123_456])), max_size=60)


def expected(nodes: list[int], capacity: int) -> tuple[list[int], list[int], list[int]]:
    """Compute ids, inverse and count with a dict from node to row; nodes beyond the capacity are only counted."""
    row: dict[int, int] = {}
    rank = [row.setdefault(node, len(row)) if node >= 0 else 0 for node in nodes]
    return (list(row) + [-1] * capacity)[:capacity], [r if r < capacity else 0 for r in rank], [len(row)]


def check(nodes: list[int], capacity: int, dtype: torch.dtype = torch.int64) -> None:
    entries = torch.tensor(nodes, dtype=dtype)
    result = unique_nodes(entries, capacity)
    assert all(tensor.dtype == torch.int64 for tensor in result)
    assert [tensor.shape for tensor in result] == [(capacity,), (len(nodes),), (1,)]
    assert tuple(tensor.tolist() for tensor in result) == expected(nodes, capacity)
    assert entries.tolist() == nodes, "the input was mutated"


@settings(deadline=None, max_examples=300)
@given(nodes=NODES, spare=st.integers(-5, 5), dtype=st.sampled_from([torch.int64, torch.int32]))
def test_random_lists(nodes: list[int], spare: int, dtype: torch.dtype) -> None:
    check(nodes, max(0, len({node for node in nodes if node >= 0}) + spare), dtype)


@pytest.mark.parametrize("length", [0, 1, 123, 1025])
@pytest.mark.parametrize("highest", [0, 40, 10**6])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_sizes(length: int, highest: int, dtype: torch.dtype) -> None:
    generator = random.Random(length + highest)
    check([generator.randint(-1, highest) for _ in range(length)], length, dtype)


@pytest.mark.parametrize("length", [1, 123, 1025])
@pytest.mark.parametrize("capacity", [0, 7])
def test_all_padding(length: int, capacity: int) -> None:
    check([-1] * length, capacity)


def test_a_first_call_in_inference_mode_leaves_a_scratch_table_for_later_ones() -> None:
    def calls() -> None:
        with torch.inference_mode():
            check([5, 5, 2], 3)
        check([5, 5, 2], 3)

    with ThreadPoolExecutor(1) as thread:  # a new thread has no scratch table
        thread.submit(calls).result()


def test_any_negative_entry_is_padding() -> None:
    check([-7, 3, -1, 3, -(2**31), 0], 4, torch.int32)


def test_ids_beyond_the_count_are_minus_one() -> None:
    ids, _, count = unique_nodes(torch.tensor([5, 5, 2]), 9)
    assert ids.tolist() == [5, 2, -1, -1, -1, -1, -1, -1, -1]
    assert count.tolist() == [2]


def test_no_entries_and_no_capacity() -> None:
    check([], 0)


@pytest.mark.parametrize(("capacity", "ids", "inverse"), [(0, [], [0] * 6), (3, [1, 5, 2], [0, 1, 2, 1, 0, 0])])
def test_a_small_capacity_keeps_the_first_nodes_and_counts_all(
    capacity: int, ids: list[int], inverse: list[int]
) -> None:
    results = unique_nodes(torch.tensor([1, 5, 2, 5, -1, 4]), capacity)
    assert tuple(part.tolist() for part in results) == (ids, inverse, [4])


def test_the_scratch_table_keeps_nothing_of_earlier_calls() -> None:
    check(list(range(2000)), 2000)
    check([1999, 3, 3, 1999, 0], 5)
    check([0, 3000, 0], 2)


def test_distinct_first_nodes_get_the_first_rows() -> None:
    roots = [9, 4, 7]
    ids, inverse, _ = unique_nodes(torch.tensor([*roots, 4, 1, 9, 0, 1]), 8)
    assert ids[:3].tolist() == roots
    assert inverse[:3].tolist() == [0, 1, 2]


def test_threads_do_not_disturb_each_other() -> None:
    """Deduplicate long lists in two threads at once; a shared scratch table would mix them up."""
    start = Barrier(2)

    def repeat(seed: int) -> bool:
        numbers = random.Random(seed)
        nodes = [numbers.randrange(20_000) for _ in range(20_000)]
        ids, inverse, _ = (torch.tensor(part) for part in expected(nodes, len(nodes)))
        entries = torch.tensor(nodes)
        start.wait()
        results = [unique_nodes(entries, len(nodes)) for _ in range(100)]
        return all(torch.equal(result[0], ids) and torch.equal(result[1], inverse) for result in results)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(repeat, range(2))) == [True, True]
