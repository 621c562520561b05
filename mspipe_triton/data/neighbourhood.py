"""The neighbourhood of a batch: sampled temporal neighbours, the distinct nodes among them, and where each stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.kernels import sample_recent, sample_uniform, unique_nodes
from mspipe_triton.placement import Placement


@dataclass(frozen=True)
class Hop:
    """The sampled neighbours of R roots, F slots each.

    rows [R, F]: each slot's row among the distinct nodes (0 in empty slots); event_ids [R, F], −1 in empty slots;
    deltas [R, F], root time − neighbour time; counts [R], filled slots, which come first.
    """

    rows: torch.Tensor
    event_ids: torch.Tensor
    deltas: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """Distinct nodes [U] of roots and neighbours, the first `distinct` of them the roots'; rows [R] of the roots."""

    nodes: torch.Tensor
    distinct: int
    root_rows: torch.Tensor
    hops: list[Hop]

    def on(self, placement: Placement) -> Neighbourhood:
        """The same on the device of a placement."""
        load = placement.load
        hops = [Hop(load(hop.rows), hop.event_ids, load(hop.deltas), load(hop.counts)) for hop in self.hops]
        return Neighbourhood(load(self.nodes), self.distinct, load(self.root_rows), hops)


def sample_neighbourhood(
    adjacency: TemporalCSR,
    roots: torch.Tensor,
    root_times: torch.Tensor,
    fanout: int,
    dtype: torch.dtype,
    draws: torch.Tensor | None = None,
) -> Neighbourhood:
    """Sample one hop of neighbours strictly before each root's time: recent ones, or uniform ones given `draws`.

    Args:
        roots: [R] nodes; root_times: [R]; draws: [4] Philox words.
    """
    graph = (adjacency.indptr, adjacency.neighbours, adjacency.event_ids, adjacency.times)
    if draws is None:
        nodes, event_ids, deltas, counts = sample_recent(*graph, roots, root_times, fanout, dtype)
    else:
        nodes, event_ids, deltas, counts = sample_uniform(*graph, roots, root_times, fanout, draws, dtype)
    touched = torch.cat([roots, nodes.view(-1)])
    ids, inverse, count = unique_nodes(touched, touched.numel())
    root_rows, rows = inverse.split([roots.numel(), nodes.numel()])
    hop = Hop(rows.view_as(nodes), event_ids, deltas, counts)
    return Neighbourhood(ids[: int(count)], int(root_rows.max()) + 1, root_rows, [hop])
