"""What the memory updaters share in torch: checks of their arguments, rows of their tables, gradients of the tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mspipe_triton.kernels.checks import (
    COMPUTED,
    FLOATS,
    INTEGERS,
    check_device,
    check_dims,
    check_dtype,
    check_layout,
    check_range,
    check_same_dtype,
    check_shape,
)  # fmt: skip


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


def table_gradients(
    d_rows: torch.Tensor, tables: Sequence[tuple[torch.Size, torch.dtype]], needed: Sequence[bool],
    rows: Sequence[torch.Tensor | None],
) -> list[torch.Tensor | None]:  # fmt: skip
    """Gradients of the tables whose rows make a message, or None, from those of the message's rows [U, X].

    Args:
        tables: shape and dtype of each; rows: those that were read of it, or None where all were.
        needed: whether its gradient is.
    """
    gradients: list[torch.Tensor | None] = []
    first = 0
    for (shape, dtype), wanted, read in zip(tables, needed, rows, strict=True):
        gradient = None
        if wanted:
            gradient = d_rows[:, first : first + shape[1]]
            if read is not None:
                gradient = d_rows.new_zeros(shape).index_add(0, read.clamp(min=0).long(), gradient)
            gradient = gradient.to(dtype)
        gradients.append(gradient)
        first += shape[1]
    return gradients


def check_updater(
    name: str, gates: int,
    memory: torch.Tensor, memory_rows: torch.Tensor | None, partner: torch.Tensor, partner_rows: torch.Tensor | None,
    features: torch.Tensor, feature_rows: torch.Tensor | None, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    bias_ih: torch.Tensor, bias_hh: torch.Tensor, count: torch.Tensor | None,
) -> None:  # fmt: skip
    """Refuse what an operation `name` whose weights have `gates` times D rows cannot take; see `memory_gru`."""
    tables = {"memory": memory, "partner": partner, "features": features}
    rows = {"memory_rows": memory_rows, "partner_rows": partner_rows, "feature_rows": feature_rows}
    weights = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    others = {"deltas": deltas, "has_mail": has_mail, "count": count}
    times = {"frequency": frequency, "phase": phase}
    check_dims(name, 2, **tables)
    check_dims(name, 1, has_mail=has_mail, frequency=frequency)
    nodes, dim = has_mail.shape, memory.shape[1]
    out = gates * dim
    width = dim + partner.shape[1] + features.shape[1] + frequency.numel()
    if weight_ih.shape != (out, width):
        raise ValueError(
            f"{name}: weight_ih is {tuple(weight_ih.shape)}, messages have width {width}; give {(out, width)}"
        )
    check_shape(
        name, weight_hh=(weight_hh, (out, dim)), bias_ih=(bias_ih, (out,)), bias_hh=(bias_hh, (out,)),
        phase=(phase, frequency.shape), deltas=(deltas, nodes), count=(count, (1,)),
        **{row: (given, nodes) for row, given in rows.items()},
    )  # fmt: skip
    check_dtype(name, COMPUTED, weight_ih=weight_ih)
    check_same_dtype(name, **weights, **times)
    check_dtype(name, FLOATS, **tables, deltas=deltas)
    check_dtype(name, INTEGERS, **rows, count=count)
    check_dtype(name, (torch.bool,), has_mail=has_mail)
    for key, weight in weights.items():
        if not weight.is_contiguous():
            raise ValueError(f"{name}: {key} has strides {weight.stride()}; give {key}.contiguous()")
    check_layout(name, **tables, **rows, **weights, **others, **times)
    check_device(name, weight_ih.device, tuple(tables), **tables, **rows, **weights, **others, **times)
    for table, row in zip(tables, rows, strict=True):
        if rows[row] is None and tables[table].shape[0] != has_mail.numel():
            raise ValueError(
                f"{name}: {table} has {tables[table].shape[0]} rows for {has_mail.numel()} nodes; give {row}"
            )
        check_range(name, row, rows[row], tables[table].shape[0], None)
