"""Staleness mitigation by similarity: stale memory rows are blended with the rows of similar, fresher nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.errors import ConfigError
from mspipe_triton.nodes.mailbox import R
from mspipe_triton.nodes.state import NodeState

# Latest events searched per distinct neighbour, since partners repeat; bounded, since a hub's history is not.
_REACH = 8
# Positions that each step of the search in a node's history probes.
_WAYS = 31


@dataclass(frozen=True)
class Mitigation:
    """memory(u) := λ·memory(u) + (1 − λ)·mean of memory(v) over v in Ω(u), for the rows u that are stale.

    Only a row with a memory can be *stale*: if its Δt(u) = time − memory time(u) is above the batch's quantile, which
    is the ⌈q·n⌉-th smallest Δt of the n rows with a memory. At most (1 − q)·n rows are stale. A row has a memory once
    it has digested a mail later than the stream's first time. A first event writes the updater's result for an empty
    mail, which is the same for all nodes and dated at the stream's start, so its Δt means nothing.

    Nodes that share neighbours with u are *similar* to it. N(u) is the F latest distinct neighbours of u before `time`.
    The count of v ≠ u is the number of members of N(u) that have v among the neighbours of their F latest events before
    `time`. Ω(u) is the P nodes with the highest counts among those whose memory time is later than u's; ties go to the
    node updated later, then to the smaller id. If Ω(u) is empty, the row stays unchanged.

    Both hops are bounded, so the reads of a batch do not grow with the histories: N(u) is searched in the 8·F latest
    events of u, and only the F latest events of each neighbour count. Nothing is stored between batches.

    From MSPipe (Sheng et al., KDD 2024, arXiv 2402.15113); the windows, the order of ties and P are ours.

    Args:
        adjacency: of the whole stream; later events are in it, but not read.
        quantile: q, 0 to 1; at 1 no row is stale.
        blend: λ, 0 to 1, the weight of a stale row itself.
        fanout: F, at least 1.
        peers: P, at least 1.

    Raises:
        ConfigError: one of these is out of range.
    """

    adjacency: TemporalCSR
    quantile: float = 0.99
    blend: float = 0.95
    fanout: int = 10
    peers: int = 5

    def __post_init__(self) -> None:
        for name in ("quantile", "blend"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"mitigation: {name} must be from 0 to 1, not {getattr(self, name)}")
        for name in ("fanout", "peers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"mitigation: {name} must be at least 1, not {getattr(self, name)}")

    @torch.no_grad()
    def apply(self, record: R, nodes: torch.Tensor, time: torch.Tensor, state: NodeState[R]) -> tuple[R, int]:
        """Blend the stale rows of `record.memory` in place; returns the record and the number of blended rows.

        The state may be written meanwhile: the candidates' memory times are read once, then the memory of the nodes in
        Ω once, and an update between these reads does not change which nodes are in Ω. Results are reproducible only if
        both reads happen at the same point among the updates.

        Args:
            record: of the batch's U distinct nodes, on the CPU, as `NodeState.fetch` returns it, with rows of its own.
            nodes: [U] int64, those nodes.
            time: [], the time of the batch's first event, in the dtype of the adjacency's times.
            state: the tables from which the candidates' rows are read.
        """
        stale = self._stale(record.memory_time, time, state.start)
        if not stale.numel() or not self.adjacency.times.numel():
            return record, 0
        owners, candidates, shared = self._candidates(nodes.index_select(0, stale), time)
        updated = state.tables["memory_time"].index_select(0, candidates)
        later = (updated > record.memory_time.index_select(0, stale).index_select(0, owners)).nonzero().squeeze(1)
        owners, candidates, shared, updated = (
            part.index_select(0, later) for part in (owners, candidates, shared, updated)
        )
        # Candidates are sorted by owner and node, so two stable sorts leave ties in the order of their nodes.
        order = updated.argsort(descending=True, stable=True)
        order = order[(owners * (self.fanout + 1) - shared).index_select(0, order).argsort(stable=True)]
        sizes = torch.bincount(owners, minlength=stale.numel())
        first = (sizes.cumsum(0) - sizes).index_select(0, owners)
        order = order[torch.arange(order.numel()) - first < self.peers]

        owners = owners.index_select(0, order)
        peers = state.read_memory(candidates.index_select(0, order))
        wide = torch.promote_types(peers.dtype, torch.float32)
        total = torch.zeros((stale.numel(), peers.shape[1]), dtype=wide).index_add_(0, owners, peers.to(wide))
        places = sizes.nonzero().squeeze(1)
        mean = total.index_select(0, places) / sizes.index_select(0, places).clamp(max=self.peers).unsqueeze(1)
        rows = stale.index_select(0, places)
        blend = self.blend * record.memory.index_select(0, rows).to(wide) + (1 - self.blend) * mean
        record.memory.index_copy_(0, rows, blend.to(peers.dtype))
        return record, rows.numel()

    def _stale(self, memory_time: torch.Tensor, time: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Rows [S], ascending, whose Δt is above the quantile of the rows with a memory."""
        rows = (memory_time > start).nonzero().squeeze(1)
        if not rows.numel():
            return rows
        deltas = time - memory_time.index_select(0, rows)
        # 0.99 · 100 is 99 and must not round up to 100 if the product is slightly above.
        rank = max(1, math.ceil(self.quantile * rows.numel() - 1e-6))
        return rows.masked_select(deltas > deltas.kthvalue(rank).values)

    def _candidates(self, nodes: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Owners (positions in `nodes` [S]), candidates and counts of shared neighbours [C], by owner and candidate."""
        around = self._recent(nodes, time, _REACH * self.fanout)
        new = _first_in_row(around)
        owners, slots = (new & (new.cumsum(1) <= self.fanout)).nonzero(as_tuple=True)
        beyond = self._recent(around[owners, slots], time, self.fanout)
        mask = _first_in_row(beyond) & (beyond != nodes.index_select(0, owners).unsqueeze(1))
        width = self.adjacency.indptr.numel() - 1
        pairs, shared = (owners.unsqueeze(1) * width + beyond).masked_select(mask).unique(return_counts=True)
        return pairs // width, pairs % width, shared

    def _recent(self, nodes: torch.Tensor, time: torch.Tensor, count: int) -> torch.Tensor:
        """Neighbours [R, count] in the latest events of `nodes` [R] before `time`, the latest first, −1 in empty slots.

        The result equals the first output of `sample_recent`. With few roots the cost is that of the calls and not of
        their computation, so the search probes many positions per step, and nothing else is gathered.
        """
        times, start = self.adjacency.times, self.adjacency.indptr.index_select(0, nodes)
        end = self.adjacency.indptr.index_select(0, nodes + 1)
        probes = torch.arange(1, _WAYS + 1)
        early, width = start, int((end - start).max()) if nodes.numel() else 0
        while width > 0:  # the entries before `time` end between `early` and `early + width`
            step = width // (_WAYS + 1) + 1
            places = early.unsqueeze(1) + step * probes
            past = (places <= end.unsqueeze(1)) & (times[(places - 1).clamp_(max=times.numel() - 1)] < time)
            early = early + step * past.sum(1)
            width = step - 1
        positions = early.unsqueeze(1) - torch.arange(1, count + 1)
        neighbours = self.adjacency.neighbours[positions.clamp(min=0)].long()
        return torch.where(positions >= start.unsqueeze(1), neighbours, -1)


def _first_in_row(nodes: torch.Tensor) -> torch.Tensor:
    """Mask [R, W] of the first occurrence of each node ≥ 0 in its row of `nodes` [R, W]."""
    values, order = nodes.sort(dim=1, stable=True)
    new = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[:, 1:], values[:, :-1], out=new[:, 1:])
    return torch.zeros_like(new).scatter_(1, order, new) & (nodes >= 0)
