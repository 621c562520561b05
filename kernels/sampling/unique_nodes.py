"""Deduplication of the nodes that a batch touches, with a result of fixed capacity and the count in a tensor."""

from __future__ import annotations

import threading
from typing import NamedTuple

import torch

from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, pow2, tl
from mspipe_triton.kernels.runtime.operation import operation

# Positions per program, the same in both kernels: the second one adds up the counts of the first.
SPAN = 512

_scratch = threading.local()
_CACHED = 1 << 28  # entries of the largest scratch table that is cached per thread, 2 GiB


class Nodes(NamedTuple):
    """The distinct nodes of a list, and the index of each entry among them.

    The cost does not depend on the total number of nodes. The kernels do not wait for the device, and their result does
    not depend on the order in which it runs programs.

    Args:
        nodes: [M] integer, below 2³¹, M at most 2³⁰; negative entries are padding.
        capacity: C, the maximum number of distinct nodes; M is always enough.

    Returns:
        ids [C] int64, in order of first occurrence, −1 after the last; inverse [M] int64 with
        ids[inverse[i]] == nodes[i], 0 for padding; count [1] int64 of distinct nodes. Because of this order, the head
        of a list (a batch's roots) has its rows at the head of the table. Nothing is mutated or differentiable. If
        there are more than C distinct nodes, ids has the first C, inverse is 0 for entries of the others, and count is
        the true number, above C.

    Raises:
        ValueError: a wrong dtype, shape or layout; a negative capacity; with debugging on, a node of 2³¹ or more.
    """

    nodes: torch.Tensor
    capacity: int


Unique = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _reference(args: Nodes) -> Unique:
    """Number the nodes without sorting: every position is stamped on its node, the smallest stays, and a prefix sum
    over the positions that stay numbers the nodes. The cost does not depend on the total number of nodes.
    """
    (nodes, capacity), length = args, args.nodes.numel()
    ids = torch.full((capacity + 1,), -1, dtype=torch.int64, device=nodes.device)  # the last is for nodes without a row
    if length == 0:
        return ids[:-1], nodes.new_zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64, device=nodes.device)
    nodes = nodes.long()
    position = torch.arange(length, device=nodes.device)
    slot = nodes + 1  # all padding shares slot 0
    slot.clamp_(min=0)
    stamp = stamps(int(slot.max()) + 1, nodes.device)
    stamp.index_fill_(0, slot, length)
    stamp.scatter_reduce_(0, slot, position, "amin")
    first = stamp.index_select(0, slot)
    new = (first == position) & (nodes >= 0)
    rank = torch.cumsum(new, 0)
    count = rank[-1:].clone()
    new &= rank <= capacity
    rank -= 1
    ids.scatter_(0, torch.where(new, rank, capacity), nodes)
    return ids[:-1], torch.where(new, rank, 0).index_select(0, first), count


def stamps(size: int, device: torch.device) -> torch.Tensor:
    """Return a scratch table of at least `size` int64 with undefined contents.

    It is cached per thread, so its pages stay mapped, unless it is huge: in deterministic mode torch fills every new
    tensor, so all its memory would stay in use.
    """
    table: torch.Tensor | None = getattr(_scratch, "table", None)
    if table is None or table.numel() < size or table.device != device:
        with torch.inference_mode(False):  # a table made in that mode could not be written to outside it
            table = torch.empty(max(size, 1024) * 5 // 4, dtype=torch.int64, device=device)
        if table.numel() <= _CACHED:
            _scratch.table = table
    return table


@kernel(
    Config({"BLOCK": 128}, num_warps=4),
    Config({"BLOCK": 128}, num_warps=1),
    Config({"BLOCK": 256}, num_warps=4),
    space={
        "BLOCK": (128, 256, 512, 1024),
        **spaces.PLAIN,
        "num_warps": (1, 2, 4),
    },  # with fewer nodes than threads, threads would race for an entry
)
def unique_insert_kernel(p_nodes, p_table, p_slots, num_nodes, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """slot_i = the entry of node_i in a hash table of 2^BITS entries node·2³² + position (−1: free), −1 for padding;
    table[slot_i] becomes the smallest position of node_i.

    Probing starts at slot h(node) = ⌊(node · 0x9E3779B9 mod 2³²) / 2^(32 − BITS)⌋. A free entry changes once, to its
    node's, and then only to smaller positions. So the probe of a node ends at the same slot whichever lane is first,
    and a stale value from a load is harmless: another node's entry does not change owner, a smaller position stays
    smaller, and the exchange tests whether a free entry is still free.
    """
    o_node = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_node = o_node < num_nodes
    b_node = tl.load(p_nodes + o_node, mask=m_node, other=-1).to(tl.int64)
    b_own = (b_node << 32) | o_node
    m_real = b_node >= 0
    b_hash = ((b_node.to(tl.uint32) * 0x9E3779B9) >> (32 - BITS)).to(tl.int32)
    # The exchange has no mask: a lane that does not need it exchanges −1 for −1, padding at a slot of its own.
    b_slot = tl.where(m_real, b_hash, o_node & ((1 << BITS) - 1))
    b_free = tl.full([BLOCK], -1, tl.int64)
    m_seek = m_real
    while tl.max(m_seek.to(tl.int32), 0) > 0:
        b_entry = tl.load(p_table + b_slot, mask=m_seek, other=0, volatile=True)
        m_free = m_seek & (b_entry == -1)
        b_before = tl.atomic_cas(p_table + b_slot, b_free, tl.where(m_free, b_own, -1), sem="relaxed")
        b_entry = tl.where(m_free, b_before, b_entry)
        m_found = m_seek & ((b_entry == -1) | ((b_entry >> 32) == b_node))
        tl.atomic_min(p_table + b_slot, b_own, mask=m_found & (b_entry > b_own), sem="relaxed")
        m_seek = m_seek & ~m_found
        b_slot = tl.where(m_seek, (b_slot + 1) & ((1 << BITS) - 1), b_slot)
    tl.store(p_slots + o_node, tl.where(m_real, b_slot, -1), mask=m_node)


@kernel(
    Config(num_warps=4),
    Config(num_warps=2),
    Config(num_warps=8),
    space=spaces.SPAN,
)
def unique_count_kernel(p_table, p_slots, p_first, p_counts, num_nodes, SPAN: tl.constexpr):
    """first_i = table[slot_i] mod 2³², −1 for padding; counts[p] = |{i in program p's span: first_i = i}|."""
    o_node = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    m_node = o_node < num_nodes
    b_slot = tl.load(p_slots + o_node, mask=m_node, other=-1)
    b_first = tl.load(p_table + b_slot, mask=b_slot >= 0, other=-1).to(tl.int32)
    tl.store(p_first + o_node, b_first, mask=m_node)
    tl.store(p_counts + tl.program_id(0), tl.sum((b_first == o_node).to(tl.int32), 0))


@kernel(
    Config(num_warps=4),
    Config(num_warps=2),
    Config(num_warps=8),
    space=spaces.SPAN,
)
def unique_number_kernel(
    p_nodes, p_first, p_counts, p_ids, p_inverse, p_count, num_nodes, num_spans, capacity, SPAN: tl.constexpr
):
    """rank_i = |{k < i: first_k = k}| where first_i = i, then inverse_i = rank_i and ids[rank_i] = node_i;
    count = Σ counts, and ids[r] = −1 for r ≥ count. Nothing is written beyond `capacity`, and inverse_i = 0 there."""
    i_span = tl.program_id(0)
    before = 0
    total = 0
    for i_start in range(0, num_spans, SPAN):
        o_span = i_start + tl.arange(0, SPAN)
        b_count = tl.load(p_counts + o_span, mask=o_span < num_spans, other=0)
        before += tl.sum(tl.where(o_span < i_span, b_count, 0), 0)
        total += tl.sum(b_count, 0)
    o_node = i_span * SPAN + tl.arange(0, SPAN)
    m_node = o_node < num_nodes
    m_first = m_node & (tl.load(p_first + o_node, mask=m_node, other=-1) == o_node)
    b_rank = before + tl.cumsum(m_first.to(tl.int32), 0) - 1
    m_fits = m_first & (b_rank < capacity)
    b_node = tl.load(p_nodes + o_node, mask=m_fits, other=-1).to(tl.int64)
    tl.store(p_ids + b_rank, b_node, mask=m_fits)
    tl.store(p_ids + o_node, tl.full([SPAN], -1, tl.int64), mask=(o_node >= total) & (o_node < capacity))
    tl.store(p_inverse + o_node, tl.where(m_fits, b_rank, 0).to(tl.int64), mask=m_first)
    tl.store(p_count, total, mask=i_span == 0)


@kernel(
    Config({"BLOCK": 256}, num_warps=4),
    Config({"BLOCK": 128}, num_warps=4),
    Config({"BLOCK": 512}, num_warps=4),
    space=spaces.FLAT,
)
def unique_inverse_kernel(p_first, p_inverse, num_nodes, BLOCK: tl.constexpr):
    """inverse_i = inverse[first_i] where first_i ≠ i, 0 for padding; first occurrences are only read."""
    o_node = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_node = o_node < num_nodes
    b_first = tl.load(p_first + o_node, mask=m_node, other=-1)
    b_inverse = tl.load(p_inverse + b_first, mask=b_first >= 0, other=0)
    tl.store(p_inverse + o_node, b_inverse, mask=m_node & (b_first != o_node))


def _launch(args: Nodes) -> Unique:
    """Launch four kernels in order: fill the table, count, number, look up."""
    (nodes, capacity), (ids, inverse, count), length = args, _empty(args), args.nodes.numel()
    size = pow2(2 * length)  # half of it stays free, so every probe ends soon
    table = torch.full((size,), -1, dtype=torch.int64, device=nodes.device)
    slots = torch.empty_like(nodes, dtype=torch.int32)
    first = torch.empty_like(slots)
    spans = cdiv(length, SPAN)
    counts = slots.new_empty(spans)

    insert, lookup = unique_insert_kernel.config(), unique_inverse_kernel.config()
    unique_insert_kernel.launch(
        (cdiv(length, insert["BLOCK"]),), insert, nodes, table, slots, length, BITS=size.bit_length() - 1
    )
    unique_count_kernel.launch((spans,), unique_count_kernel.config(), table, slots, first, counts, length, SPAN=SPAN)
    unique_number_kernel.launch(
        (max(cdiv(max(length, capacity), SPAN), 1),), unique_number_kernel.config(),
        nodes, first, counts, ids, inverse, count, length, spans, capacity, SPAN=SPAN,
    )  # fmt: skip
    unique_inverse_kernel.launch((cdiv(length, lookup["BLOCK"]),), lookup, first, inverse, length)
    return ids, inverse, count


def _empty(args: Nodes) -> Unique:
    """Allocate the outputs."""
    nodes, ids = args.nodes, args.nodes.new_empty(args.capacity, dtype=torch.int64)
    return ids, torch.empty_like(nodes, dtype=torch.int64), nodes.new_empty(1, dtype=torch.int64)


def _check(args: Nodes) -> None:
    nodes, capacity = args
    checks.dtype("unique_nodes", checks.INTEGERS, nodes=nodes)
    if nodes.dim() != 1:
        raise ValueError(f"unique_nodes: nodes is {tuple(nodes.shape)}; give a vector, as with nodes.reshape(-1)")
    if not isinstance(capacity, (int, torch.SymInt)) or capacity < 0:
        raise ValueError(f"unique_nodes: capacity must be an integer ≥ 0, not {capacity!r}; nodes.numel() is enough")
    checks.layout("unique_nodes", nodes=nodes)
    checks.within("unique_nodes", "nodes", nodes, 2**31, None)


unique_nodes = operation(
    "unique_nodes", Nodes, reference=_reference, launch=_launch, fake=_empty, check=_check, on="nodes"
)
