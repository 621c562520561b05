"""Inputs of the memory updaters: argument checks, table rows and message widths."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from mspipe_triton.kernels.runtime import checks

if TYPE_CHECKING:
    from mspipe_triton.kernels.updaters.gru import MemoryGRU
    from mspipe_triton.kernels.updaters.rnn import MemoryRNN

    Update: TypeAlias = MemoryGRU | MemoryRNN

TABLES, TIME = ("memory", "partner", "features"), ("frequency", "phase")
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
LEAVES = (*TABLES, *TIME, *WEIGHTS)


def read_rows(table: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Return the given rows of a table, or all if `rows` is None; a negative row is read as row 0."""
    if rows is None:
        return table
    if table.shape[1] == 0:
        return table.new_zeros((rows.numel(), 0))
    return table.index_select(0, rows.clamp(min=0))


def flags(has_mail: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return `has_mail` for kernels with products in a dtype: as int32 for float64.

    Triton before 3.9 chooses a product's layout by the narrowest dtype among its factors and their masks, and has none
    for float64 with bytes.
    """
    return has_mail.int() if dtype == torch.float64 else has_mail


def message_widths(args: Update) -> dict[str, int]:
    """Widths of a message's parts, by their constexpr names in the kernels."""
    tables = zip(("DIM", "PARTNER", "FEATURES"), (args.memory, args.partner, args.features), strict=True)
    return {**{name: table.shape[1] for name, table in tables}, "TIME": args.frequency.numel()}


def check_updater(name: str, gates: int, args: Update) -> None:
    """Refuse invalid inputs of a memory updater `name` whose weights have `gates` times D rows; see `memory_gru`."""
    if args.empty not in ("update", "keep"):
        raise ValueError(f"{name}: empty must be 'update' or 'keep', not {args.empty!r}")
    tables = {"memory": args.memory, "partner": args.partner, "features": args.features}
    rows = {"memory_rows": args.memory_rows, "partner_rows": args.partner_rows, "feature_rows": args.feature_rows}
    weights = {key: getattr(args, key) for key in WEIGHTS}
    others = {"deltas": args.deltas, "has_mail": args.has_mail, "count": args.count}
    times = {"frequency": args.frequency, "phase": args.phase}
    checks.dims(name, 2, **tables)
    checks.dims(name, 1, has_mail=args.has_mail, frequency=args.frequency)
    nodes, dim = args.has_mail.shape, args.memory.shape[1]
    out, width = gates * dim, sum(message_widths(args).values())
    if args.weight_ih.shape != (out, width):
        raise ValueError(
            f"{name}: weight_ih is {tuple(args.weight_ih.shape)}, messages have width {width}; give {(out, width)}"
        )
    checks.shape(
        name, weight_hh=(args.weight_hh, (out, dim)), bias_ih=(args.bias_ih, (out,)), bias_hh=(args.bias_hh, (out,)),
        phase=(args.phase, args.frequency.shape), deltas=(args.deltas, nodes), count=(args.count, (1,)),
        **{row: (tensor, nodes) for row, tensor in rows.items()},
    )  # fmt: skip
    checks.dtype(name, checks.COMPUTED, weight_ih=args.weight_ih)
    checks.same_dtype(name, **weights, **times)
    checks.dtype(name, checks.FLOATS, **tables, deltas=args.deltas)
    checks.dtype(name, checks.INTEGERS, **rows, count=args.count)
    checks.dtype(name, (torch.bool,), has_mail=args.has_mail)
    for key, weight in weights.items():
        if not weight.is_contiguous():
            raise ValueError(f"{name}: {key} has strides {weight.stride()}; give {key}.contiguous()")
    checks.layout(name, **tables, **rows, **weights, **others, **times)
    checks.device(name, args.weight_ih.device, tuple(tables), **tables, **rows, **weights, **others, **times)
    for table, row in zip(tables, rows, strict=True):
        if rows[row] is None and tables[table].shape[0] != args.has_mail.numel():
            raise ValueError(
                f"{name}: {table} has {tables[table].shape[0]} rows for {args.has_mail.numel()} nodes; give {row}"
            )
        checks.within(name, row, rows[row], tables[table].shape[0], None)
