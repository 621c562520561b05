"""Message aggregation and write-back: one record per node from the events of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.mails.aggregate_mean import (
    copy_rows,
    is_last,
    launch_mean,
    position_rows,
    target_nodes,
    write_record,
)
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "aggregate_messages"


class Aggregate(NamedTuple):
    """Write memory and compact mail of a batch's endpoints to the node tables, in place.

    For every endpoint u of the B events, memory(u) := h(u), and its time := the time of the mail that h(u) digested.
    Then u's mail is built from its events in the batch, with partner row h(other endpoint), event id and time:

    * "last": the latest event wins; among equal times the later one in the file, and dst over src within an event.
    * "mean": mean partner row and mean feature row over the node's events, id and time of the latest; a self-loop
      counts twice.

    The result does not depend on the parallelism: no writes race, and sums have a fixed order.

    Args:
        memory, partner: [N, D] floating; memory_time, mail_time: [N] int64 or float64; event_id: [N] int64. Mutated.
        mail_features: [N, E] floating, needed by "mean" if events have features; mutated. None otherwise. These six
            tables may be in pinned host memory.
        src, dst: [B] integer nodes, in time order; an event with a negative one is padding and writes nothing.
            batch_event_ids: [B] integer; times: [B].
        features: [B, E] floating, the events' feature rows; read only by "mean".
        hidden: h [U, D] float32 or float64, not overlapping the tables; hidden_time: [U], the new memory time;
            src_rows, dst_rows: [B] integer, the endpoints' rows in `hidden`. Equal nodes have equal rows, different
            nodes different ones. All times have one dtype. Nothing is differentiable.

    Raises:
        ValueError: `mode` is neither "last" nor "mean"; a wrong dtype, shape, layout or device; with debugging on, a
            node or row outside its table.
    """

    memory: torch.Tensor
    memory_time: torch.Tensor
    partner: torch.Tensor
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
    mode: str = "last"


def _reference(args: Aggregate) -> None:
    if args.src.numel() == 0:
        return
    src, dst, batch_event_ids, times, features, hidden, _, src_rows, dst_rows, _ = args[6:]
    nodes = torch.stack([src, dst], 1).view(-1).long()
    if int(nodes.min()) < 0:  # rare: a batch without padding only pays for this reduction
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
    node_rows = (latest >= 0).nonzero().squeeze(1)
    winner = latest.index_select(0, node_rows)
    targets = nodes.index_select(0, winner)
    events = winner >> 1

    args.memory.index_copy_(0, targets, hidden.index_select(0, node_rows).to(args.memory.dtype))
    args.memory_time.index_copy_(0, targets, args.hidden_time.index_select(0, node_rows))
    args.event_id.index_copy_(0, targets, batch_event_ids.index_select(0, events).long())
    args.mail_time.index_copy_(0, targets, times.index_select(0, events))
    if args.mode == "last":
        mail = hidden.index_select(0, partner_rows.index_select(0, winner))
    else:
        mail = _mean(hidden.index_select(0, partner_rows), rows, hidden.shape[0]).index_select(0, node_rows)
        if args.mail_features is not None and features is not None:
            # In bfloat16 a node's count cannot exceed 256.
            wide = features.float() if features.dtype == torch.bfloat16 else features
            feature_means = _mean(wide.repeat_interleave(2, 0), rows, hidden.shape[0])
            means = feature_means.index_select(0, node_rows)
            args.mail_features.index_copy_(0, targets, means.to(args.mail_features.dtype))
    args.partner.index_copy_(0, targets, mail.to(args.partner.dtype))


def _mean(values: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Mean [count, D] of `values` [M, D] grouped by `rows` [M]; a row without values is 0."""
    total = values.new_zeros((count, values.shape[1])).index_add_(0, rows, values)
    number = values.new_zeros(count).index_add_(0, rows, torch.ones_like(rows, dtype=values.dtype))
    return total / number.clamp(min=1).unsqueeze(1)


@kernel(
    Config({"BLOCK": 8, "CHUNK": 512, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 16, "CHUNK": 64, "COLUMNS": 128}, num_warps=4),
    Config({"BLOCK": 32, "CHUNK": 64, "COLUMNS": 64}, num_warps=8),
    space={**spaces.SCAN, **spaces.COLUMNS},
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
    write_record(
        p_memory, p_memory_time, p_event_id, p_mail_time, p_batch_event_ids, p_times, p_hidden, p_hidden_time,
        stride_memory, stride_hidden, o_position, b_node, b_own, m_last, DIM, PADDED, COLUMNS,
    )  # fmt: skip
    copy_rows(p_partner, stride_partner, b_node, p_hidden, stride_hidden, b_other, m_last, DIM, PADDED, COLUMNS)


def _launch(args: Aggregate) -> None:
    """Launch one kernel for "last", two for "mean" (see `launch_mean`).

    Only the program of a node's last position writes the node, and no kernel reads a table, so nothing races.
    """
    if args.mode == "mean":
        launch_mean(args)
        return
    config, dim = last_kernel.config(), args.hidden.shape[1]
    last_kernel.launch(
        (cdiv(2 * args.src.numel(), config["BLOCK"]),), config,
        args.memory, args.memory_time, args.partner, args.event_id, args.mail_time, args.src, args.dst,
        args.batch_event_ids, args.times, args.hidden, args.hidden_time, args.src_rows, args.dst_rows, args.src.numel(),
        args.memory.stride(0), args.partner.stride(0), args.hidden.stride(0), DIM=dim, PADDED=pow2(dim, 1),
    )  # fmt: skip


def _check(args: Aggregate) -> None:
    if args.mode not in ("last", "mean"):
        raise ValueError(f"{_NAME}: mode must be 'last' or 'mean', not {args.mode!r}")
    tables, columns = (
        checks.named(args, "memory", "partner", "mail_features"),
        checks.named(args, "memory_time", "mail_time", "event_id"),
    )
    ends = checks.named(args, "src", "dst", "src_rows", "dst_rows", "batch_event_ids")
    tensors = checks.named(args, *args._fields[:-1])
    checks.dtype(_NAME, checks.COMPUTED, hidden=args.hidden)
    checks.dtype(_NAME, checks.FLOATS, **tables, features=args.features)
    checks.dtype(_NAME, (torch.int64,), event_id=args.event_id)
    checks.dtype(_NAME, checks.INTEGERS, **ends)
    checks.dtype(_NAME, checks.TIMES, memory_time=args.memory_time)
    checks.same_dtype(_NAME, **checks.named(args, "memory_time", "mail_time", "times", "hidden_time"))
    checks.dims(_NAME, 2, memory=args.memory, hidden=args.hidden)
    (nodes, dim), events, rows = args.memory.shape, len(args.src), len(args.hidden)
    shapes: dict[str, tuple[int, ...]] = {"partner": (nodes, dim), "hidden": (rows, dim), "hidden_time": (rows,)}
    shapes |= dict.fromkeys(columns, (nodes,)) | dict.fromkeys((*ends, "times"), (events,))
    if args.mail_features is not None and args.features is not None:
        width = args.features.shape[1]
        shapes |= {"mail_features": (nodes, width), "features": (events, width)}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{_NAME}: {name} has shape {tuple(tensor.shape)} and should have {shape}, given memory "
                f"{(nodes, dim)}, hidden {tuple(args.hidden.shape)} and src {tuple(args.src.shape)}; fix the wrong one"
            )
    checks.layout(_NAME, **tensors)
    checks.device(_NAME, args.hidden.device, (*tables, *columns), **tensors)
    for name, stop in (("src", nodes), ("dst", nodes), ("src_rows", rows), ("dst_rows", rows)):
        checks.within(_NAME, name, ends[name], stop, None)
    if args.mode == "mean" and (args.mail_features is None) != (args.features is None):
        raise ValueError(f"{_NAME}: mode 'mean' got only one of features and mail_features; give both or neither")


aggregate_messages = operation(
    _NAME, Aggregate, reference=_reference, launch=_launch, check=_check, on="hidden",
    mutates=("memory", "memory_time", "partner", "event_id", "mail_time", "mail_features"),
)  # fmt: skip
