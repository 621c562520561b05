"""Event, Δt and time of each node's mail for a memory updater, read from tables with one mail per node."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, tl
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "fetch_mail"
Fetched = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Fetch(NamedTuple):
    """Event and Δt of each node's mail, and the time of its memory after digesting it.

    With v = nodes[i]: events[i] = event_id[v], has_mail[i] = (events[i] ≥ 0), Δt[i] = mail_time[v] − memory_time[v]
    (the TGN paper's rule), digested_time[i] = mail_time[v]; without mail, Δt is 0 and the time is memory_time[v].

    Args:
        nodes: [C] integer, rows of the tables; a negative one is padding, which has no mail and node 0's memory time.
        memory_time: [N] int64 or float64, N ≥ 1, the time of the last memory update.
        event_id: [N] int64, the event of the mail; negative if there is no mail.
        mail_time: [N], in the dtype of `memory_time`.
        dtype: float32 or float64, of the differences.

    Returns:
        events [C] int64, −1 in padding; Δt [C] in `dtype`, subtracted before it is rounded; has_mail [C]
        bool; digested_time [C] in the dtype of the times. Nothing is mutated or differentiable.

    Raises:
        ValueError: a wrong dtype, shape, layout or device, empty tables; with debugging on, a node outside the tables.
    """

    nodes: torch.Tensor
    memory_time: torch.Tensor
    event_id: torch.Tensor
    mail_time: torch.Tensor
    dtype: torch.dtype = torch.float32


def _reference(args: Fetch) -> Fetched:
    place = args.nodes.clamp(min=0)
    memory, mail = args.memory_time.index_select(0, place), args.mail_time.index_select(0, place)
    events = torch.where(args.nodes >= 0, args.event_id.index_select(0, place), -1)
    has_mail = events >= 0
    return events, torch.where(has_mail, mail - memory, 0).to(args.dtype), has_mail, torch.where(has_mail, mail, memory)


@kernel(
    Config({"BLOCK": 128}, num_warps=4),
    Config({"BLOCK": 64}, num_warps=2),
    Config({"BLOCK": 256}, num_warps=4),
    space=spaces.FLAT,
)
def mail_kernel(
    p_nodes, p_memory_time, p_event_id, p_mail_time, p_events, p_deltas, p_has_mail, p_digested, num_nodes,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """For v = nodes[i]: e_i = event_id[v] where v ≥ 0, else −1; where e_i ≥ 0, Δt_i = mail time_v − memory time_v and
    digested time_i = mail time_v, elsewhere 0 and memory time_max(v, 0)."""
    o_node = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_node = o_node < num_nodes
    b_node = tl.load(p_nodes + o_node, mask=m_node, other=-1).to(tl.int64)
    b_event = tl.load(p_event_id + b_node, mask=b_node >= 0, other=-1)
    m_mail = b_event >= 0
    b_memory = tl.load(p_memory_time + tl.maximum(b_node, 0), mask=m_node, other=0)
    b_mail = tl.load(p_mail_time + b_node, mask=m_mail, other=0)
    b_delta = tl.where(m_mail, b_mail - b_memory, 0).to(p_deltas.dtype.element_ty)
    tl.store(p_events + o_node, b_event, mask=m_node)
    tl.store(p_deltas + o_node, b_delta, mask=m_node)
    tl.store(p_has_mail + o_node, m_mail, mask=m_node)
    tl.store(p_digested + o_node, tl.where(m_mail, b_mail, b_memory), mask=m_node)


def _launch(args: Fetch) -> Fetched:
    """Launch programs for BLOCK nodes each."""
    out, config, nodes = _empty(args), mail_kernel.config(), args.nodes.numel()
    mail_kernel.launch((cdiv(nodes, config["BLOCK"]),), config, *args[:4], *out, nodes)
    return out


def _empty(args: Fetch) -> Fetched:
    """Allocate the outputs."""
    size, dtypes = args.nodes.numel(), (torch.int64, args.dtype, torch.bool)
    events, deltas, has_mail = (args.nodes.new_empty(size, dtype=dtype) for dtype in dtypes)
    return events, deltas, has_mail, args.mail_time.new_empty(size)


def _check(args: Fetch) -> None:
    tables = {"memory_time": args.memory_time, "event_id": args.event_id, "mail_time": args.mail_time}
    checks.dtype(_NAME, checks.INTEGERS, nodes=args.nodes)
    checks.dtype(_NAME, checks.TIMES, memory_time=args.memory_time)
    checks.same_dtype(_NAME, memory_time=args.memory_time, mail_time=args.mail_time)
    checks.dtype(_NAME, (torch.int64,), event_id=args.event_id)
    if args.dtype not in checks.COMPUTED:
        raise ValueError(f"{_NAME}: dtype must be torch.float32 or torch.float64, not {args.dtype}")
    checks.dims(_NAME, 1, nodes=args.nodes, memory_time=args.memory_time)
    checks.shape(_NAME, **{name: (table, tuple(args.memory_time.shape)) for name, table in tables.items()})
    if args.memory_time.numel() == 0:
        raise ValueError(f"{_NAME}: memory_time has shape (0,); give tables with a row for every node, at least one")
    checks.layout(_NAME, nodes=args.nodes, **tables)
    checks.device(_NAME, args.nodes.device, (), **tables)
    checks.within(_NAME, "nodes", args.nodes, args.memory_time.numel(), None)


fetch_mail = operation(_NAME, Fetch, reference=_reference, launch=_launch, fake=_empty, check=_check, on="nodes")
