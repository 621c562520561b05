"""gather_rows, by reference and by kernel in the interpreter, against rows copied one by one, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton.kernels import enable_debug, gather_rows
from mspipe_triton.kernels.mails.gather_rows import gather_kernel
from mspipe_triton.kernels.runtime import launch

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool]


@pytest.fixture
def debug() -> Iterator[None]:
    enable_debug()
    yield
    enable_debug(False)


def bits(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Make numbers of random bits, including NaNs with payloads."""
    empty = torch.empty(shape, dtype=dtype)
    if dtype == torch.bool:
        return torch.from_numpy(np.random.default_rng(1).integers(0, 2, shape).astype(bool))
    random = np.random.default_rng(1).integers(0, 256, empty.numel() * empty.element_size(), dtype=np.uint8)
    return torch.from_numpy(random).view(dtype).view(shape) if empty.numel() else empty


def raw(row: torch.Tensor) -> bytes:
    return row.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if row.numel() else b""


def check(table: torch.Tensor, rows: list[int], ids: torch.dtype = torch.int64) -> None:
    before = [raw(row) for row in table]
    result = gather_rows(table, torch.tensor(rows, dtype=ids))
    assert result.shape == (len(rows), *table.shape[1:])
    assert result.dtype == table.dtype
    assert result.is_contiguous()
    assert [raw(row) for row in result] == [before[row] for row in rows]
    assert [raw(row) for row in table] == before


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3)], ids=str)
def test_dtypes_and_shapes_of_rows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(bits((9, *shape), dtype), [8, 0, 3, 3, 0, 7])


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("ids", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("count", [0, 1, 17, 123])
def test_numbers_of_rows(count: int, ids: torch.dtype) -> None:
    check(bits((40, 5), torch.float32), np.random.default_rng(count).integers(0, 40, count).tolist(), ids)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("width", [0, 1, 100, 129, 413])
@pytest.mark.parametrize("padding", [0, 3])
def test_widths_and_gaps_between_rows(width: int, padding: int) -> None:
    check(bits((6, width + padding), torch.float64)[:, :width], [5, 1, 1, 4])


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("config", gather_kernel.configs["float32"], ids=str)
def test_every_configuration(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gather_kernel.chosen, "float32", config)
    check(bits((50, 600), torch.bfloat16), list(range(35)))
    check(bits((50, 2), torch.int64)[:, 0], list(range(49, 0, -1)))


@pytest.mark.usefixtures("backend")
def test_empty_tables() -> None:
    check(torch.zeros(0, 4), [])
    check(torch.zeros(3, 0), [2, 2])


@pytest.mark.usefixtures("backend", "debug")
@pytest.mark.parametrize("row", [-1, 5])
def test_debugging_finds_a_row_outside_the_table(row: int) -> None:
    with pytest.raises(ValueError, match=rf"gather_rows: rows holds {row}, outside \[0, 5\)"):
        gather_rows(torch.zeros(5, 2), torch.tensor([1, row]))


@pytest.mark.usefixtures("backend")
def test_a_backward_pass_is_refused() -> None:
    table = torch.zeros(5, 2, requires_grad=True)
    result = gather_rows(table, torch.tensor([1]))
    with pytest.raises(RuntimeError, match=r"gather_rows: its table gets no gradient; give table.detach\(\)"):
        result.sum().backward()


def test_the_operation_passes_opcheck() -> None:
    for table in (torch.randn(5, 3), torch.arange(5), torch.randn(5, 2, 3)):
        torch.library.opcheck(torch.ops.mspipe_triton.gather_rows.default, (table, torch.tensor([4, 0, 4])))


@pytest.mark.usefixtures("backend")
def test_it_compiles_as_one_graph() -> None:
    table, rows = torch.randn(5, 3), torch.tensor([4, 0, 4])
    compiled = torch.compile(gather_rows, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(table, rows), table[rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": torch.zeros(5, 2, dtype=torch.float16)}, "table is torch.float16; give float32 or"),
        ({"table": torch.zeros(())}, r"table has shape \(\); give at least one dimension"),
        ({"table": torch.zeros(2, 5).t()}, r"table \(5, 2\) has strides \(1, 5\); its last must be 1"),
        ({"table": torch.zeros(5, 2, device="meta")}, "table is on meta, not on cpu"),
        ({"rows": torch.zeros(2)}, "rows is torch.float32; give int32 or int64"),
        ({"rows": torch.zeros(2, 1, dtype=torch.int64)}, r"rows has shape \(2, 1\); give 1 dimensions"),
        ({"rows": torch.zeros(4, dtype=torch.int64)[::2]}, r"rows \(2,\) has strides \(2,\); its last must be 1"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"table": torch.zeros(5, 2), "rows": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=f"gather_rows: {message}"):
        gather_rows(**{**arguments, **change})


def test_a_pageable_table_beside_rows_on_a_device_is_refused() -> None:
    with pytest.raises(ValueError, match="gather_rows: table is in pageable host memory, which a kernel cannot read"):
        gather_rows(torch.zeros(5, 2), torch.zeros(2, dtype=torch.int64, device="meta"))
