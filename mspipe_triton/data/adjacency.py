"""T-CSR adjacency: the events of every node, sorted by time, in one array."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from mspipe_triton.data.events import EventStream

_CHUNK = 1 << 20


@dataclass(frozen=True)
class TemporalCSR:
    """Adjacency sorted by node, then time, then file order (src's entry before dst's inside an event).

    Every event has two entries, one for each endpoint; both entries of a self-loop are at its node.

    Args:
        indptr: [N + 1] int64 borders of the nodes' segments of entries; or more, see `stride`.
        neighbours: [2E] int32, the other endpoint.
        event_ids: [2E] int32.
        times: [2E], in the stream's dtype.
        stride: the segment of node n is indptr[stride · n] to indptr[stride · n + 1]. With more than 1, segments may be
            in any order, with unused entries between them (see `LiveAdjacency`).
    """

    indptr: torch.Tensor
    neighbours: torch.Tensor
    event_ids: torch.Tensor
    times: torch.Tensor
    stride: int = field(default=1, kw_only=True)

    @staticmethod
    def build(stream: EventStream) -> TemporalCSR:
        """Build the adjacency by a counting sort in chunks: linear time, and temporaries of constant size."""
        src, dst, t = stream.src.numpy(), stream.dst.numpy(), stream.t.numpy()
        entries = 2 * len(stream)
        indptr = np.zeros(stream.num_nodes + 1, dtype=np.int64)
        np.cumsum(
            np.bincount(src, minlength=stream.num_nodes) + np.bincount(dst, minlength=stream.num_nodes), out=indptr[1:]
        )
        neighbours, event_ids = np.empty(entries, dtype=np.int32), np.empty(entries, dtype=np.int32)
        times = np.empty(entries, dtype=t.dtype)
        cursor = indptr[:-1].copy()
        for start in range(0, len(stream), _CHUNK):
            stop = min(start + _CHUNK, len(stream))
            nodes = np.stack([src[start:stop], dst[start:stop]], 1).reshape(-1)
            others = np.stack([dst[start:stop], src[start:stop]], 1).reshape(-1)
            # With (node, position) packed into one number, the fastest sort is stable.
            packed = np.sort((nodes << 22) | np.arange(nodes.size))
            nodes, order = packed >> 22, packed & ((1 << 22) - 1)
            first = np.flatnonzero(np.diff(nodes, prepend=-1))
            sizes = np.diff(first, append=nodes.size)
            owners = nodes[first]
            places = np.repeat(cursor[owners] - first, sizes) + np.arange(nodes.size)
            cursor[owners] += sizes
            events = start + (order >> 1)
            neighbours[places] = others[order]
            event_ids[places] = events
            times[places] = t[events]
        return TemporalCSR(*(torch.from_numpy(a) for a in (indptr, neighbours, event_ids, times)))

    def on(self, device: torch.device) -> TemporalCSR:
        """Copy the adjacency to a device."""
        parts = (self.indptr, self.neighbours, self.event_ids, self.times)
        return TemporalCSR(*(part.to(device) for part in parts), stride=self.stride)
