"""Staleness mitigation by similarity: rows long without update are blended with those of similar, fresher nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.errors import ConfigError
from mspipe_triton.nodes.mailbox import R
from mspipe_triton.nodes.state import NodeState

# Entries looked back on for each distinct neighbour wanted; partners repeat, but a hub's history has no bound.
_REACH = 8
# Places that a step of the search in a node's history tries.
_WAYS = 31


@dataclass(frozen=True)
class Mitigation:
    """memory(u) := λ·memory(u) + (1 − λ)·mean of memory(v) over v in Ω(u), for the rows u that are stale.

    *Stale* among the rows with a memory is one whose Δt(u) = time − memory time(u) is above the batch's quantile: the
    ⌈q·n⌉-th smallest Δt of its n such rows, so that at most (1 − q)·n rows are stale. A row has a memory once it has
    digested a mail later than the stream's first time. What a first event writes is the updater's answer to an empty
    mail, the same for all nodes and dated at the stream's start; its Δt says nothing.

    *Similar* to u are the nodes that share neighbours with it. N(u) holds the F latest distinct neighbours of u before
    `time`; v ≠ u counts the members of N(u) that have v among the neighbours of their F latest events before `time`.
    Ω(u) holds the P nodes that count most of those whose memory time is later than u's; of equals the one updated
    later, then the one of the smaller number. Where Ω(u) is empty the row stays as it is.

    Both hops are bounded, so that what a batch reads does not grow with the histories: N(u) is looked for among the
    8·F latest events of u, and only the F latest of each neighbour count. Nothing is kept between batches.

    From MSPipe (Sheng et al., KDD 2024, arXiv 2402.15113); the windows, the order of equals and P are ours.

    Args:
        adjacency: of the whole stream, later events too; they are not looked at.
        quantile: q, 0 to 1; at 1 no row is stale.
        blend: λ, 0 to 1, what a stale row keeps of its own.
        fanout: F, at least 1.
        peers: P, at least 1.

    Raises:
        ConfigError: one of these is out of its range.
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
        """Blend the stale rows of `record.memory` in place; the record, and how many rows were blended.

        Of `state`, the candidates' memory times are read once, then the chosen nodes' memory once, so it may be written
        meanwhile: a row read between two updates counts with the time that was seen. For the same result every time,
        the two must come at the same point among the updates.

        Args:
            record: of the batch's U distinct nodes, on the CPU, as `NodeState.fetch` returns it: a copy of its own.
            nodes: [U] int64, those nodes.
            time: [], the time of the batch's first event, in the dtype of the adjacency's times.
            state: what the candidates' rows are read from.
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
        # Candidates come sorted by owner and node, so two stable sorts leave equals in the order of their nodes.
        order = updated.argsort(descending=True, stable=True)
        order = order[(owners * (self.fanout + 1) - shared).index_select(0, order).argsort(stable=True)]
        sizes = torch.bincount(owners, minlength=stale.numel())
        first = (sizes.cumsum(0) - sizes).index_select(0, owners)
        order = order[torch.arange(order.numel()) - first < self.peers]

        owners = owners.index_select(0, order)
        peers = state.read_memory(candidates.index_select(0, order))
        wide = torch.promote_types(peers.dtype, torch.float32)
        total = torch.zeros((stale.numel(), peers.shape[1]), dtype=wide).index_add_(0, owners, peers.to(wide))
        blended = sizes.nonzero().squeeze(1)
        mean = total.index_select(0, blended) / sizes.index_select(0, blended).clamp(max=self.peers).unsqueeze(1)
        rows = stale.index_select(0, blended)
        mixed = self.blend * record.memory.index_select(0, rows).to(wide) + (1 - self.blend) * mean
        record.memory.index_copy_(0, rows, mixed.to(peers.dtype))
        return record, rows.numel()

    def _stale(self, memory_time: torch.Tensor, time: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Rows [S], ascending, whose Δt is above the quantile of those with a memory."""
        known = (memory_time > start).nonzero().squeeze(1)
        if not known.numel():
            return known
        deltas = time - memory_time.index_select(0, known)
        # 0.99 · 100 is 99 and must not round up to 100 where the product is a little above.
        rank = max(1, math.ceil(self.quantile * known.numel() - 1e-6))
        return known.masked_select(deltas > deltas.kthvalue(rank).values)

    def _candidates(self, nodes: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Owner (a position in `nodes` [S]), candidate and number of shared neighbours, each [C], by owner and node."""
        around = self._recent(nodes, time, _REACH * self.fanout)
        new = _first_in_row(around)
        owners, slots = (new & (new.cumsum(1) <= self.fanout)).nonzero(as_tuple=True)
        beyond = self._recent(around[owners, slots], time, self.fanout)
        reached = _first_in_row(beyond) & (beyond != nodes.index_select(0, owners).unsqueeze(1))
        width = self.adjacency.indptr.numel() - 1
        pairs, shared = (owners.unsqueeze(1) * width + beyond).masked_select(reached).unique(return_counts=True)
        return pairs // width, pairs % width, shared

    def _recent(self, nodes: torch.Tensor, time: torch.Tensor, count: int) -> torch.Tensor:
        """Neighbours [R, count] of the latest events of `nodes` [R] before `time`, the latest first, −1 where none is.

        What `sample_recent` returns first. A handful of roots costs what the calls cost, not what they compute, so the
        search tries many places a step and nothing else is gathered.
        """
        times, start = self.adjacency.times, self.adjacency.indptr.index_select(0, nodes)
        end = self.adjacency.indptr.index_select(0, nodes + 1)
        tried = torch.arange(1, _WAYS + 1)
        early, width = start, int((end - start).max()) if nodes.numel() else 0
        while width > 0:  # the entries before `time` end at `early` or up to `width` after it
            step = width // (_WAYS + 1) + 1
            places = early.unsqueeze(1) + step * tried
            past = (places <= end.unsqueeze(1)) & (times[(places - 1).clamp_(max=times.numel() - 1)] < time)
            early = early + step * past.sum(1)
            width = step - 1
        positions = early.unsqueeze(1) - torch.arange(1, count + 1)
        found = self.adjacency.neighbours[positions.clamp(min=0)].long()
        return torch.where(positions >= start.unsqueeze(1), found, -1)


def _first_in_row(nodes: torch.Tensor) -> torch.Tensor:
    """[R, W] bool: the first of each number ≥ 0 in its row of `nodes` [R, W]."""
    values, order = nodes.sort(dim=1, stable=True)
    new = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[:, 1:], values[:, :-1], out=new[:, 1:])
    return torch.zeros_like(new).scatter_(1, order, new) & (nodes >= 0)
