"""patch_rows against a dictionary of the last fresh row of each node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels.mails.patch import patch_rows

Parts = list[torch.Tensor]
SHAPES: list[tuple[tuple[int, ...], torch.dtype]] = [
    ((5,), torch.float32), ((), torch.int64), ((3,), torch.bfloat16), ((), torch.float64), ((2, 3), torch.float64),
    ((0,), torch.float32), ((), torch.int32),
]  # fmt: skip


def random_parts(rows: int, seed: int, shapes: list[tuple[tuple[int, ...], torch.dtype]] = SHAPES) -> Parts:
    """Make rows of random bits, including NaNs with payloads."""
    random = np.random.default_rng(seed)
    parts = []
    for shape, dtype in shapes:
        part = torch.empty(rows, *shape, dtype=dtype)
        numbers = random.integers(0, 256, part.numel() * part.element_size(), dtype=np.uint8)
        parts.append(torch.from_numpy(numbers).view(dtype).view_as(part) if part.numel() else part)
    return parts


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def oracle(stale: Parts, nodes: list[int], fresh: Parts, fresh_nodes: list[int]) -> Parts:
    last: dict[int, int] = {}
    for p, node in enumerate(fresh_nodes):
        last[node] = p
    result = [part.clone() for part in stale]
    for u, node in enumerate(nodes):
        if node >= 0 and node in last:
            for part, new in zip(result, fresh, strict=True):
                part[u] = new[last[node]]
    return result


def check(nodes: list[int], fresh_nodes: list[int], ids: torch.dtype = torch.int64, **options: Any) -> None:
    stale, fresh = random_parts(len(nodes), 1, **options), random_parts(len(fresh_nodes), 2, **options)
    expected = oracle(stale, nodes, fresh, fresh_nodes)
    snapshot = [part.clone() for part in fresh]
    assert patch_rows(stale, torch.tensor(nodes, dtype=ids), fresh, torch.tensor(fresh_nodes, dtype=ids)) is None
    for k, (part, true) in enumerate(zip(stale, expected, strict=True)):
        assert bits(part) == bits(true), f"part {k}"
    assert all(bits(part) == bits(before) for part, before in zip(fresh, snapshot, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-2, 9), max_size=15), st.lists(st.integers(-2, 9), max_size=15))
def test_random_ids(nodes: list[int], fresh_nodes: list[int]) -> None:
    check(nodes, fresh_nodes)


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_the_last_fresh_row_of_a_node_wins_in_every_part(ids: torch.dtype) -> None:
    check([4, 2, -1, 9, 2], [2, 4, 2, -1, 7, 2], ids)


def test_the_scratch_table_keeps_nothing_of_earlier_calls() -> None:
    check([1, 2, 3], [1, 2, 3])
    check([1, 2, 3], [3])
    check([50_000, 1], [2, 50_000])
    check([1, 2, 3, 50_000], [0])


def test_a_thousand_rows() -> None:
    random = np.random.default_rng(3)
    check(random.integers(-1, 3000, 1700).tolist(), random.integers(-1, 3000, 1200).tolist())


def test_parts_may_be_tuples() -> None:
    stale, fresh = torch.zeros(2, 3), torch.ones(1, 3)
    patch_rows((stale,), torch.tensor([5, 6]), (fresh,), torch.tensor([6]))
    assert stale.tolist() == [[0.0] * 3, [1.0] * 3]


def test_nothing_to_patch() -> None:
    patch_rows([], torch.tensor([1]), [], torch.tensor([1]))
    check([], [1, 2])
    check([1, 2], [])


def test_the_operation_passes_opcheck() -> None:
    shapes = [((3,), torch.float32), ((), torch.int64)]
    ids = torch.tensor([1, 5, -1]), torch.tensor([5, 5, 2, -1])
    stale = [torch.zeros(3, *shape, dtype=dtype) for shape, dtype in shapes]
    fresh = [torch.ones(4, *shape, dtype=dtype) for shape, dtype in shapes]
    torch.library.opcheck(torch.ops.mspipe_triton.patch_rows.default, (stale, ids[0], fresh, ids[1]))


def test_it_compiles_as_one_graph() -> None:
    nodes, fresh_nodes = torch.tensor([1, 5, -1]), torch.tensor([5, 5, 2, -1])
    actual, expected = (([torch.zeros(3, 2), torch.zeros(3).long()]) for _ in range(2))
    fresh = [torch.randn(4, 2), torch.arange(4)]
    torch.compile(patch_rows, fullgraph=True, backend="aot_eager")(actual, nodes, fresh, fresh_nodes)
    patch_rows.reference(expected, nodes, fresh, fresh_nodes)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stale": []}, "stale has 0 tensors, fresh has 1; give the same parts"),
        ({"nodes": torch.zeros(2)}, "nodes is torch.float32; give int32 or int64"),
        ({"nodes": torch.zeros(2, 1, dtype=torch.int64)}, r"nodes has shape \(2, 1\); give a vector"),
        ({"fresh": [torch.zeros(3, 4, dtype=torch.float64)]}, r"fresh\[0\] is torch.float64 beside stale\[0\]"),
        ({"fresh": [torch.zeros(3, 5)]}, r"fresh\[0\] has shape \(3, 5\) and should have \(3, 4\)"),
        ({"stale": [torch.zeros(3, 4)]}, r"stale\[0\] has shape \(3, 4\) and should have \(2, 4\)"),
        ({"stale": [torch.zeros(4, 2).t()]}, r"stale\[0\] \(2, 4\) has strides \(1, 2\)"),
        ({"fresh": [torch.zeros(3, 4, device="meta")]}, r"fresh\[0\] is on meta, not on cpu"),
        ({"stale": [torch.zeros(2, 4).bool()]}, r"stale\[0\] is torch.bool; give float32 or"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "stale": [torch.zeros(2, 4)], "nodes": torch.tensor([1, 2]),
        "fresh": [torch.zeros(3, 4)], "fresh_nodes": torch.tensor([1, 2, 3]),
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"patch_rows: {message}"):
        patch_rows(**{**arguments, **change})
