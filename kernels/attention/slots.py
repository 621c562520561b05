"""Rows x_j = [h_j ‖ e_j ‖ φ(Δt_j)] of a root's slots (neighbours or mails), which attention and its gradients read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from mspipe_triton.kernels.numbers.time_encoding import cos_turns, turns_block
from mspipe_triton.kernels.runtime import checks
from mspipe_triton.kernels.runtime.fusion import fused, fusion_enabled
from mspipe_triton.kernels.runtime.launch import Config, Kernel, device_function, pow2, tl

if TYPE_CHECKING:
    from mspipe_triton.kernels.attention.layer import AttentionLayer
    from mspipe_triton.kernels.attention.temporal import Attention


class Slots(NamedTuple):
    """The parts from which torch reads x_j [R, F, X].

    First node rows: from `table` [·, D] by `rows` [R, F], from `table` [·, F, D] by `rows` [R], or `table` [R, F, D]
    itself if `rows` is None. Then `edges` [R, F, E], unless None, and `others` [R, F, ·].
    """

    table: torch.Tensor
    rows: torch.Tensor | None
    edges: torch.Tensor | None
    others: torch.Tensor


def mail_slots(
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    counts: torch.Tensor, encoded: torch.Tensor,
) -> Slots:  # fmt: skip
    """Slots of mailboxes [N, F, D], with φ `encoded` [R, F, T].

    Without fusion both tables are gathered once. Compiled loops are faster reading mailboxes in place, but not rows.
    """
    if rows is not None:
        rows = torch.where(counts > 0, rows, 0)
    if not fusion_enabled():
        mails, rows = gather(mails, rows).to(encoded.dtype), None
    return Slots(mails, rows, edge_rows(features, feature_rows, counts, encoded), encoded)


def edge_rows(
    features: torch.Tensor, feature_rows: torch.Tensor | None, counts: torch.Tensor, encoded: torch.Tensor
) -> torch.Tensor | None:
    """The slots' edge rows [R, F, E] in the dtype of φ [R, F, T], or None if E is 0."""
    if features.shape[1] == 0:
        return None
    if feature_rows is None:
        return features.view(*encoded.shape[:2], features.shape[1]).to(encoded.dtype)
    return gather(features, filled_rows(feature_rows, counts).clamp_(min=0)).to(encoded.dtype)


def filled_rows(rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """`rows` [R, F] with 0 in each root's empty slots."""
    return torch.where(torch.arange(rows.shape[1], device=rows.device) < counts.unsqueeze(1), rows, 0)


@fused()
def products(
    query: torch.Tensor, query_rows: torch.Tensor | None, table: torch.Tensor, rows: torch.Tensor | None,
    edges: torch.Tensor | None, others: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """query · x_j [R, K, F] for `Slots` and the queries [·, K, X] at `query_rows` [R], or all queries if None."""
    query = gather(query, query_rows)
    first, total = 0, None
    for part in _parts(query.dtype, table, rows, edges, others):
        columns = query[..., first : first + part.shape[2]]
        first += part.shape[2]
        if torch.compiler.is_compiling():
            # The compiler turns these sums into vectorised loops that read the table in place, without a gathered copy.
            product = (columns.unsqueeze(2) * part.unsqueeze(1)).sum(3)
            total = product if total is None else total + product
        else:
            total = torch.bmm(columns, part.mT) if total is None else torch.baddbmm(total, columns, part.mT)
    assert total is not None
    return total


@fused()
def weighted_sums(
    weights: torch.Tensor, table: torch.Tensor, rows: torch.Tensor | None,
    edges: torch.Tensor | None, others: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Σ_j w_j x_j [R, K, X] for weights [R, K, F] and `Slots`."""
    parts = _parts(weights.dtype, table, rows, edges, others)
    if torch.compiler.is_compiling():  # the sums are written to their columns at once, without a copy
        return torch.cat([(weights.unsqueeze(3) * part.unsqueeze(1)).sum(2) for part in parts], 2)
    return torch.cat([torch.bmm(weights, part) for part in parts], 2)


def _parts(
    dtype: torch.dtype, table: torch.Tensor, rows: torch.Tensor | None,
    edges: torch.Tensor | None, others: torch.Tensor,
) -> list[torch.Tensor]:  # fmt: skip
    nodes = gather(table, rows).to(dtype)
    return [nodes, others] if edges is None else [nodes, edges, others]


def gather(table: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """table[rows]; compiled code fuses indexing, eager code is fastest with index_select."""
    if rows is None:
        return table
    if torch.compiler.is_compiling():
        return table[rows]
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, *table.shape[1:])


@device_function
def slots_of(
    p_table, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase, root,
    MAILBOX: tl.constexpr, DIM: tl.constexpr, STRIDE_TABLE: tl.constexpr, STRIDE_FEATURES: tl.constexpr,
    FANOUT: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """The sources of a root's x_j for `slot_block`; the first three are the mask of filled slots, Δt and table rows.

    These are [SLOTS]; with MAILBOX, one table row holds all h_j of the root. An empty slot has Δt 0.
    """
    i_slot = tl.arange(0, SLOTS)
    m_slot = i_slot < tl.minimum(tl.load(p_counts + root), FANOUT)
    o_slot = root * FANOUT + i_slot
    if MAILBOX:
        b_row = root
        if p_rows is not None:
            b_row = tl.load(p_rows + root).to(tl.int64)
        p_node = p_table + b_row * STRIDE_TABLE + i_slot[:, None] * DIM
    else:
        b_row = tl.load(p_rows + o_slot, mask=m_slot, other=0).to(tl.int64)
        p_node = p_table + b_row[:, None] * STRIDE_TABLE
    b_feature_row = o_slot
    if p_feature_rows is not None:
        b_feature_row = tl.maximum(tl.load(p_feature_rows + o_slot, mask=m_slot, other=0).to(tl.int64), 0)
    b_delta = tl.load(p_deltas + o_slot, mask=m_slot, other=0).to(p_frequency.dtype.element_ty)
    p_edge = p_features + b_feature_row[:, None] * STRIDE_FEATURES
    return m_slot, b_delta, b_row, p_node, p_edge, p_frequency, p_phase


@device_function
def slot_block(
    source, FIRST: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Columns FIRST to FIRST + BLOCK of a root's x_j [SLOTS, BLOCK], 0 beyond the last; finite in empty slots."""
    m_slot, b_delta, _, p_node, p_edge, p_frequency, p_phase = source
    i_x = FIRST + tl.arange(0, BLOCK)
    b_x = tl.zeros([SLOTS, BLOCK], b_delta.dtype)
    if FIRST < DIM:
        m_node = m_slot[:, None] & (i_x < DIM)[None, :]
        b_x = tl.load(p_node + i_x[None, :], mask=m_node, other=0).to(b_delta.dtype)
    if EDGE > 0 and FIRST < DIM + EDGE and FIRST + BLOCK > DIM:
        i_edge = i_x - DIM
        m_edge = m_slot[:, None] & ((i_edge >= 0) & (i_edge < EDGE))[None, :]
        b_x += tl.load(p_edge + i_edge[None, :], mask=m_edge, other=0).to(b_delta.dtype)
    if FIRST + BLOCK > DIM + EDGE:
        i_time = i_x - (DIM + EDGE)
        m_time = (i_time >= 0) & (i_time < TIME)
        b_time = cos_turns(turns_block(b_delta, p_frequency, p_phase, i_time, m_time))
        b_x = tl.where(m_time[None, :], b_time, b_x)
    return b_x


@device_function
def held_blocks(
    source, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """All blocks of a root's x_j, read once; none if they exceed HELD numbers, in which case each use reads them."""
    b_held = ()
    if SLOTS * (DIM + EDGE + TIME) <= HELD:
        for first in tl.static_range(0, DIM + EDGE + TIME, BLOCK):
            b_x = slot_block(source, first, DIM, EDGE, TIME, SLOTS, BLOCK)
            b_held += (b_x,)  # type: ignore[assignment]  # the loop is unrolled
    return b_held


@device_function
def row_products(
    p_row, source, b_held, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """row · x_j [SLOTS] for a row [D + E + T] in memory."""
    b_sum = tl.zeros([SLOTS, BLOCK], source[1].dtype)
    for first in tl.static_range(0, DIM + EDGE + TIME, BLOCK):
        b_x = b_held[first // BLOCK] if len(b_held) > 0 else slot_block(source, first, DIM, EDGE, TIME, SLOTS, BLOCK)
        b_sum += b_x * load_columns(p_row, first, DIM + EDGE + TIME, BLOCK)[None, :]
    return tl.sum(b_sum, 1)


@device_function
def write_mixed(
    p_row, b_weight, ADD: tl.constexpr, source, b_held, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write Σ_j w_j x_j to a row [D + E + T], or with ADD add it atomically."""
    for first in tl.static_range(0, DIM + EDGE + TIME, BLOCK):
        b_x = b_held[first // BLOCK] if len(b_held) > 0 else slot_block(source, first, DIM, EDGE, TIME, SLOTS, BLOCK)
        i_x = first + tl.arange(0, BLOCK)
        write_block(p_row + i_x, tl.sum(b_weight[:, None] * b_x, 0), i_x < DIM + EDGE + TIME, ADD)


@device_function
def load_columns(p_row, FIRST: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns FIRST to FIRST + BLOCK of a row [WIDTH], 0 beyond its end."""
    i_column = FIRST + tl.arange(0, BLOCK)
    return tl.load(p_row + i_column, mask=i_column < WIDTH, other=0)


@device_function
def write_block(p_block, b_block, m_block, ADD: tl.constexpr):
    """Store a block, or with ADD add it atomically."""
    if ADD:
        tl.atomic_add(p_block, b_block, mask=m_block, sem="relaxed")
    else:
        tl.store(p_block, b_block, mask=m_block)


def slots_arguments(args: Attention) -> tuple[torch.Tensor | None, ...]:
    """Arguments of both attention kernels: table, rows, edge rows, time differences, counts and time encoder."""
    rows = args.rows if args.table.dim() == 3 else args.rows.contiguous()
    feature_rows = None if args.feature_rows is None else args.feature_rows.contiguous()
    slots = args.table, rows, args.features, feature_rows, args.deltas.contiguous(), args.counts
    return *slots, args.frequency, args.phase


def slots_shapes(args: Attention) -> dict[str, int]:
    """Constants of both attention kernels: form of the table, widths, row strides, fanout and block of slots."""
    fanout = args.deltas.shape[1]
    return {
        "MAILBOX": args.table.dim() == 3, "DIM": args.table.shape[-1], "EDGE": args.features.shape[1],
        "TIME": args.frequency.numel(), "STRIDE_TABLE": args.table.stride(0),
        "STRIDE_FEATURES": args.features.stride(0), "FANOUT": fanout, "SLOTS": pow2(fanout, 1),
    }  # fmt: skip


def slots_config(kernel: Kernel, args: Attention) -> Config:
    """Return the configuration of an attention kernel.

    Configurations for neighbours are tuned for 16 slots; a larger fanout gets proportionally more warps, up to 8.
    """
    kind, fanout = "float64" if args.query.dtype == torch.float64 else "float32", args.deltas.shape[1]
    if args.table.dim() == 3:
        return kernel.config(f"mails_{kind}")
    config = kernel.config(kind)
    if fanout <= 16:
        return config
    warps = max(min(config.num_warps * pow2(fanout) // 16, 8), config.num_warps)
    budget = config["HELD"] * warps // config.num_warps
    return Config({**config.blocks, "HELD": budget}, warps, config.num_stages, base=config)


def inner_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself if its last dimension is dense, as the kernels need it, else a contiguous copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def check_slots(operation: str, device: torch.device, shape: tuple[int, ...], args: Attention | AttentionLayer) -> None:
    """Refuse edge rows, time differences and counts that do not fit slots [R, F] on `device`."""
    checks.dims(operation, 2, features=args.features)
    checks.dims(operation, 1, frequency=args.frequency)
    checks.shape(
        operation, deltas=(args.deltas, shape), feature_rows=(args.feature_rows, shape),
        counts=(args.counts, shape[:1]), phase=(args.phase, args.frequency.shape),
    )  # fmt: skip
    width = args.features.shape[1]
    if args.feature_rows is None and width > 0:
        checks.shape(operation, features=(args.features, (shape[0] * shape[1], width)))
    checks.dtype(operation, checks.FLOATS, features=args.features, deltas=args.deltas)
    checks.dtype(operation, checks.INTEGERS, feature_rows=args.feature_rows, counts=args.counts)
    names = ("features", "feature_rows", "deltas", "counts", "frequency", "phase")
    tensors = {name: getattr(args, name) for name in names}
    checks.layout(operation, **tensors)
    checks.device(operation, device, ("features",), **tensors)
    checks.within(operation, "counts", args.counts, shape[1] + 1)
    if args.feature_rows is not None and width > 0:
        check_filled(operation, "feature_rows", args.feature_rows, args.counts, args.features.shape[0], None)


def check_filled(
    operation: str, name: str, rows: torch.Tensor, counts: torch.Tensor, stop: int, start: int | None = 0
) -> None:
    """With checks.debugging on, refuse rows [R, F] of filled slots outside [start, stop)."""
    if checks.debugging():
        filled = torch.arange(rows.shape[1], device=rows.device) < counts.unsqueeze(1)
        checks.within(operation, name, rows[filled], stop, start)
