"""Delivery of a batch's mails to everyone who hears of its events, into tables of several mails a node."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.aggregate_mean import copy_rows
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
    check_shape,
)
from mspipe_triton.kernels.eager import eager
from mspipe_triton.kernels.launch import Config, cdiv, kernel, on_triton, pow2, tl
from mspipe_triton.kernels.mean_mails import launch_mean_mails, mail_rows, mean_mails_reference

_NAME = "deliver_mails"
TABLES = ("memory", "memory_time", "received", "mails", "event_id", "mail_time", "mail_features")


def deliver_mails_reference(
    memory: torch.Tensor, memory_time: torch.Tensor, received: torch.Tensor, mails: torch.Tensor,
    event_id: torch.Tensor, mail_time: torch.Tensor, mail_features: torch.Tensor | None,
    src: torch.Tensor, dst: torch.Tensor, batch_event_ids: torch.Tensor, times: torch.Tensor,
    features: torch.Tensor | None, hidden: torch.Tensor, hidden_time: torch.Tensor, src_rows: torch.Tensor,
    dst_rows: torch.Tensor, heard: torch.Tensor, last: torch.Tensor, owners: torch.Tensor | None,
    deliveries: torch.Tensor | None, mode: str = "last",
) -> None:  # fmt: skip
    """`deliver_mails` in torch."""
    ends, rows = torch.cat([src, dst]), torch.cat([src_rows, dst_rows])
    real = (ends >= 0).nonzero().squeeze(1)
    ends, rows = ends.index_select(0, real).long(), rows.index_select(0, real)
    memory.index_copy_(0, ends, hidden.index_select(0, rows).to(memory.dtype))
    memory_time.index_copy_(0, ends, hidden_time.index_select(0, rows))

    places = (heard >= 0).nonzero().squeeze(1)
    nodes, latest = heard.index_select(0, places).long(), last.index_select(0, places).long()
    before = received.index_select(0, nodes)
    received.index_copy_(0, nodes, before + 1)
    cells, events = (nodes, before % mails.shape[1]), latest >> 1
    event_id.index_put_(cells, batch_event_ids.index_select(0, events).long())
    mail_time.index_put_(cells, times.index_select(0, events))
    if owners is None or deliveries is None or mode == "last":
        found = mail_rows(hidden, src_rows, dst_rows, latest)
    else:
        means, kept = mean_mails_reference(hidden, src_rows, dst_rows, features, owners, deliveries, heard.numel())
        found = means.index_select(0, places)
        if mail_features is not None and kept is not None:
            mail_features.index_put_(cells, kept.index_select(0, places).to(mail_features.dtype))
    mails.index_put_(cells, found.to(mails.dtype))


@kernel(
    Config({"BLOCK": 8, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 16, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 16, "COLUMNS": 64}, num_warps=8),
)
def ring_kernel(
    p_memory, p_memory_time, p_received, p_mails, p_event_id, p_mail_time, p_mail_features, p_src, p_dst,
    p_batch_event_ids, p_times, p_hidden, p_hidden_time, p_src_rows, p_dst_rows, p_heard, p_last, p_means, p_kept,
    num_events, num_heard, stride_memory, stride_mails, stride_features, stride_hidden,
    SLOTS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
    PADDED: tl.constexpr, PADDED_WIDTH: tl.constexpr,
):  # fmt: skip
    """With the receiver v = heard[i] ≥ 0, its latest mail 2·event + side and c = received[v] mod SLOTS:

        mails[v, c] := [h(own end) ‖ h(other end)], or the mean that is given     received[v] += 1
        event_id[v, c], mail_time[v, c] := those of the event

    and of an end u ≥ 0: memory(u) := h(u), with its time. The first programs take BLOCK receivers each, the others
    BLOCK ends. A node that is an end several times is written as often, with the same bits.
    """
    tile, tiles = tl.program_id(0), tl.cdiv(num_heard, BLOCK)
    if tile < tiles:
        o_heard = tile * BLOCK + tl.arange(0, BLOCK)
        b_node = tl.load(p_heard + o_heard, mask=o_heard < num_heard, other=-1).to(tl.int64)
        m_node = b_node >= 0
        b_before = tl.load(p_received + b_node, mask=m_node, other=0)
        tl.debug_barrier()  # the compiler loads once a layout, each by other warps: all of them before one stores
        tl.store(p_received + b_node, b_before + 1, mask=m_node)
        b_slot = b_before % SLOTS
        o_cell = b_node * SLOTS + b_slot
        b_last = tl.load(p_last + o_heard, mask=m_node, other=0)
        o_event, m_src = b_last // 2, b_last % 2 == 0
        b_event = tl.load(p_batch_event_ids + o_event, mask=m_node, other=-1).to(tl.int64)
        tl.store(p_event_id + o_cell, b_event, mask=m_node)
        tl.store(p_mail_time + o_cell, tl.load(p_times + o_event, mask=m_node, other=0), mask=m_node)
        p_mail = p_mails + (b_node * stride_mails)[:, None]
        if p_means is None:
            b_src = tl.load(p_src_rows + o_event, mask=m_node, other=0)
            b_dst = tl.load(p_dst_rows + o_event, mask=m_node, other=0)
            b_own, b_other = tl.where(m_src, b_src, b_dst), tl.where(m_src, b_dst, b_src)
            copy_rows(p_mail, 2 * DIM, b_slot, p_hidden, stride_hidden, b_own, m_node, DIM, PADDED, COLUMNS)
            copy_rows(p_mail + DIM, 2 * DIM, b_slot, p_hidden, stride_hidden, b_other, m_node, DIM, PADDED, COLUMNS)
        else:
            copy_rows(p_mail, 2 * DIM, b_slot, p_means, 2 * DIM, o_heard, m_node, 2 * DIM, 2 * PADDED, COLUMNS)
        if p_kept is not None:
            p_row = p_mail_features + (b_node * stride_features)[:, None]
            copy_rows(p_row, WIDTH, b_slot, p_kept, WIDTH, o_heard, m_node, WIDTH, PADDED_WIDTH, COLUMNS)
    else:
        o_end = (tile - tiles) * BLOCK + tl.arange(0, BLOCK)
        m_src, m_dst = o_end < num_events, (o_end >= num_events) & (o_end < 2 * num_events)
        b_node = tl.load(p_src + o_end, mask=m_src, other=-1).to(tl.int64)
        b_node = tl.where(m_dst, tl.load(p_dst + o_end - num_events, mask=m_dst, other=-1).to(tl.int64), b_node)
        b_row = tl.load(p_src_rows + o_end, mask=m_src, other=0)
        b_row = tl.where(m_dst, tl.load(p_dst_rows + o_end - num_events, mask=m_dst, other=0), b_row)
        m_node = b_node >= 0
        copy_rows(p_memory, stride_memory, b_node, p_hidden, stride_hidden, b_row, m_node, DIM, PADDED, COLUMNS)
        tl.store(p_memory_time + b_node, tl.load(p_hidden_time + b_row, mask=m_node, other=0), mask=m_node)


def launch_deliver_mails(
    memory: torch.Tensor, memory_time: torch.Tensor, received: torch.Tensor, mails: torch.Tensor,
    event_id: torch.Tensor, mail_time: torch.Tensor, mail_features: torch.Tensor | None,
    src: torch.Tensor, dst: torch.Tensor, batch_event_ids: torch.Tensor, times: torch.Tensor,
    features: torch.Tensor | None, hidden: torch.Tensor, hidden_time: torch.Tensor, src_rows: torch.Tensor,
    dst_rows: torch.Tensor, heard: torch.Tensor, last: torch.Tensor, owners: torch.Tensor | None,
    deliveries: torch.Tensor | None, mode: str = "last",
) -> None:  # fmt: skip
    """`deliver_mails` by one kernel, for "mean" after the one that sums."""
    means = kept = None
    if mode == "mean" and owners is not None and deliveries is not None:
        means, kept = launch_mean_mails(hidden, src_rows, dst_rows, features, owners, deliveries, heard.numel())
    config, (_, slots, width) = ring_kernel.config(), mails.shape
    dim, features_width = width // 2, 0 if mail_features is None else mail_features.shape[2]
    stride_features = 0 if mail_features is None else mail_features.stride(0)
    tiles = cdiv(heard.numel(), config["BLOCK"]) + cdiv(2 * src.numel(), config["BLOCK"])
    ring_kernel.launch(
        (tiles,), config,
        memory, memory_time, received, mails, event_id, mail_time, mail_features, src, dst, batch_event_ids, times,
        hidden, hidden_time, src_rows, dst_rows, heard, last, means, kept, src.numel(), heard.numel(),
        memory.stride(0), mails.stride(0), stride_features, hidden.stride(0), SLOTS=slots, DIM=dim,
        WIDTH=features_width, PADDED=pow2(dim, 1), PADDED_WIDTH=pow2(features_width, 1),
    )  # fmt: skip


@torch.library.custom_op(f"mspipe_triton::{_NAME}", mutates_args=TABLES)
def _operation(
    memory: torch.Tensor, memory_time: torch.Tensor, received: torch.Tensor, mails: torch.Tensor,
    event_id: torch.Tensor, mail_time: torch.Tensor, mail_features: torch.Tensor | None,
    src: torch.Tensor, dst: torch.Tensor, batch_event_ids: torch.Tensor, times: torch.Tensor,
    features: torch.Tensor | None, hidden: torch.Tensor, hidden_time: torch.Tensor, src_rows: torch.Tensor,
    dst_rows: torch.Tensor, heard: torch.Tensor, last: torch.Tensor, owners: torch.Tensor | None,
    deliveries: torch.Tensor | None, aggregator: str,
) -> None:  # fmt: skip
    # torch's functionalisation of mutating operations has an argument `mode` of its own.
    run = launch_deliver_mails if on_triton(hidden) else deliver_mails_reference
    run(
        memory, memory_time, received, mails, event_id, mail_time, mail_features, src, dst, batch_event_ids, times,
        features, hidden, hidden_time, src_rows, dst_rows, heard, last, owners, deliveries, aggregator,
    )  # fmt: skip


def deliver_mails(
    memory: torch.Tensor,
    memory_time: torch.Tensor,
    received: torch.Tensor,
    mails: torch.Tensor,
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
    heard: torch.Tensor,
    last: torch.Tensor,
    owners: torch.Tensor | None = None,
    deliveries: torch.Tensor | None = None,
    mode: str = "last",
) -> None:
    """Write the memory of a batch's endpoints, and a mail in the next slot of everyone who hears of its events (APAN,
    Wang et al., SIGMOD 2021), in place.

    memory(u) := h(u) of the ends u of the B events. A node v that hears of events gets one mail, whatever their number,
    into slot received[v] mod S, and received[v] grows by one. Mail 2·event + side comes from the event's source (side
    0) or destination (1); its row is [h(that end) ‖ h(the other end)]:

    * "last": the row of its latest mail, `last`.
    * "mean": the mean row and the mean feature row of all its deliveries; event id and time are the latest one's.

    Args:
        memory: [N, D]; mails: [N, S, 2D]; mail_features: [N, S, E] floating, for "mean" where events have features,
            None otherwise. memory_time: [N], mail_time: [N, S] int64 or float64. received: [N], event_id: [N, S] int64.
            All mutated. Rows of memory, mails and mail_features may be apart by more than a node's numbers.
        src, dst: [B] integer nodes; a negative one is padding. batch_event_ids: [B] integer; times: [B].
        features: [B, E] floating, the events' feature rows; with `mail_features` alone.
        hidden: h [U, D] float32 or float64; hidden_time: [U], the time that memory gets; src_rows, dst_rows: [B]
            integer, the ends' rows in `hidden`. All times have one dtype.
        heard: [V] integer, the nodes that hear of an event, each once; a negative one is padding. last: [V] integer,
            the latest mail of each.
        owners, deliveries: [M] integer, for "mean": places among `heard`, and the mails delivered to them; a negative
            delivery is padding.

    Returns:
        None; nothing is differentiable. What is written is the same in every run, on a GPU too.

    Raises:
        ValueError: `mode` is neither of the two or lacks its arguments; a wrong dtype, shape, layout or device; with
            debugging on, a node, row, mail or place outside its table.
    """
    if mode not in ("last", "mean"):
        raise ValueError(f"{_NAME}: mode must be 'last' or 'mean', not {mode!r}")
    if (owners is None) != (deliveries is None) or (mode == "mean" and owners is None):
        raise ValueError(f"{_NAME}: owners and deliveries go together, and mode 'mean' takes both; give both")
    if (mail_features is None) != (features is None) or (mode == "last" and features is not None):
        raise ValueError(f"{_NAME}: features and mail_features go together, under mode 'mean'; give both or neither")
    arguments = (
        memory, memory_time, received, mails, event_id, mail_time, mail_features, src, dst, batch_event_ids, times,
        features, hidden, hidden_time, src_rows, dst_rows, heard, last, owners, deliveries,
    )  # fmt: skip
    _check(*arguments)
    with torch.no_grad():
        (deliver_mails_reference if eager(hidden) else _operation)(*arguments, mode)


def _check(
    memory: torch.Tensor, memory_time: torch.Tensor, received: torch.Tensor, mails: torch.Tensor,
    event_id: torch.Tensor, mail_time: torch.Tensor, mail_features: torch.Tensor | None,
    src: torch.Tensor, dst: torch.Tensor, batch_event_ids: torch.Tensor, times: torch.Tensor,
    features: torch.Tensor | None, hidden: torch.Tensor, hidden_time: torch.Tensor, src_rows: torch.Tensor,
    dst_rows: torch.Tensor, heard: torch.Tensor, last: torch.Tensor, owners: torch.Tensor | None,
    deliveries: torch.Tensor | None,
) -> None:  # fmt: skip
    """Refuse what the operation cannot take."""
    batch = {"src": src, "dst": dst, "batch_event_ids": batch_event_ids, "src_rows": src_rows, "dst_rows": dst_rows}
    receivers = {"heard": heard, "last": last}
    each = {"owners": owners, "deliveries": deliveries}
    check_dtype(_NAME, COMPUTED, hidden=hidden)
    check_dtype(_NAME, FLOATS, memory=memory, mails=mails, mail_features=mail_features, features=features)
    check_dtype(_NAME, (torch.int64,), received=received, event_id=event_id)
    check_dtype(_NAME, INTEGERS, **batch, **receivers, **each)
    check_dtype(_NAME, TIMES, memory_time=memory_time)
    check_same_dtype(_NAME, memory_time=memory_time, mail_time=mail_time, times=times, hidden_time=hidden_time)
    check_dims(_NAME, 2, memory=memory, hidden=hidden, event_id=event_id, features=features)
    check_dims(_NAME, 1, src=src, heard=heard, owners=owners)
    (nodes, dim), slots, events = memory.shape, event_id.shape[1], tuple(src.shape)
    width = 0 if features is None else features.shape[1]
    ring = (nodes, slots)
    if slots < 1:
        raise ValueError(f"{_NAME}: event_id has shape {tuple(event_id.shape)}; give one slot a node at least")
    check_shape(
        _NAME, memory_time=(memory_time, (nodes,)), received=(received, (nodes,)), mails=(mails, (*ring, 2 * dim)),
        event_id=(event_id, ring), mail_time=(mail_time, ring), mail_features=(mail_features, (*ring, width)),
        features=(features, (*events, width)), hidden=(hidden, (len(hidden), dim)),
        hidden_time=(hidden_time, (len(hidden),)), times=(times, events), last=(last, tuple(heard.shape)),
        deliveries=(deliveries, () if owners is None else tuple(owners.shape)),
        **{name: (tensor, events) for name, tensor in batch.items()},
    )  # fmt: skip
    columns = {"memory_time": memory_time, "received": received, "event_id": event_id, "mail_time": mail_time}
    rows = {"mails": mails, "mail_features": mail_features}
    others = {**batch, **receivers, **each, "times": times, "features": features, "hidden_time": hidden_time}
    check_layout(_NAME, memory=memory, hidden=hidden, **others)
    for name, table in {**columns, **rows}.items():
        apart = table is not None and name in rows and table.numel() and table.stride()[1:] == (table.shape[2], 1)
        if table is not None and not (apart or table.is_contiguous()):
            raise ValueError(f"{_NAME}: {name} has strides {table.stride()}; give {name}.contiguous()")
    check_device(_NAME, hidden.device, (), memory=memory, **columns, **rows, **others)
    for name, stop in (("src", nodes), ("dst", nodes), ("src_rows", len(hidden)), ("dst_rows", len(hidden))):
        check_range(_NAME, name, batch[name], stop, None)
    check_range(_NAME, "heard", heard, nodes, None)
    check_range(_NAME, "owners", owners, heard.numel())
    for name, values in (("last", last), ("deliveries", deliveries)):
        check_range(_NAME, name, values, 2 * src.numel(), None)
