"""The two kernels of mode "mean" of `aggregate_messages`, and device functions that they share with "last"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, device_function, kernel, pow2, tl

if TYPE_CHECKING:
    from mspipe_triton.kernels.mails.aggregate import Aggregate


@device_function
def end_rows(p_src, p_dst, p_src_rows, p_dst_rows, o_event, m_event):
    """Rows of both endpoints of events, −1 where either node is padding and outside the mask."""
    b_src = tl.load(p_src + o_event, mask=m_event, other=-1)
    b_dst = tl.load(p_dst + o_event, mask=m_event, other=-1)
    m_real = (b_src >= 0) & (b_dst >= 0)
    b_src_row = tl.load(p_src_rows + o_event, mask=m_event, other=-1).to(tl.int32)
    b_dst_row = tl.load(p_dst_rows + o_event, mask=m_event, other=-1).to(tl.int32)
    return tl.where(m_real, b_src_row, -1), tl.where(m_real, b_dst_row, -1)


@device_function
def position_rows(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position):
    """Rows of the endpoint and of the other endpoint at positions 2·event + side, −1 for padding."""
    b_src, b_dst = end_rows(p_src, p_dst, p_src_rows, p_dst_rows, o_position // 2, o_position < 2 * num_events)
    m_src = o_position % 2 == 0
    return tl.where(m_src, b_src, b_dst), tl.where(m_src, b_dst, b_src)


@device_function
def is_last(
    p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position, b_own, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """Mask of positions whose row b_own [BLOCK] occurs at no later position; scans forward until none is left."""
    m_open = b_own >= 0
    o_first = tl.program_id(0) * (BLOCK // 2)
    while (o_first < num_events) & (tl.max(m_open.to(tl.int32), 0) > 0):
        o_event = o_first + tl.arange(0, CHUNK)
        b_src, b_dst = end_rows(p_src, p_dst, p_src_rows, p_dst_rows, o_event, o_event < num_events)
        m_src = (b_src[None, :] == b_own[:, None]) & (2 * o_event[None, :] > o_position[:, None])
        m_dst = (b_dst[None, :] == b_own[:, None]) & (2 * o_event[None, :] + 1 > o_position[:, None])
        m_open = m_open & (tl.max((m_src | m_dst).to(tl.int32), 1) == 0)
        o_first += CHUNK
    return m_open


@device_function
def target_nodes(p_src, p_dst, o_position, m_last):
    """Nodes at positions 2·event + side."""
    m_src = o_position % 2 == 0
    b_src = tl.load(p_src + o_position // 2, mask=m_last & m_src, other=0).to(tl.int64)
    return tl.where(m_src, b_src, tl.load(p_dst + o_position // 2, mask=m_last & ~m_src, other=0).to(tl.int64))


@device_function
def store_cells(p_cell, b_value, m_cell):
    """Store numbers in a table's dtype; bfloat16 is rounded through float32, as in torch and for the interpreter."""
    if p_cell.dtype.element_ty == tl.bfloat16:
        b_value = b_value.to(tl.float32)
    tl.store(p_cell, b_value.to(p_cell.dtype.element_ty), mask=m_cell)


@device_function
def copy_rows(
    p_to, stride_to, b_to, p_from, stride_from, b_from, m_row,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """to[b_to] := from[b_from] for rows of WIDTH numbers under the mask m_row [BLOCK]."""
    SPAN: tl.constexpr = PADDED if PADDED < COLUMNS else COLUMNS
    o_to, o_from = b_to.to(tl.int64)[:, None] * stride_to, b_from.to(tl.int64)[:, None] * stride_from
    for o_column in range(0, WIDTH, SPAN):
        i_column = o_column + tl.arange(0, SPAN)[None, :]
        m_cell = m_row[:, None] & (i_column < WIDTH)
        b_row = tl.load(p_from + o_from + i_column, mask=m_cell, other=0)
        store_cells(p_to + o_to + i_column, b_row, m_cell)


@device_function
def write_record(
    p_memory, p_memory_time, p_event_id, p_mail_time, p_batch_event_ids, p_times, p_hidden, p_hidden_time,
    stride_memory, stride_hidden, o_position, b_node, b_own, m_last,
    DIM: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the part of a record that both modes share: memory, its time, the latest event's id and time."""
    copy_rows(p_memory, stride_memory, b_node, p_hidden, stride_hidden, b_own, m_last, DIM, PADDED, COLUMNS)
    tl.store(p_memory_time + b_node, tl.load(p_hidden_time + b_own, mask=m_last, other=0), mask=m_last)
    b_event = tl.load(p_batch_event_ids + o_position // 2, mask=m_last, other=-1).to(tl.int64)
    tl.store(p_event_id + b_node, b_event, mask=m_last)
    tl.store(p_mail_time + b_node, tl.load(p_times + o_position // 2, mask=m_last, other=0), mask=m_last)


@device_function
def previous_position(
    p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position, b_own, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """The latest earlier position with the row b_own [BLOCK], −1 if none; scans backwards until all are found."""
    b_found = tl.where(b_own >= 0, -1, 0).to(tl.int32)  # no search for padding
    o_end = tl.minimum((tl.program_id(0) + 1) * (BLOCK // 2), num_events)
    while (o_end > 0) & (tl.min(b_found, 0) < 0):
        o_event = o_end - 1 - tl.arange(0, CHUNK)
        b_src, b_dst = end_rows(p_src, p_dst, p_src_rows, p_dst_rows, o_event, o_event >= 0)
        m_src = (b_src[None, :] == b_own[:, None]) & (2 * o_event[None, :] < o_position[:, None])
        m_dst = (b_dst[None, :] == b_own[:, None]) & (2 * o_event[None, :] + 1 < o_position[:, None])
        b_src_at = tl.where(m_src, 2 * o_event[None, :], -1)
        b_dst_at = tl.where(m_dst, 2 * o_event[None, :] + 1, -1)
        b_found = tl.maximum(b_found, tl.max(tl.maximum(b_src_at, b_dst_at), 1))
        o_end -= CHUNK
    return b_found


@kernel(
    Config({"BLOCK": 16, "CHUNK": 64}, num_warps=4),
    Config({"BLOCK": 8, "CHUNK": 128}, num_warps=4),
    Config({"BLOCK": 32, "CHUNK": 64}, num_warps=8),
    space=spaces.SCAN,
)
def link_kernel(
    p_src, p_dst, p_src_rows, p_dst_rows, p_last, p_previous, num_events, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """last(p) := 1 where no p' > p holds p's node, else 0; previous(p) := max {p' < p that holds p's node}, else −1."""
    o_position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_position = o_position < 2 * num_events
    b_own, _ = position_rows(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position)
    m_last = is_last(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position, b_own, BLOCK, CHUNK)
    tl.store(p_last + o_position, m_last.to(tl.int32), mask=m_position)
    b_previous = previous_position(
        p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position, b_own, BLOCK, CHUNK
    )  # fmt: skip
    tl.store(p_previous + o_position, b_previous, mask=m_position)


@device_function
def mean_rows(
    p_to, stride_to, b_node, p_from, stride_from, p_src_rows, p_dst_rows, p_previous, o_position, m_last,
    OF_EVENTS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """to[node] := mean of the events' or the partners' rows over the chain of positions that ends at the last one."""
    SPAN: tl.constexpr = PADDED if PADDED < COLUMNS else COLUMNS
    SUM: tl.constexpr = tl.float64 if p_from.dtype.element_ty == tl.float64 else tl.float32
    for o_column in range(0, WIDTH, SPAN):
        i_column = o_column + tl.arange(0, SPAN)[None, :]
        b_sum, b_count = tl.zeros([BLOCK, SPAN], SUM), tl.zeros([BLOCK], SUM)
        b_at = tl.where(m_last, o_position, -1)
        while tl.max(b_at, 0) >= 0:
            m_at = b_at >= 0
            if OF_EVENTS:
                b_row = (b_at // 2).to(tl.int64)
            else:  # the other endpoint
                m_src = b_at % 2 == 0
                b_dst_row = tl.load(p_dst_rows + b_at // 2, mask=m_at & m_src, other=0).to(tl.int64)
                b_src_row = tl.load(p_src_rows + b_at // 2, mask=m_at & ~m_src, other=0).to(tl.int64)
                b_row = tl.where(m_src, b_dst_row, b_src_row)
            m_cell = m_at[:, None] & (i_column < WIDTH)
            b_sum += tl.load(p_from + b_row[:, None] * stride_from + i_column, mask=m_cell, other=0).to(SUM)
            b_count += m_at.to(SUM)
            b_at = tl.load(p_previous + b_at, mask=m_at, other=-1)
        # One division per row: a block of divisions makes ptxas use a stack. 1 / 1 may be off by one ulp, and
        # the mean of one row must be that row.
        b_scale = tl.where(b_count > 1, 1.0 / tl.maximum(b_count, 1.0), 1.0)
        b_mean = b_sum * b_scale[:, None]
        m_cell = m_last[:, None] & (i_column < WIDTH)
        store_cells(p_to + b_node[:, None] * stride_to + i_column, b_mean, m_cell)


@kernel(
    Config({"BLOCK": 4, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 1, "COLUMNS": 128}, num_warps=1),
    space={"BLOCK": (1, 2, 4, 8, 16), **spaces.COLUMNS, **spaces.PLAIN},
)
def mean_kernel(
    p_memory, p_memory_time, p_partner, p_event_id, p_mail_time, p_mail_features,
    p_src, p_dst, p_batch_event_ids, p_times, p_features, p_hidden, p_hidden_time, p_src_rows, p_dst_rows,
    p_last, p_previous, num_events, stride_memory, stride_partner, stride_mail_features, stride_features, stride_hidden,
    DIM: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """For the last position of a node u: memory(u) := h(u), partner(u) := Σ h(other end) / n over u's n positions.

    mail_features(u) := Σ features(event) / n likewise. Sums run backwards from the last position.
    """
    o_position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_last = tl.load(p_last + o_position, mask=o_position < 2 * num_events, other=0) != 0
    b_own, _ = position_rows(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position)
    b_node = target_nodes(p_src, p_dst, o_position, m_last)
    write_record(
        p_memory, p_memory_time, p_event_id, p_mail_time, p_batch_event_ids, p_times, p_hidden, p_hidden_time,
        stride_memory, stride_hidden, o_position, b_node, b_own, m_last, DIM, PADDED, COLUMNS,
    )  # fmt: skip
    mean_rows(
        p_partner, stride_partner, b_node, p_hidden, stride_hidden, p_src_rows, p_dst_rows, p_previous,
        o_position, m_last, False, DIM, PADDED, BLOCK, COLUMNS,
    )  # fmt: skip
    if WIDTH > 0:
        mean_rows(
            p_mail_features, stride_mail_features, b_node, p_features, stride_features, p_src_rows, p_dst_rows,
            p_previous, o_position, m_last, True, WIDTH, PADDED_WIDTH, BLOCK, COLUMNS,
        )  # fmt: skip


def launch_mean(args: Aggregate) -> None:
    """`aggregate_messages` in mode "mean": one kernel links each node's positions, the other follows them and writes.

    Only the program of a node's last position writes the node, and no kernel reads a table, so nothing races.
    """
    events, dim, width, strides = args.src.numel(), args.hidden.shape[1], 0, (0, 0)
    last, previous = args.src.new_empty((2, 2 * events), dtype=torch.int32).unbind()
    config = link_kernel.config()
    link_kernel.launch(
        (cdiv(2 * events, config["BLOCK"]),), config,
        args.src, args.dst, args.src_rows, args.dst_rows, last, previous, events,
    )  # fmt: skip
    if args.mail_features is not None and args.features is not None:  # both or neither
        width, strides = args.features.shape[1], (args.mail_features.stride(0), args.features.stride(0))
    config = mean_kernel.config()
    mean_kernel.launch(
        (cdiv(2 * events, config["BLOCK"]),), config, *args[:-1], last, previous, events,
        args.memory.stride(0), args.partner.stride(0), *strides, args.hidden.stride(0),
        DIM=dim, PADDED=pow2(dim, 1), WIDTH=width, PADDED_WIDTH=pow2(width, 1),
    )  # fmt: skip
