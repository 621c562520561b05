"""Exchanges of ranks: gathered parts, sums, flags, values and tensors of the first one, and the bytes of each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from mspipe_triton.distributed import ranks as ranks_module
from mspipe_triton.distributed.ranks import ALONE, Ranks, Traffic
from tests.processes.pool import Pool

DTYPES = (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (3,), (0,), (5, 3), (0, 4), (4, 0), (2, 3, 7))
CPU = torch.device("cpu")


def values(rank: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return values that differ by rank and place, and that every dtype holds."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 7 + rank * 31) % 128).add(rank % 2).to(dtype).view(shape)


def gather_everything() -> None:
    """Gather parts of all shapes and dtypes at once, and of each alone."""
    ranks = Ranks.of_group(CPU)
    kinds = [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    for some in (kinds, *([kind] for kind in kinds)):
        gathered = ranks.gather([values(ranks.rank, *kind) for kind in some]).wait()
        for kind, each in zip(some, gathered, strict=True):
            expected = torch.stack([values(rank, *kind) for rank in range(ranks.count)])
            assert each.dtype == expected.dtype, kind
            assert torch.equal(each, expected), kind


def gather_views() -> None:
    """Gather parts with strides, gradients and NaNs; the parts may change once the exchange has started."""
    ranks = Ranks.of_group(CPU)
    table = torch.arange(24.0, requires_grad=True) + ranks.rank
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 5e-324], dtype=torch.float64)
    parts = [table.view(4, 6).t(), table[1::5], odd.expand(3, 4)]
    gathering = ranks.gather(parts)
    table.data.fill_(-1.0)
    transposed, strided, special = gathering.wait()
    for rank in range(ranks.count):
        expected = torch.arange(24.0) + rank
        assert torch.equal(transposed[rank], expected.view(4, 6).t())
        assert torch.equal(strided[rank], expected[1::5])
        assert torch.equal(special[rank].view(torch.int64), odd.expand(3, 4).contiguous().view(torch.int64))
    assert not transposed.requires_grad


def exchange_together() -> None:
    """Wait for two exchanges in the other order, and reduce meanwhile."""
    ranks = Ranks.of_group(CPU)
    for turn in range(20):
        first = ranks.gather([torch.full((1000 * turn + 1,), ranks.rank + turn)])
        second = ranks.gather([torch.tensor([turn, ranks.rank])])
        total = torch.full((50, 3), float(ranks.rank))
        ranks.reduce([total])
        assert second.wait()[0].tolist() == [[turn, rank] for rank in range(ranks.count)]
        assert first.wait()[0][:, -1].tolist() == [rank + turn for rank in range(ranks.count)]
        assert torch.equal(total, torch.full((50, 3), sum(range(ranks.count)), dtype=torch.float32))


def gradients(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    shapes = ((100, 37), (1,), (), (0, 3), (37,), (8, 5))
    parts = [torch.randn(shape, generator=generator) * 10.0 ** (3 * rank) for shape in shapes]
    return [*parts[:-1], parts[-1].t()]


def reduce_gradients() -> list[bytes]:
    """Return the bytes of sums of gradients of unlike sizes; the tensors' memory stays the same."""
    ranks = Ranks.of_group(CPU)
    tensors = gradients(ranks.rank)
    places = [each.data_ptr() for each in tensors]
    ranks.reduce(iter(tensors))
    assert [each.data_ptr() for each in tensors] == places
    ranks.reduce([])
    return [each.contiguous().numpy().tobytes() for each in tensors]


def agree() -> None:
    """Exchange flags, values and tensors."""
    ranks, calls = Ranks.of_group(CPU), list[int]()
    assert [ranks.any(False), ranks.any(True), ranks.any(ranks.rank == 1)] == [False, True, True]

    def make() -> dict[str, object]:
        calls.append(ranks.rank)
        return {"rank": ranks.rank, "names": ["a", None]}

    assert ranks.from_first(make) == {"rank": 0, "names": ["a", None]}
    assert ranks.from_first(lambda: None) is None
    assert calls == [0] * ranks.first
    parameter = torch.nn.Parameter(torch.full((3, 2), float(ranks.rank)))
    whole = torch.full((6, 4), ranks.rank)
    tensors = [parameter, torch.tensor(ranks.rank), torch.empty(0), torch.tensor([ranks.rank > 0]), whole.t()[1:3]]
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(ranks_module, "_PIECE", 10)  # bytes, so that pieces end inside of numbers
        ranks.copy_from_first(tensors)
    assert not any(each.any() for each in tensors)
    assert parameter.requires_grad
    assert bool((whole[:, 3] == ranks.rank).all())


def count_bytes() -> Traffic:
    ranks = Ranks.of_group(CPU)
    ranks.gather([torch.zeros(3, dtype=torch.bfloat16), torch.zeros(2, 5), torch.zeros(0), torch.zeros(())]).wait()
    ranks.gather([torch.zeros(1, dtype=torch.uint8)]).wait()
    ranks.reduce([torch.zeros(10, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)])
    ranks.any(True)
    return ranks.traffic


def exchanges() -> tuple[list[bytes], Traffic]:
    """Carry out all of the above in one process group."""
    gather_everything()
    gather_views()
    exchange_together()
    agree()
    return reduce_gradients(), count_bytes()


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 4])
def test_exchanges(processes: Pool, world: int) -> None:
    results = processes(world, exchanges)
    sums = [result[0] for result in results]
    assert all(each == sums[0] for each in sums), "the sums of the ranks differ"
    exact = [
        sum(parts).float() for parts in zip(*([g.double() for g in gradients(r)] for r in range(world)), strict=True)
    ]
    for total, expected in zip(sums[0], exact, strict=True):
        actual = torch.frombuffer(bytearray(total), dtype=torch.float32) if total else torch.empty(0)
        # Sums of N numbers err by N − 1 roundings of the largest one, which is below 5 · 10^(3 (N − 1)).
        error = (world - 1) * 2.0**-23 * 5 * 10.0 ** (3 * (world - 1))
        torch.testing.assert_close(actual.view(expected.shape), expected, rtol=0, atol=error)
    # Parts of 6, 40, 0 and 4 bytes start at multiples of 8, and so does the end.
    gathered = world * (8 + 40 + 0 + 8) + world * 8
    assert all(traffic == Traffic(gathered, 34 * 8) for _, traffic in results)


def test_a_process_alone_exchanges_nothing() -> None:
    alone = Ranks()
    for dtype in DTYPES:
        parts = [values(0, shape, dtype) for shape in SHAPES]
        for part, whole in zip(parts, alone.gather(parts).wait(), strict=True):
            assert torch.equal(whole, part.unsqueeze(0))
    total = torch.ones(3)
    alone.reduce([total])
    alone.copy_from_first([total])
    assert total.tolist() == [1, 1, 1]
    assert [alone.any(False), alone.any(True), alone.from_first(lambda: 7)] == [False, True, 7]
    assert ALONE.alone
    assert ALONE.first
    assert not Ranks(1, 2).alone
    assert not Ranks(1, 2).first


@pytest.mark.parametrize(("size", "count", "share"), [(600, 4, 150), (10, 4, 3), (3, 4, 1), (1, 1, 1), (77, 2, 39)])
def test_shares(size: int, count: int, share: int) -> None:
    assert Ranks(0, count).share(size) == share
