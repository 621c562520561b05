"""What the memory updaters share in torch: checks of their arguments, rows of their tables, gradients of the tables."""

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
    """The rows of a table: all of them without `rows`, row 0 for negatives."""
    if rows is None:
        return table
    if table.shape[1] == 0:
        return table.new_zeros((rows.numel(), 0))
    return table.index_select(0, rows.clamp(min=0))


def flags(has_mail: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`has_mail` as kernels with products in a dtype read it: beside float64 as integers of 32 bits.

    Triton before 3.9 lays a product out by the narrowest number that its factors, or their masks, are made of, and
    cannot do so in float64 for bytes.
    """
    return has_mail.int() if dtype == torch.float64 else has_mail


def message_widths(of: Update) -> dict[str, int]:
    """Of a message's parts, by the names that kernels give them."""
    tables = zip(("DIM", "PARTNER", "FEATURES"), (of.memory, of.partner, of.features), strict=True)
    return {**{name: table.shape[1] for name, table in tables}, "TIME": of.frequency.numel()}


def check_updater(name: str, gates: int, of: Update) -> None:
    """Refuse what an operation `name` whose weights have `gates` times D rows cannot take; see `memory_gru`."""
    if of.empty not in ("update", "keep"):
        raise ValueError(f"{name}: empty must be 'update' or 'keep', not {of.empty!r}")
    tables = {"memory": of.memory, "partner": of.partner, "features": of.features}
    rows = {"memory_rows": of.memory_rows, "partner_rows": of.partner_rows, "feature_rows": of.feature_rows}
    weights = {key: getattr(of, key) for key in WEIGHTS}
    others = {"deltas": of.deltas, "has_mail": of.has_mail, "count": of.count}
    times = {"frequency": of.frequency, "phase": of.phase}
    checks.dims(name, 2, **tables)
    checks.dims(name, 1, has_mail=of.has_mail, frequency=of.frequency)
    nodes, dim = of.has_mail.shape, of.memory.shape[1]
    out, width = gates * dim, sum(message_widths(of).values())
    if of.weight_ih.shape != (out, width):
        raise ValueError(
            f"{name}: weight_ih is {tuple(of.weight_ih.shape)}, messages have width {width}; give {(out, width)}"
        )
    checks.shape(
        name, weight_hh=(of.weight_hh, (out, dim)), bias_ih=(of.bias_ih, (out,)), bias_hh=(of.bias_hh, (out,)),
        phase=(of.phase, of.frequency.shape), deltas=(of.deltas, nodes), count=(of.count, (1,)),
        **{row: (given, nodes) for row, given in rows.items()},
    )  # fmt: skip
    checks.dtype(name, checks.COMPUTED, weight_ih=of.weight_ih)
    checks.same_dtype(name, **weights, **times)
    checks.dtype(name, checks.FLOATS, **tables, deltas=of.deltas)
    checks.dtype(name, checks.INTEGERS, **rows, count=of.count)
    checks.dtype(name, (torch.bool,), has_mail=of.has_mail)
    for key, weight in weights.items():
        if not weight.is_contiguous():
            raise ValueError(f"{name}: {key} has strides {weight.stride()}; give {key}.contiguous()")
    checks.layout(name, **tables, **rows, **weights, **others, **times)
    checks.device(name, of.weight_ih.device, tuple(tables), **tables, **rows, **weights, **others, **times)
    for table, row in zip(tables, rows, strict=True):
        if rows[row] is None and tables[table].shape[0] != of.has_mail.numel():
            raise ValueError(
                f"{name}: {table} has {tables[table].shape[0]} rows for {of.has_mail.numel()} nodes; give {row}"
            )
        checks.within(name, row, rows[row], tables[table].shape[0], None)
