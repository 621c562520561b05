"""Live T-CSR adjacency: segments of entries with room for more, to which events are added in place."""

from __future__ import annotations

import numpy as np
import torch

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.growing import Growing

_START, _END, _LIMIT = range(3)
_SPARE, _LEAST = 1024, 4  # entries of the buffers, and of a segment, that there is room for at least


class LiveAdjacency:
    """Adjacency of a stream that goes on, whose neighbours are those of `TemporalCSR.build` on all events.

    Every node's entries are a segment of buffers that hold all entries. A segment without room moves to the free end
    of the buffers and gets room for half as many entries again. When the end is full, all segments move to new
    buffers, which are at most 1.75 times as large as the entries need, but for a constant.

    Args:
        adjacency: of the first events; its entries are copied once.
    """

    def __init__(self, adjacency: TemporalCSR) -> None:
        starts, ends = adjacency.indptr[: -1 : adjacency.stride], adjacency.indptr[1 :: adjacency.stride]
        self._bounds = Growing(torch.stack([starts, ends, ends], 1))
        self._stop = 0  # of the entries that a segment has room for
        self._events = int((ends - starts).sum()) // 2
        self._entries = [part.numpy() for part in (adjacency.neighbours, adjacency.event_ids, adjacency.times)]
        self._move_all(np.zeros(len(self._bounds), dtype=np.int64))

    @property
    def csr(self) -> TemporalCSR:
        """Adjacency of all events for a `NeighbourSampler`, valid until the next `append` or `reserve`."""
        return TemporalCSR(self._bounds.rows.view(-1), *(torch.from_numpy(part) for part in self._entries), stride=3)

    def reserve(self, num_nodes: int) -> None:
        """Give nodes below `num_nodes` a segment, which is empty until they have events."""
        if num_nodes > len(self._bounds):
            self._bounds.append(torch.zeros(num_nodes - len(self._bounds), 3, dtype=torch.int64))

    def append(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> None:
        """Add M later events, which the caller has checked.

        Args:
            src, dst: [M] int64 nodes from 0; new ones get segments, and so do all numbers below them.
            t: [M] in the dtype of the adjacency's times, never decreasing, and not below the last event's.
        """
        if not src.numel():
            return
        ends = np.stack([src.numpy(), dst.numpy()], 1)
        nodes, others = ends.reshape(-1), ends[:, ::-1].reshape(-1)
        self.reserve(int(nodes.max()) + 1)
        order = nodes.argsort(kind="stable")
        nodes, events = nodes[order], order >> 1
        new = np.ones(nodes.size, dtype=bool)
        np.not_equal(nodes[1:], nodes[:-1], out=new[1:])
        first = new.nonzero()[0]
        owners, sizes = nodes[first], np.append(first[1:], nodes.size) - first
        bounds = self._table()
        self._make_room(owners, sizes)
        places = _ranges(bounds[owners, _END], sizes)
        for part, values in zip(self._entries, (others[order], self._events + events, t.numpy()[events]), strict=True):
            part[places] = values
        bounds[owners, _END] += sizes
        self._events += src.numel()

    def _table(self) -> np.ndarray:
        """Start, end and limit [N, 3] of all segments, which may hold entries up to the limit."""
        return self._bounds.rows.numpy()

    def _make_room(self, owners: np.ndarray, sizes: np.ndarray) -> None:
        """Move segments so that each owner's has room for its number of more entries."""
        bounds = self._table()
        full = bounds[owners, _END] + sizes > bounds[owners, _LIMIT]
        if not full.any():
            return
        lengths = bounds[owners[full], _END] - bounds[owners[full], _START]
        needs = lengths + sizes[full]
        stops = self._stop + np.maximum(needs + needs // 2, _LEAST).cumsum()
        if stops[-1] > self._entries[0].size:
            more = np.zeros(len(bounds), dtype=np.int64)
            more[owners] = sizes
            self._move_all(more)
            return
        starts = np.append(self._stop, stops[:-1])
        source, target = _ranges(bounds[owners[full], _START], lengths), _ranges(starts, lengths)
        for part in self._entries:
            part[target] = part[source]
        bounds[owners[full]] = np.stack([starts, starts + lengths, stops], 1)
        self._stop = int(stops[-1])

    def _move_all(self, more: np.ndarray) -> None:
        """Move all segments to new buffers, with room for `more` [N] entries in each, and a quarter of all of them."""
        bounds = self._table()
        lengths = bounds[:, _END] - bounds[:, _START]
        needs = lengths + more
        stops = (needs + needs // 4).cumsum()
        starts = stops - needs - needs // 4
        source, target = _ranges(bounds[:, _START], lengths), _ranges(starts, lengths)
        self._stop = int(stops[-1]) if stops.size else 0
        capacity, entries = self._stop + int(needs.sum()) // 2 + _SPARE, self._entries
        self._entries = [np.zeros(capacity, dtype=part.dtype) for part in entries]
        for part, old in zip(self._entries, entries, strict=True):
            part[target] = old[source]
        bounds[:] = np.stack([starts, starts + lengths, stops], 1)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges of `lengths` numbers from each of `starts` on."""
    return np.repeat(starts - lengths.cumsum() + lengths, lengths) + np.arange(lengths.sum())
