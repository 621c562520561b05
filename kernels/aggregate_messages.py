"""Message aggregation and write-back: one record a node, from the events of a batch."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.checks import (
    COMPUTED,
    FLOATS,
    INTEGERS,
    TIMES,
    check_device,
    check_dtype,
    check_layout,
    check_range,
    check_same_dtype,
)
from mspipe_triton.kernels.launch import Config, cdiv, device_function, kernel, on_triton, pow2, tl

TABLES = ("memory", "memory_time", "partner", "event_id", "mail_time", "mail_features")


def aggregate_messages_reference(
    memory: torch.Tensor,
    memory_time: torch.Tensor,
    partner: torch.Tensor,
    event_id: torch.Tensor,
    mail_time: torch.Tensor,
    mail_features: torch.Tensor | None,
    src: torch.Tensor,
    dst: torch.Tensor,
    batch_event_ids: torch.Tensor,
    times: torch.Tensor,
    features: torch.Tensor | None,
    hidden: torch.Tensor,
    hidden_time: torch.Tensor,
    src_rows: torch.Tensor,
    dst_rows: torch.Tensor,
    mode: str = "last",
) -> None:
    """`aggregate_messages` in torch."""
    if src.numel() == 0:
        return
    nodes = torch.stack([src, dst], 1).view(-1).long()
    if int(nodes.min()) < 0:  # rare, so batches without padding pay for this one reduction only
        real = (torch.minimum(src, dst) >= 0).nonzero().squeeze(1)
        src, dst, batch_event_ids, times, src_rows, dst_rows = (
            part.index_select(0, real) for part in (src, dst, batch_event_ids, times, src_rows, dst_rows)
        )
        features = None if features is None else features.index_select(0, real)
        nodes = torch.stack([src, dst], 1).view(-1).long()
    rows = torch.stack([src_rows, dst_rows], 1).view(-1).long()
    partner_rows = torch.stack([dst_rows, src_rows], 1).view(-1)
    order = torch.arange(nodes.numel(), device=nodes.device)
    latest = torch.full((hidden.shape[0],), -1, device=nodes.device).scatter_reduce_(0, rows, order, "amax")
    written = (latest >= 0).nonzero().squeeze(1)
    winner = latest.index_select(0, written)
    targets = nodes.index_select(0, winner)
    events = winner >> 1

    memory.index_copy_(0, targets, hidden.index_select(0, written).to(memory.dtype))
    memory_time.index_copy_(0, targets, hidden_time.index_select(0, written))
    event_id.index_copy_(0, targets, batch_event_ids.index_select(0, events).long())
    mail_time.index_copy_(0, targets, times.index_select(0, events))
    if mode == "last":
        mail = hidden.index_select(0, partner_rows.index_select(0, winner))
    else:
        mail = _mean(hidden.index_select(0, partner_rows), rows, hidden.shape[0]).index_select(0, written)
        if mail_features is not None and features is not None:
            # In bfloat16 a node's count would stop at 256.
            wide = features.float() if features.dtype == torch.bfloat16 else features
            rows_of_features = _mean(wide.repeat_interleave(2, 0), rows, hidden.shape[0])
            mail_features.index_copy_(0, targets, rows_of_features.index_select(0, written).to(mail_features.dtype))
    partner.index_copy_(0, targets, mail.to(partner.dtype))


def _mean(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of `values` [M, D] by `rows` [M], as [count, D]; rows without a value are 0."""
    total = values.new_zeros((count, values.shape[1])).index_add_(0, rows, values)
    number = values.new_zeros(count).index_add_(0, rows, torch.ones_like(rows, dtype=values.dtype))
    return total / number.clamp(min=1).unsqueeze(1)


@device_function
def end_rows(p_src, p_dst, p_src_rows, p_dst_rows, o_event, m_event):
    """Rows of both endpoints of events, −1 where either node is padding and beyond the mask."""
    b_src = tl.load(p_src + o_event, mask=m_event, other=-1)
    b_dst = tl.load(p_dst + o_event, mask=m_event, other=-1)
    m_real = (b_src >= 0) & (b_dst >= 0)
    b_src_row = tl.load(p_src_rows + o_event, mask=m_event, other=-1).to(tl.int32)
    b_dst_row = tl.load(p_dst_rows + o_event, mask=m_event, other=-1).to(tl.int32)
    return tl.where(m_real, b_src_row, -1), tl.where(m_real, b_dst_row, -1)


@device_function
def position_rows(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position):
    """Of endpoint positions 2·event + side: the endpoint's own row and the other's, −1 for padding."""
    b_src, b_dst = end_rows(p_src, p_dst, p_src_rows, p_dst_rows, o_position // 2, o_position < 2 * num_events)
    m_src = o_position % 2 == 0
    return tl.where(m_src, b_src, b_dst), tl.where(m_src, b_dst, b_src)


@device_function
def is_last(
    p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position, b_own, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """Whether no later position has the row b_own [BLOCK]; scans forward until all are beaten."""
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
def previous_position(
    p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position, b_own, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """The latest earlier position with the row b_own [BLOCK], −1 if none; scans back until all have theirs."""
    b_found = tl.where(b_own >= 0, -1, 0).to(tl.int32)  # padding looks for none
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


@device_function
def target_nodes(p_src, p_dst, o_position, m_last):
    """The nodes at positions."""
    m_src = o_position % 2 == 0
    b_src = tl.load(p_src + o_position // 2, mask=m_last & m_src, other=0).to(tl.int64)
    return tl.where(m_src, b_src, tl.load(p_dst + o_position // 2, mask=m_last & ~m_src, other=0).to(tl.int64))


@device_function
def store_cells(p_cell, b_value, m_cell):
    """Store numbers in a table's type: into bfloat16 by way of float32, as torch goes and as the interpreter can."""
    if p_cell.dtype.element_ty == tl.bfloat16:
        b_value = b_value.to(tl.float32)
    tl.store(p_cell, b_value.to(p_cell.dtype.element_ty), mask=m_cell)


@device_function
def copy_rows(
    p_to, stride_to, b_to, p_from, stride_from, b_from, m_row,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """to[b_to] := from[b_from], rows of WIDTH numbers, where m_row [BLOCK]."""
    SPAN: tl.constexpr = PADDED if PADDED < COLUMNS else COLUMNS
    o_to, o_from = b_to.to(tl.int64)[:, None] * stride_to, b_from.to(tl.int64)[:, None] * stride_from
    for o_column in range(0, WIDTH, SPAN):
        i_column = o_column + tl.arange(0, SPAN)[None, :]
        m_cell = m_row[:, None] & (i_column < WIDTH)
        b_row = tl.load(p_from + o_from + i_column, mask=m_cell, other=0)
        store_cells(p_to + o_to + i_column, b_row, m_cell)


@device_function
def write_own(
    p_memory, p_memory_time, p_event_id, p_mail_time, p_batch_event_ids, p_times, p_hidden, p_hidden_time,
    stride_memory, stride_hidden, o_position, b_node, b_own, m_last,
    DIM: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What both modes write of a record: memory, its time, the latest event's id and time."""
    copy_rows(p_memory, stride_memory, b_node, p_hidden, stride_hidden, b_own, m_last, DIM, PADDED, COLUMNS)
    tl.store(p_memory_time + b_node, tl.load(p_hidden_time + b_own, mask=m_last, other=0), mask=m_last)
    b_event = tl.load(p_batch_event_ids + o_position // 2, mask=m_last, other=-1).to(tl.int64)
    tl.store(p_event_id + b_node, b_event, mask=m_last)
    tl.store(p_mail_time + b_node, tl.load(p_times + o_position // 2, mask=m_last, other=0), mask=m_last)


@kernel(
    Config({"BLOCK": 16, "CHUNK": 64, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 8, "CHUNK": 128, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 32, "CHUNK": 64, "COLUMNS": 64}, num_warps=8),
)
def last_kernel(
    p_memory, p_memory_time, p_partner, p_event_id, p_mail_time, p_src, p_dst, p_batch_event_ids, p_times,
    p_hidden, p_hidden_time, p_src_rows, p_dst_rows, num_events, stride_memory, stride_partner, stride_hidden,
    DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Position p = 2·event + side holds node u. If no p' > p holds u: memory(u) := h(u), partner(u) := h(other end)."""
    o_position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_own, b_other = position_rows(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position)
    m_last = is_last(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position, b_own, BLOCK, CHUNK)
    b_node = target_nodes(p_src, p_dst, o_position, m_last)
    write_own(
        p_memory, p_memory_time, p_event_id, p_mail_time, p_batch_event_ids, p_times, p_hidden, p_hidden_time,
        stride_memory, stride_hidden, o_position, b_node, b_own, m_last, DIM, PADDED, COLUMNS,
    )  # fmt: skip
    copy_rows(p_partner, stride_partner, b_node, p_hidden, stride_hidden, b_other, m_last, DIM, PADDED, COLUMNS)


@kernel(
    Config({"BLOCK": 16, "CHUNK": 64}, num_warps=4),
    Config({"BLOCK": 8, "CHUNK": 128}, num_warps=4),
    Config({"BLOCK": 32, "CHUNK": 64}, num_warps=8),
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
    """to[node] := mean over the chain of positions that ends at a last one: of the events' rows, or the partners'."""
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
            else:  # of the other end
                m_src = b_at % 2 == 0
                b_dst_row = tl.load(p_dst_rows + b_at // 2, mask=m_at & m_src, other=0).to(tl.int64)
                b_src_row = tl.load(p_src_rows + b_at // 2, mask=m_at & ~m_src, other=0).to(tl.int64)
                b_row = tl.where(m_src, b_dst_row, b_src_row)
            m_cell = m_at[:, None] & (i_column < WIDTH)
            b_sum += tl.load(p_from + b_row[:, None] * stride_from + i_column, mask=m_cell, other=0).to(SUM)
            b_count += m_at.to(SUM)
            b_at = tl.load(p_previous + b_at, mask=m_at, other=-1)
        # One division a row: a block of them costs ptxas a stack. 1 / 1 may be off by a unit in the last place, and
        # a mean of one row is that row.
        b_scale = tl.where(b_count > 1, 1.0 / tl.maximum(b_count, 1.0), 1.0)
        b_mean = b_sum * b_scale[:, None]
        m_cell = m_last[:, None] & (i_column < WIDTH)
        store_cells(p_to + b_node[:, None] * stride_to + i_column, b_mean, m_cell)


@kernel(
    Config({"BLOCK": 4, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 1, "COLUMNS": 128}, num_warps=1),
    Config({"BLOCK": 8, "COLUMNS": 128}, num_warps=4),
)
def mean_kernel(
    p_memory, p_memory_time, p_partner, p_event_id, p_mail_time, p_mail_features,
    p_src, p_dst, p_batch_event_ids, p_times, p_features, p_hidden, p_hidden_time, p_src_rows, p_dst_rows,
    p_last, p_previous, num_events, stride_memory, stride_partner, stride_mail_features, stride_features, stride_hidden,
    DIM: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Where position p is its node u's last: memory(u) := h(u), partner(u) := Σ h(other end) / n over u's n positions.

    mail_features(u) := Σ features(event) / n likewise. Sums run from the last position back.
    """
    o_position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_last = tl.load(p_last + o_position, mask=o_position < 2 * num_events, other=0) != 0
    b_own, _ = position_rows(p_src, p_dst, p_src_rows, p_dst_rows, num_events, o_position)
    b_node = target_nodes(p_src, p_dst, o_position, m_last)
    write_own(
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


def launch_aggregate_messages(
    memory: torch.Tensor, memory_time: torch.Tensor, partner: torch.Tensor, event_id: torch.Tensor,
    mail_time: torch.Tensor, mail_features: torch.Tensor | None, src: torch.Tensor, dst: torch.Tensor,
    batch_event_ids: torch.Tensor, times: torch.Tensor, features: torch.Tensor | None, hidden: torch.Tensor,
    hidden_time: torch.Tensor, src_rows: torch.Tensor, dst_rows: torch.Tensor, mode: str = "last",
) -> None:  # fmt: skip
    """`aggregate_messages` by its kernels: one launch for "last"; for "mean" one that links positions, one that writes.

    Only a node's last position writes it, and no kernel reads a table, so programs do not meet.
    """
    positions, width = 2 * src.numel(), hidden.shape[1]
    widths = {"DIM": width, "PADDED": pow2(width, 1)}
    if mode == "last":
        config = last_kernel.config()
        last_kernel.launch(
            (cdiv(positions, config["BLOCK"]),), config,
            memory, memory_time, partner, event_id, mail_time, src, dst, batch_event_ids, times,
            hidden, hidden_time, src_rows, dst_rows, src.numel(), memory.stride(0), partner.stride(0), hidden.stride(0),
            **widths,
        )  # fmt: skip
        return
    last, previous = src.new_empty((2, positions), dtype=torch.int32).unbind()
    config = link_kernel.config()
    link_kernel.launch(
        (cdiv(positions, config["BLOCK"]),), config,
        src, dst, src_rows, dst_rows, last, previous, src.numel(),
    )  # fmt: skip
    if mail_features is None or features is None:
        mail_features = features = None
    strides = (0, 0) if mail_features is None or features is None else (mail_features.stride(0), features.stride(0))
    width = 0 if features is None else features.shape[1]
    config = mean_kernel.config()
    mean_kernel.launch(
        (cdiv(positions, config["BLOCK"]),), config,
        memory, memory_time, partner, event_id, mail_time, mail_features,
        src, dst, batch_event_ids, times, features, hidden, hidden_time, src_rows, dst_rows,
        last, previous, src.numel(), memory.stride(0), partner.stride(0), *strides, hidden.stride(0),
        **widths, WIDTH=width, PADDED_WIDTH=pow2(width, 1),
    )  # fmt: skip


@torch.library.custom_op("mspipe_triton::aggregate_messages", mutates_args=TABLES)
def _operation(
    memory: torch.Tensor, memory_time: torch.Tensor, partner: torch.Tensor, event_id: torch.Tensor,
    mail_time: torch.Tensor, mail_features: torch.Tensor | None, src: torch.Tensor, dst: torch.Tensor,
    batch_event_ids: torch.Tensor, times: torch.Tensor, features: torch.Tensor | None, hidden: torch.Tensor,
    hidden_time: torch.Tensor, src_rows: torch.Tensor, dst_rows: torch.Tensor, aggregator: str,
) -> None:  # fmt: skip
    # torch's functionalisation of mutating operations has an argument `mode` of its own.
    run = launch_aggregate_messages if on_triton(hidden) else aggregate_messages_reference
    run(
        memory, memory_time, partner, event_id, mail_time, mail_features, src, dst, batch_event_ids, times, features,
        hidden, hidden_time, src_rows, dst_rows, aggregator,
    )  # fmt: skip


def _check(
    memory: torch.Tensor, memory_time: torch.Tensor, partner: torch.Tensor, event_id: torch.Tensor,
    mail_time: torch.Tensor, mail_features: torch.Tensor | None, src: torch.Tensor, dst: torch.Tensor,
    batch_event_ids: torch.Tensor, times: torch.Tensor, features: torch.Tensor | None, hidden: torch.Tensor,
    hidden_time: torch.Tensor, src_rows: torch.Tensor, dst_rows: torch.Tensor,
) -> None:  # fmt: skip
    operation = "aggregate_messages"
    tables = {"memory": memory, "partner": partner, "mail_features": mail_features}
    columns = {"memory_time": memory_time, "mail_time": mail_time, "event_id": event_id}
    ends = {"src": src, "dst": dst, "src_rows": src_rows, "dst_rows": dst_rows, "batch_event_ids": batch_event_ids}
    batch = {**ends, "times": times}
    every = {**tables, **columns, **batch, "features": features, "hidden": hidden, "hidden_time": hidden_time}
    check_dtype(operation, COMPUTED, hidden=hidden)
    check_dtype(operation, FLOATS, **tables, features=features)
    check_dtype(operation, (torch.int64,), event_id=event_id)
    check_dtype(operation, INTEGERS, **ends)
    check_dtype(operation, TIMES, memory_time=memory_time)
    check_same_dtype(operation, memory_time=memory_time, mail_time=mail_time, times=times, hidden_time=hidden_time)
    nodes, dim = memory.shape
    shapes: dict[str, tuple[int, ...]] = {
        "partner": (nodes, dim),
        "hidden": (len(hidden), dim),
        "hidden_time": (len(hidden),),
    }
    shapes |= dict.fromkeys(columns, (nodes,)) | dict.fromkeys(batch, (len(src),))
    if mail_features is not None and features is not None:
        shapes |= {"mail_features": (nodes, features.shape[1]), "features": (len(src), features.shape[1])}
    for name, shape in shapes.items():
        tensor = every[name]
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{operation}: {name} has shape {tuple(tensor.shape)} and should have {shape}, beside memory "
                f"{tuple(memory.shape)}, hidden {tuple(hidden.shape)} and src {tuple(src.shape)}; mend the wrong one"
            )
    check_layout(operation, **every)
    check_device(operation, hidden.device, (*tables, *columns), **every)
    for name, stop in (("src", nodes), ("dst", nodes), ("src_rows", len(hidden)), ("dst_rows", len(hidden))):
        check_range(operation, name, ends[name], stop, -(2**63))


def aggregate_messages(
    memory: torch.Tensor,
    memory_time: torch.Tensor,
    partner: torch.Tensor,
    event_id: torch.Tensor,
    mail_time: torch.Tensor,
    mail_features: torch.Tensor | None,
    src: torch.Tensor,
    dst: torch.Tensor,
    batch_event_ids: torch.Tensor,
    times: torch.Tensor,
    features: torch.Tensor | None,
    hidden: torch.Tensor,
    hidden_time: torch.Tensor,
    src_rows: torch.Tensor,
    dst_rows: torch.Tensor,
    mode: str = "last",
) -> None:
    """Write memory and compact mail of a batch's endpoints into the node tables, in place.

    For every endpoint u of the B events: memory(u) := h(u), its time := the time of the mail that h(u) digested; then
    u's mail is made of its events in the batch, partner row h(other endpoint), event id and time:

    * "last": the latest event wins; among equal times the one later in the file, src before dst inside an event.
    * "mean": mean partner row and mean feature row over the node's events, id and time of the latest; a self-loop
      counts twice.

    The result does not depend on how work is spread: no racing writes, and sums run in one order.

    Args:
        memory, partner: [N, D] floating; memory_time, mail_time: [N] int64 or float64; event_id: [N] int64. Mutated.
        mail_features: [N, E] floating, needed by "mean" where events have features; mutated. None otherwise. These six
            tables may lie in pinned host memory.
        src, dst: [B] integer nodes, in time order; an event with a negative one is padding and writes nothing.
            batch_event_ids: [B] integer; times: [B].
        features: [B, E] floating, the events' feature rows; read by "mean" alone.
        hidden: h [U, D] float32 or float64, in memory of its own; hidden_time: [U], the time that memory gets;
            src_rows, dst_rows: [B] integer, the endpoints' rows in `hidden`. Equal nodes have equal rows, different
            nodes different ones. All times have one dtype. Nothing is differentiable.

    Raises:
        ValueError: `mode` is neither of the two; a wrong dtype, shape, layout or device; with debugging on, a node or
            row outside its table.
    """
    if mode not in ("last", "mean"):
        raise ValueError(f"aggregate_messages: mode must be 'last' or 'mean', not {mode!r}")
    arguments = (
        memory, memory_time, partner, event_id, mail_time, mail_features, src, dst, batch_event_ids, times, features,
        hidden, hidden_time, src_rows, dst_rows,
    )  # fmt: skip
    _check(*arguments)
    _operation(*arguments, mode)
