"""Rows of a table by index, gathered on the device from device memory or from pinned host memory."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "gather_rows"
BYTES = (torch.bool, torch.uint8)


class Gather(NamedTuple):
    """Copy rows of a table, bit for bit, to the device of `rows`.

    result[i] := table[rows[i]]. A table in pinned host memory is read in place, and only the requested rows. The call
    does not wait for the device, so the host must not change such a table until the device has read it.

    Args:
        table: [N, ...], dense rows with any stride; float32, float64, bfloat16, int32, int64,
            uint8 or bool; on the device of `rows` or in pinned host memory.
        rows: [M] integer, 0 to N − 1, in any order, repeats allowed.

    Returns:
        [M, ...], contiguous. Nothing is mutated or differentiable; a backward pass raises an error.

    Raises:
        ValueError: a wrong dtype, shape, layout or device; with debugging on, a row outside the table.
    """

    table: torch.Tensor
    rows: torch.Tensor


def _reference(args: Gather) -> torch.Tensor:
    return args.table.index_select(0, args.rows)


@kernel(
    Config({"BLOCK": 16, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 32, "COLUMNS": 256}, num_warps=8),
    Config({"BLOCK": 4, "COLUMNS": 512}, num_warps=4),
    space={"BLOCK": (1, 2, 4, 8, 16, 32, 64), "COLUMNS": (32, 64, 128, 256, 512), **spaces.PLAIN},
)
def gather_kernel(
    p_table, p_rows, p_out, num_rows,
    STRIDE: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[i] := table[rows[i]] for rows of WIDTH elements with stride STRIDE in the table."""
    SPAN: tl.constexpr = PADDED if PADDED < COLUMNS else COLUMNS
    o_row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i_column = tl.program_id(1) * SPAN + tl.arange(0, SPAN)[None, :]
    b_row = tl.load(p_rows + o_row, mask=o_row < num_rows, other=0).to(tl.int64)[:, None]
    m_cell = (o_row < num_rows)[:, None] & (i_column < WIDTH)
    b_cell = tl.load(p_table + b_row * STRIDE + i_column, mask=m_cell)
    tl.store(p_out + o_row.to(tl.int64)[:, None] * WIDTH + i_column, b_cell, mask=m_cell)


def _launch(args: Gather) -> torch.Tensor:
    """Launch programs that each copy a block of columns of BLOCK rows."""
    table, rows, out = args.table, args.rows, _empty(args)
    width, config = table.shape[1:].numel(), gather_kernel.config()
    padded = pow2(width, 1)
    source, target = (part.view(torch.uint8) if part.dtype == torch.bool else part for part in (table, out))
    gather_kernel.launch(
        (cdiv(rows.numel(), config["BLOCK"]), cdiv(width, min(padded, config["COLUMNS"]))), config,
        source, rows, target, rows.numel(), STRIDE=table.stride(0), WIDTH=width, PADDED=padded,
    )  # fmt: skip
    return out


def _empty(args: Gather) -> torch.Tensor:
    """Allocate the output."""
    return args.rows.new_empty((args.rows.numel(), *args.table.shape[1:]), dtype=args.table.dtype)


def _check(args: Gather) -> None:
    table, rows = args
    checks.dtype(_NAME, checks.FLOATS + checks.INTEGERS + BYTES, table=table)
    checks.dtype(_NAME, checks.INTEGERS, rows=rows)
    checks.dims(_NAME, 1, rows=rows)
    if table.dim() == 0:
        raise ValueError(f"{_NAME}: table has shape (); give at least one dimension, for the rows")
    if table.dim() > 1:
        checks.layout(_NAME, table=table)
    checks.layout(_NAME, rows=rows)
    checks.device(_NAME, rows.device, ("table",), table=table if table.numel() else None)  # empty is never pinned
    checks.within(_NAME, "rows", rows, table.shape[0])


gather_rows = operation(
    _NAME, Gather, reference=_reference, launch=_launch, fake=_empty, check=_check, on="rows",
    refuses="its table gets no gradient; give table.detach(), or use table[rows]",
)  # fmt: skip
