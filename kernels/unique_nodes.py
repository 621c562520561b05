"""Deduplication of the nodes that a batch touches, with a capacity-sized result and the count kept in a tensor."""

from __future__ import annotations

import threading

import torch

_scratch = threading.local()


def unique_nodes(nodes: torch.Tensor, capacity: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The distinct nodes of a list, and where each entry of the list stands among them.

    Every position is stamped on its node, the least one stays, and a prefix sum over the positions that stayed
    numbers the nodes; no sort, and no work in the number of nodes that exist.

    Args:
        nodes: [M] integer; negative entries are padding.
        capacity: C, room for the distinct nodes; M is always enough.

    Returns:
        ids [C] int64, in order of first occurrence, −1 behind the last; inverse [M] int64 with
        ids[inverse[i]] == nodes[i], 0 for padding; count [1] int64 of distinct nodes. Order of first occurrence
        makes the rows of a list's head (a batch's roots) the head of the table.

    Raises:
        ValueError: more distinct nodes than `capacity`.
    """
    length = nodes.numel()
    ids = torch.full((capacity,), -1, dtype=torch.int64, device=nodes.device)
    if length == 0:
        return ids, nodes.new_zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64, device=nodes.device)
    nodes = nodes.long()
    position = torch.arange(length, device=nodes.device)
    slot = nodes + 1  # all padding shares slot 0
    slot.clamp_(min=0)
    stamp = _stamps(int(slot.max()) + 1, nodes.device)
    stamp.index_fill_(0, slot, length)
    stamp.scatter_reduce_(0, slot, position, "amin")
    first = stamp.index_select(0, slot)
    new = (first == position) & (nodes >= 0)
    rank = torch.cumsum(new, 0)
    count = rank[-1:].clone()
    distinct = int(count)
    if distinct > capacity:
        raise ValueError(f"unique_nodes: {distinct} distinct nodes do not fit capacity {capacity}")
    ids[:distinct] = nodes.masked_select(new)
    return ids, (rank.index_select(0, first) - 1).clamp_(min=0).masked_fill_(nodes < 0, 0), count


def _stamps(size: int, device: torch.device) -> torch.Tensor:
    """A table of at least `size` int64 whose contents mean nothing; kept a thread, so that its pages stay mapped."""
    table: torch.Tensor | None = getattr(_scratch, "table", None)
    if table is None or table.numel() < size or table.device != device:
        table = torch.empty(max(size, 1024) * 5 // 4, dtype=torch.int64, device=device)
        _scratch.table = table
    return table
