"""Ends of a batch over all ranks: the distinct nodes, and the rank that sends the updated memory of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.kernels import unique_nodes
from mspipe_triton.placement import Placement


@dataclass(frozen=True)
class Ends:
    """The E distinct ends of a batch's B events, and the exchange of their rows h, which any rank with the node has.

    A node's h depends on the node and the parameters alone, so one of its ranks sends it. Of a node's c occurrences
    among the ends, number j mod c counts, where j is the node's own number: so all ranks send about as many rows. Every
    rank then computes all writes of the batch from the same rows, and all replicas of the tables stay the same.

    Args:
        nodes: [E], in order of first occurrence among src ‖ dst.
        src_rows, dst_rows: [B], the number of each event's source and destination among the nodes.
        mine: [R], places among this rank's roots of the nodes that it sends; place 0 fills the rest.
        rows: [E], the place of each node's row among the gathered ones [N · R].
    """

    nodes: torch.Tensor
    src_rows: torch.Tensor
    dst_rows: torch.Tensor
    mine: torch.Tensor
    rows: torch.Tensor

    @staticmethod
    def of(src: torch.Tensor, dst: torch.Tensor, size: int, ranks: Ranks) -> Ends:
        """Find the ends of B events.

        Args:
            src, dst: [B] of the batch. size: the number of events of a full batch.
        """
        events, share = src.numel(), ranks.share(size)
        nodes, inverse, count = unique_nodes(torch.cat([src, dst]), 2 * events)
        nodes = nodes[: int(count)]
        occurrences = torch.bincount(inverse, minlength=nodes.numel())
        numbers = torch.arange(nodes.numel())
        chosen = occurrences.cumsum(0) - occurrences + numbers % occurrences
        places = inverse.argsort(stable=True).index_select(0, chosen)
        event = places % events
        owners = event // share
        counts = torch.bincount(owners, minlength=ranks.count)
        most = int(counts.max())
        order = owners.argsort(stable=True)
        within = torch.empty_like(order)
        within[order] = numbers - (counts.cumsum(0) - counts).index_select(0, owners.index_select(0, order))
        here = (owners == ranks.rank).nonzero().squeeze(1)
        mine = torch.zeros(most, dtype=torch.int64)
        roots = event - ranks.rank * share + torch.where(places < events, 0, share)
        mine[within.index_select(0, here)] = roots.index_select(0, here)
        src_rows, dst_rows = inverse.split(events)
        return Ends(nodes, src_rows, dst_rows, mine, owners * most + within)

    def on(self, placement: Placement) -> Ends:
        """Copy the ends to the device of a placement."""
        parts = (self.nodes, self.src_rows, self.dst_rows, self.mine, self.rows)
        return Ends(*(placement.load(each) for each in parts))
