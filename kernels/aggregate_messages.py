"""Message aggregation and write-back: one record a node, from the events of a batch."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.aggregate_mean import (
    copy_rows,
    is_last,
    launch_aggregate_mean,
    position_rows,
    target_nodes,
    write_own,
)
from mspipe_triton.kernels.checks import (
    COMPUTED,
    FLOATS,
    INTEGERS,
    TIMES,
    check_device,
    check_dims,
    check_dtype,
    check_layout,
    check_range,
    check_same_dtype,
)
from mspipe_triton.kernels.eager import eager
from mspipe_triton.kernels.launch import Config, cdiv, kernel, on_triton, pow2, tl

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


@kernel(
    Config({"BLOCK": 8, "CHUNK": 512, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 16, "CHUNK": 64, "COLUMNS": 128}, num_warps=4),
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


def launch_aggregate_messages(
    memory: torch.Tensor, memory_time: torch.Tensor, partner: torch.Tensor, event_id: torch.Tensor,
    mail_time: torch.Tensor, mail_features: torch.Tensor | None, src: torch.Tensor, dst: torch.Tensor,
    batch_event_ids: torch.Tensor, times: torch.Tensor, features: torch.Tensor | None, hidden: torch.Tensor,
    hidden_time: torch.Tensor, src_rows: torch.Tensor, dst_rows: torch.Tensor, mode: str = "last",
) -> None:  # fmt: skip
    """`aggregate_messages` by its kernels: one launch for "last", two for "mean" (see `launch_aggregate_mean`).

    Only a node's last position writes it, and no kernel reads a table, so programs do not meet.
    """
    if mode == "mean":
        launch_aggregate_mean(
            memory, memory_time, partner, event_id, mail_time, mail_features, src, dst, batch_event_ids, times,
            features, hidden, hidden_time, src_rows, dst_rows,
        )  # fmt: skip
        return
    config, dim = last_kernel.config(), hidden.shape[1]
    last_kernel.launch(
        (cdiv(2 * src.numel(), config["BLOCK"]),), config,
        memory, memory_time, partner, event_id, mail_time, src, dst, batch_event_ids, times,
        hidden, hidden_time, src_rows, dst_rows, src.numel(), memory.stride(0), partner.stride(0), hidden.stride(0),
        DIM=dim, PADDED=pow2(dim, 1),
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
    check_dims(operation, 2, memory=memory, hidden=hidden)
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
        check_range(operation, name, ends[name], stop, None)


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
    if mode == "mean" and (mail_features is None) != (features is None):
        raise ValueError("aggregate_messages: mode 'mean' has one of features and mail_features; give both or neither")
    with torch.no_grad():
        (aggregate_messages_reference if eager(hidden) else _operation)(*arguments, mode)
