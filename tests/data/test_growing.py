"""A growing tensor against a concatenation, the growth of its buffer, and the rows that it replaces."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.data.growing import Growing


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_rows_are_those_of_a_list(size: int, changes: list[tuple[int, int]]) -> None:
    expected = torch.arange(2 * size, dtype=torch.int32).view(size, 2)
    tensor = Growing(expected)
    for number, (back, added) in enumerate(changes):
        rows = torch.full((added, 2), 100 + number, dtype=torch.int32)
        start = max(len(expected) - back, 0)
        expected = torch.cat([expected[:start], rows])
        if back:
            tensor.replace(start, rows)
        else:
            tensor.append(rows)
        assert len(tensor) == len(expected)
        assert tensor.rows.dtype == torch.int32
        assert tensor.rows.is_contiguous()
        assert torch.equal(tensor.rows, expected)


def test_a_buffer_grows_seldom_and_by_half() -> None:
    tensor, buffers = Growing(torch.zeros(8)), set()
    for number in range(1000):
        tensor.append(torch.tensor([float(number)]))
        storage = tensor.rows.untyped_storage()
        buffers.add(storage.nbytes())
        assert storage.nbytes() // 4 <= 1.5 * len(tensor)
    assert len(buffers) <= 13, "8 · 1.5¹³ is above 1008"
    assert torch.equal(tensor.rows[8:], torch.arange(1000.0))


def test_the_first_rows_are_copied() -> None:
    rows = torch.arange(6.0).view(2, 3).t()
    tensor = Growing(rows)
    tensor.replace(1, torch.zeros(2, 2))
    assert rows.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tensor.rows.tolist() == [[0, 3], [0, 0], [0, 0]]
    assert tensor.rows.is_contiguous()
