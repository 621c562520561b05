"""Shares of batches at static shapes: each rank draws whole batches, and works on the same places of every one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mspipe_triton.data.clock import Clock
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration.scene import Whole, root_places
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels import draw_batch, unique_nodes


@dataclass(frozen=True)
class StaticBatch:
    """Events at P places with K other nodes each, which are −1 in padding.

    Args:
        roots, times: [(2 + K)P], src ‖ dst ‖ others. events: [P]. count: [1], the number of real events.
        log_weights: [P, K], those of a scene.
    """

    roots: torch.Tensor
    times: torch.Tensor
    events: torch.Tensor
    count: torch.Tensor
    log_weights: torch.Tensor | None = None

    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return src [P], dst [P] and the others [P, K]."""
        return _parts(self.roots, self.events.numel())


class StaticShares:
    """Draws batches of B events, and cuts out the share of a rank: the C places from rank · C on.

    A batch has N · C places, of which those from B on are padding. All ranks send the rows of both ends of each of
    their places, 2C rows each. A process that is alone has the whole batch as its share.

    Args:
        session: on the device.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.ranks, self.size = session, session.ranks, session.size
        self.share = session.ranks.share(session.size)
        self.places = self.share * self.ranks.count

    def draw(self, clock: Clock, purpose: Purpose, each: int) -> StaticBatch:
        """Draw the clock's whole batch, with `each` random destinations per event."""
        stream, span = self.session.stream, clock.span
        if self.places > self.size:
            first, stop = span.unbind()
            span = torch.stack([first, torch.minimum(stop, first + self.size)])
        columns, words = (stream.src, stream.dst, stream.t), clock.words(purpose)
        return StaticBatch(*draw_batch(*columns, self.session.negatives.destinations, span, words, self.places, each))

    def cut(self, batch: StaticBatch) -> StaticBatch:
        """Return the share of a batch."""
        if self.ranks.alone:
            return batch
        first, size = self.ranks.rank * self.share, self.places
        places = slice(first, first + self.share)
        roots, times = (
            torch.cat([part[places].reshape(-1) for part in _parts(column, size)])
            for column in (batch.roots, batch.times)
        )
        count = (batch.count - first).clamp(0, self.share)
        weights = None if batch.log_weights is None else batch.log_weights[places]
        return StaticBatch(roots, times, batch.events[places], count, weights)

    def root_places(self, each: int) -> torch.Tensor | None:
        """Return the places of a share's roots in a whole batch; None if the share is whole. See `Roots`."""
        if self.ranks.alone:
            return None
        places = root_places(self.ranks.rank * self.share, self.share, self.size, each)
        return places.to(self.session.stream.t.device)

    def ends(self, batch: StaticBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ends [2B] of a batch, src ‖ dst, and their times [2B]."""
        size = self.size
        nodes, times = (part[: 2 * self.places].view(2, -1)[:, :size] for part in (batch.roots, batch.times))
        return nodes.reshape(-1), times.reshape(-1)

    def whole(self, batch: StaticBatch, count: torch.Tensor) -> Whole | None:
        """Return a batch as all ranks write it; `count` [1] is the share's. None if no other rank has a share.

        Each of a node's ends has its row; all writes of a node read that of its first end.
        """
        if self.ranks.alone:
            return None
        (nodes, times), size = self.ends(batch), self.size
        _, inverse, _ = unique_nodes(nodes, 2 * size)
        numbers = torch.arange(2 * size, device=nodes.device)
        first = torch.full_like(numbers, 2 * size).scatter_reduce_(0, inverse, numbers, "amin").index_select(0, inverse)
        place, side = first % size, first // size
        rows = place + (place // self.share + side) * self.share
        weight = (count[0].double() / batch.count[0].clamp(min=1)).to(self.session.model.time.frequency.dtype)
        (src, dst), (src_rows, dst_rows) = nodes.chunk(2), rows.chunk(2)
        return Whole(batch.events[:size], times[:size], src, dst, src_rows, dst_rows, weight)


def _parts(column: torch.Tensor, places: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the parts [P], [P] and [P, K] of a column src ‖ dst ‖ others."""
    return column[:places], column[places : 2 * places], column[2 * places :].view(places, -1)
