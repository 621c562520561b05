"""The kernel of patch_rows, in the interpreter, against the last fresh row of each node, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mspipe_triton.kernels.mails.patch import patch_rows

pytestmark = pytest.mark.usefixtures("interpreter")

Shapes = list[tuple[tuple[int, ...], torch.dtype]]
SHAPES: Shapes = [
    ((7,), torch.float32), ((), torch.int64), ((7,), torch.float32), ((), torch.float64), ((3,), torch.bfloat16),
    ((0,), torch.float32), ((2, 5), torch.float64), ((), torch.int32),
]  # fmt: skip


def bits(rows: int, shape: tuple[int, ...], dtype: torch.dtype, random: np.random.Generator) -> torch.Tensor:
    """Make rows of random bits, including NaNs with payloads."""
    part = torch.empty(rows, *shape, dtype=dtype)
    numbers = random.integers(0, 256, part.numel() * part.element_size(), dtype=np.uint8)
    return torch.from_numpy(numbers).view(dtype).view_as(part) if part.numel() else part


def raw(tensor: torch.Tensor, rows: int) -> list[bytes]:
    if tensor.numel() == 0:
        return [b""] * rows
    return [row.numpy().tobytes() for row in tensor.reshape(rows, -1).contiguous().view(torch.uint8)]


def check(
    nodes: list[int], fresh_nodes: list[int], shapes: Shapes = SHAPES, ids: torch.dtype = torch.int64, stride: int = 0
) -> None:
    random = np.random.default_rng(len(nodes))

    def table(rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if len(shape) == 1 and stride:
            return bits(rows, (shape[0] + stride,), dtype, random)[:, : shape[0]]
        return bits(rows, shape, dtype, random)

    stale = [table(len(nodes), *part) for part in shapes]
    fresh = [table(len(fresh_nodes), *part) for part in shapes]
    last = {node: p for p, node in enumerate(fresh_nodes)}
    expected = []
    for old, new in zip(stale, fresh, strict=True):
        rows, others = raw(old, len(nodes)), raw(new, len(fresh_nodes))
        expected.append([others[last[n]] if n >= 0 and n in last else rows[u] for u, n in enumerate(nodes)])
    snapshot = [raw(new, len(fresh_nodes)) for new in fresh]
    patch_rows(stale, torch.tensor(nodes, dtype=ids), fresh, torch.tensor(fresh_nodes, dtype=ids))
    for k, old in enumerate(stale):
        assert raw(old, len(nodes)) == expected[k], f"part {k}"
    assert [raw(new, len(fresh_nodes)) for new in fresh] == snapshot


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_the_last_fresh_row_of_a_node_wins_in_every_part(ids: torch.dtype) -> None:
    check([4, 2, -1, 9, 2], [2, 4, 2, -1, 7, 2], ids=ids)


@pytest.mark.parametrize("stale", [0, 1, 17])
@pytest.mark.parametrize("fresh", [0, 1, 129])
def test_sizes(stale: int, fresh: int) -> None:
    random = np.random.default_rng(1000 * stale + fresh)
    shapes: Shapes = [((3,), torch.float32), ((), torch.int64)]
    check(random.integers(-1, 90, stale).tolist(), random.integers(-1, 90, fresh).tolist(), shapes)


@pytest.mark.parametrize("width", [1, 3, 100, 172, 413])
def test_widths_and_gaps_between_rows(width: int) -> None:
    shapes: Shapes = [((width,), dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16)]
    check([1, 2, 3, -1, 5], [9, 3, 1, 3], shapes)
    check([1, 2, 3, -1, 5], [9, 3, 1, 3], shapes, stride=3)


def test_slots_of_a_mailbox() -> None:
    check([1, 2, 3], [3, 3, 0], [((10, 16), torch.float32), ((10,), torch.int64), ((), torch.int64)])


def test_all_padding_and_no_match() -> None:
    check([-1, -2, -1], [-1, -1, -2])
    check([1, 2, 3], [4, 5])
    check([2**31 - 1, 2**31, 2**40], [2**40, 2**31 - 1])


def test_nothing_to_patch() -> None:
    patch_rows([], torch.tensor([1]), [], torch.tensor([1]))
    patch_rows([torch.zeros(1, 0)], torch.tensor([1]), [torch.zeros(1, 0)], torch.tensor([1]))
