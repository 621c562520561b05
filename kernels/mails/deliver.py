"""Delivery of a batch's mails to all nodes that hear of its events, into tables with several mails per node."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.mails.aggregate_mean import copy_rows
from mspipe_triton.kernels.mails.mean import Mails, launch_means, mail_rows, reference_means
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "deliver_mails"


class Deliver(NamedTuple):
    """Write the memory of a batch's endpoints, and one mail to every node that hears of its events (APAN, Wang et al.,
    SIGMOD 2021), in place.

    memory(u) := h(u) for the endpoints u of the B events. A node v that hears of any number of events gets one mail in
    slot received[v] mod S, and received[v] grows by one. Mail 2·event + side comes from the event's source (side 0) or
    destination (1); its row is [h(that end) ‖ h(the other end)]. v's slot gets

    * "last": the row of its latest mail, `last`.
    * "mean": the mean row and the mean feature row of all its deliveries, with the latest one's event id and time.

    Args:
        memory: [N, D]; mails: [N, S, 2D]; mail_features: [N, S, E] floating, for "mean" if events have features,
            None otherwise. memory_time: [N], mail_time: [N, S] int64 or float64. received: [N], event_id: [N, S] int64.
            All mutated. Rows of memory, mails and mail_features may have any stride.
        src, dst: [B] integer nodes; a negative one is padding. batch_event_ids: [B] integer; times: [B].
        features: [B, E] floating, the events' feature rows; only with `mail_features`.
        hidden: h [U, D] float32 or float64; hidden_time: [U], the new memory time; src_rows, dst_rows: [B]
            integer, the ends' rows in `hidden`. All times have one dtype.
        heard: [V] integer, the nodes that hear of an event, each once; a negative one is padding. last: [V] integer,
            the latest mail of each.
        owners, deliveries: [M] integer, for "mean": indices into `heard`, and the mails delivered to these nodes; a
            negative delivery is padding.

    Returns:
        None; nothing is differentiable. Bitwise the same in every run, on a GPU too.

    Raises:
        ValueError: `mode` is neither "last" nor "mean", or lacks its arguments; a wrong dtype, shape, layout or device;
            with debugging on, a node, row, mail or index outside its table.
    """

    memory: torch.Tensor
    memory_time: torch.Tensor
    received: torch.Tensor
    mails: torch.Tensor
    event_id: torch.Tensor
    mail_time: torch.Tensor
    mail_features: torch.Tensor | None
    src: torch.Tensor
    dst: torch.Tensor
    batch_event_ids: torch.Tensor
    times: torch.Tensor
    features: torch.Tensor | None
    hidden: torch.Tensor
    hidden_time: torch.Tensor
    src_rows: torch.Tensor
    dst_rows: torch.Tensor
    heard: torch.Tensor
    last: torch.Tensor
    owners: torch.Tensor | None = None
    deliveries: torch.Tensor | None = None
    mode: str = "last"


def _reference(args: Deliver) -> None:
    ends, rows = torch.cat([args.src, args.dst]), torch.cat([args.src_rows, args.dst_rows])
    real = (ends >= 0).nonzero().squeeze(1)
    ends, rows = ends.index_select(0, real).long(), rows.index_select(0, real)
    args.memory.index_copy_(0, ends, args.hidden.index_select(0, rows).to(args.memory.dtype))
    args.memory_time.index_copy_(0, ends, args.hidden_time.index_select(0, rows))

    places = (args.heard >= 0).nonzero().squeeze(1)
    nodes, latest = args.heard.index_select(0, places).long(), args.last.index_select(0, places).long()
    before = args.received.index_select(0, nodes)
    args.received.index_copy_(0, nodes, before + 1)
    cells, events = (nodes, before % args.mails.shape[1]), latest >> 1
    args.event_id.index_put_(cells, args.batch_event_ids.index_select(0, events).long())
    args.mail_time.index_put_(cells, args.times.index_select(0, events))
    mails = _mails(args)
    if mails is None:
        values = mail_rows(args.hidden, args.src_rows, args.dst_rows, latest)
    else:
        means, features = reference_means(mails)
        values = means.index_select(0, places)
        if args.mail_features is not None and features is not None:
            args.mail_features.index_put_(cells, features.index_select(0, places).to(args.mail_features.dtype))
    args.mails.index_put_(cells, values.to(args.mails.dtype))


def _mails(args: Deliver) -> Mails | None:
    """Inputs of `mean_mails`, or None in mode "last"."""
    if args.mode == "last" or args.owners is None or args.deliveries is None:
        return None
    rows, receivers = (args.src_rows, args.dst_rows), args.heard.numel()
    return Mails(args.hidden, *rows, args.features, args.owners, args.deliveries, receivers)


@kernel(
    Config({"BLOCK": 8, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 16, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 16, "COLUMNS": 64}, num_warps=8),
    space={"BLOCK": (4, 8, 16, 32), **spaces.COLUMNS, **spaces.PLAIN},
)
def ring_kernel(
    p_memory, p_memory_time, p_received, p_mails, p_event_id, p_mail_time, p_mail_features, p_src, p_dst,
    p_batch_event_ids, p_times, p_hidden, p_hidden_time, p_src_rows, p_dst_rows, p_heard, p_last, p_means, p_kept,
    num_events, num_heard, stride_memory, stride_mails, stride_features, stride_hidden,
    SLOTS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
    PADDED: tl.constexpr, PADDED_WIDTH: tl.constexpr,
):  # fmt: skip
    """For a receiver v = heard[i] ≥ 0, its latest mail 2·event + side and c = received[v] mod SLOTS:

        mails[v, c] := [h(that end) ‖ h(other end)], or the mean if there is one     received[v] += 1
        event_id[v, c], mail_time[v, c] := those of the event

    and for an end u ≥ 0: memory(u) := h(u), with its time. The first programs handle BLOCK receivers each, the others
    BLOCK ends. A node that is an end several times is written several times, with the same bits.
    """
    tile, tiles = tl.program_id(0), tl.cdiv(num_heard, BLOCK)
    if tile < tiles:
        o_heard = tile * BLOCK + tl.arange(0, BLOCK)
        b_node = tl.load(p_heard + o_heard, mask=o_heard < num_heard, other=-1).to(tl.int64)
        m_node = b_node >= 0
        b_before = tl.load(p_received + b_node, mask=m_node, other=0)
        tl.debug_barrier()  # each layout repeats the load in different warps: all must load before any stores
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


def _launch(args: Deliver) -> None:
    """Launch one kernel; in mode "mean" the kernel of the means runs first."""
    mails = _mails(args)
    means, feature_means = (None, None) if mails is None else launch_means(mails)
    config, (_, slots, width) = ring_kernel.config(), args.mails.shape
    dim, features = width // 2, args.mail_features
    features_width, stride_features = (0, 0) if features is None else (features.shape[2], features.stride(0))
    tiles = cdiv(args.heard.numel(), config["BLOCK"]) + cdiv(2 * args.src.numel(), config["BLOCK"])
    ring_kernel.launch(
        (tiles,), config, *args[:11], *args[12:18], means, feature_means, args.src.numel(), args.heard.numel(),
        args.memory.stride(0), args.mails.stride(0), stride_features, args.hidden.stride(0), SLOTS=slots, DIM=dim,
        WIDTH=features_width, PADDED=pow2(dim, 1), PADDED_WIDTH=pow2(features_width, 1),
    )  # fmt: skip


def _check(args: Deliver) -> None:
    if args.mode not in ("last", "mean"):
        raise ValueError(f"{_NAME}: mode must be 'last' or 'mean', not {args.mode!r}")
    if (args.owners is None) != (args.deliveries is None) or (args.mode == "mean" and args.owners is None):
        raise ValueError(f"{_NAME}: owners and deliveries go together, and mode 'mean' needs them; give both")
    if (args.mail_features is None) != (args.features is None) or (args.mode == "last" and args.features is not None):
        raise ValueError(f"{_NAME}: features and mail_features go together, in mode 'mean' only; give both or neither")
    batch = checks.named(args, "src", "dst", "batch_event_ids", "src_rows", "dst_rows")
    lists = {**batch, **checks.named(args, "heard", "last", "owners", "deliveries")}
    columns, rows = (
        checks.named(args, "memory_time", "received", "event_id", "mail_time"),
        checks.named(args, "mails", "mail_features"),
    )
    others = {**lists, **checks.named(args, "times", "features", "hidden_time")}
    checks.dtype(_NAME, checks.COMPUTED, hidden=args.hidden)
    checks.dtype(_NAME, checks.FLOATS, memory=args.memory, **rows, features=args.features)
    checks.dtype(_NAME, (torch.int64,), received=args.received, event_id=args.event_id)
    checks.dtype(_NAME, checks.INTEGERS, **lists)
    checks.dtype(_NAME, checks.TIMES, memory_time=args.memory_time)
    checks.same_dtype(_NAME, **checks.named(args, "memory_time", "mail_time", "times", "hidden_time"))
    checks.dims(_NAME, 2, **checks.named(args, "memory", "hidden", "event_id", "features"))
    checks.dims(_NAME, 1, src=args.src, heard=args.heard, owners=args.owners)
    (nodes, dim), slots, events = args.memory.shape, args.event_id.shape[1], tuple(args.src.shape)
    width, ring, count = 0 if args.features is None else args.features.shape[1], (nodes, slots), len(args.hidden)
    if slots < 1:
        raise ValueError(f"{_NAME}: event_id has shape {tuple(args.event_id.shape)}; give at least one slot per node")
    shapes = {
        "memory_time": (nodes,), "received": (nodes,), "mails": (*ring, 2 * dim), "event_id": ring, "mail_time": ring,
        "mail_features": (*ring, width), "features": (*events, width), "hidden": (count, dim), "hidden_time": (count,),
        "times": events, "last": tuple(args.heard.shape),
        "deliveries": () if args.owners is None else tuple(args.owners.shape), **dict.fromkeys(batch, events),
    }  # fmt: skip
    checks.shape(_NAME, **{name: (getattr(args, name), shape) for name, shape in shapes.items()})
    checks.layout(_NAME, memory=args.memory, hidden=args.hidden, **others)
    for name, table in {**columns, **rows}.items():
        strided = table is not None and name in rows and table.numel() and table.stride()[1:] == (table.shape[2], 1)
        if table is not None and not (strided or table.is_contiguous()):
            raise ValueError(f"{_NAME}: {name} has strides {table.stride()}; give {name}.contiguous()")
    checks.device(_NAME, args.hidden.device, (), memory=args.memory, **columns, **rows, **others)
    for name, stop in (("src", nodes), ("dst", nodes), ("src_rows", count), ("dst_rows", count), ("heard", nodes)):
        checks.within(_NAME, name, getattr(args, name), stop, None)
    checks.within(_NAME, "owners", args.owners, args.heard.numel())
    for name in ("last", "deliveries"):
        checks.within(_NAME, name, getattr(args, name), 2 * len(args.src), None)


deliver_mails = operation(
    _NAME, Deliver, reference=_reference, launch=_launch, check=_check, on="hidden",
    mutates=("memory", "memory_time", "received", "mails", "event_id", "mail_time", "mail_features"),
)  # fmt: skip
