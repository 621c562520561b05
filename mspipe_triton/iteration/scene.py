"""Scenes: the input of one step on a batch of events, in staged and in resident runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mspipe_triton.data.negatives import Draws, NegativeSampler, Purpose
from mspipe_triton.data.neighbourhood import EdgeRows, Neighbourhood
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.nodes.mailbox import Receivers


@dataclass(frozen=True)
class Whole:
    """A batch of B events at a static shape, as all ranks write it; padding has event −1.

    Args:
        events, times, src, dst: [B]; src and dst are −1 in padding.
        src_rows, dst_rows: [B], the rows of the events' ends among those that hold their updated memory.
        weight: [], the part of the events that this rank works on.
    """

    events: torch.Tensor
    times: torch.Tensor
    src: torch.Tensor
    dst: torch.Tensor
    src_rows: torch.Tensor
    dst_rows: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class Scene:
    """A batch of B events, its roots src ‖ dst ‖ K negatives each, and their neighbourhood; for ranking, other roots.

    Args:
        roots: [R] nodes, −1 in padding; on the host in staged runs.
        times: [R] times of the roots, starting with the batch's first; padding repeats the last event's time.
        events: [B] ids; −1 in padding where shapes are static.
        count: [1], the number of real events, which come before the padding; None if all are real.
        around: the roots' neighbourhood.
        receivers: nodes that get the events' mail, if the model's mailbox sends it to more nodes than the ends.
        edges: edge rows of the slots, for each hop.
        node_features: [U, V] of the distinct nodes, or None if the stream has no node features.
        record: the records of the distinct nodes.
        draws: random draws for dropout in training, else None.
        each: K.
        now: [], the time of the batch's first event, if that of the first root is another; else None.
        pairs: features [B, 1 + K, ·] of each event's pairs with its destination and negatives, if the model reads them.
        log_weights: [B, K] of the negatives in a softmax over all destinations, or None for weights of 1.
        whole: the whole batch, where shapes are static and the B events are one rank's share of it; else None.
    """

    roots: torch.Tensor
    times: torch.Tensor
    events: torch.Tensor
    count: torch.Tensor | None
    around: Neighbourhood
    receivers: Receivers | None = None
    edges: Sequence[EdgeRows] = ()
    node_features: torch.Tensor | None = None
    record: Any = None
    draws: Draws | None = None
    each: int = 1
    now: torch.Tensor | None = None
    pairs: torch.Tensor | None = None
    log_weights: torch.Tensor | None = None
    whole: Whole | None = None


@dataclass(frozen=True)
class Batch:
    """B consecutive events [start, stop) with negatives [B, K] and, for ranking, candidates [B, N], −1 in gaps.

    `size` is that of a full batch. The last batch is padded to it, so that all batches index their draws alike. A
    `lagged` batch reads only neighbours and pairs from before the time of its first event.
    """

    index: int
    epoch: int
    start: int
    stop: int
    size: int
    negatives: torch.Tensor
    candidates: torch.Tensor | None = None
    lagged: bool = False

    def share(self, ranks: Ranks) -> Share:
        """Return the share of a rank, which has the places of a full batch from rank · C on."""
        share = ranks.share(self.size)
        first = min(self.start + ranks.rank * share, self.stop)
        stop = min(first + share, self.stop)
        events = stop - first
        if not events:  # a rank without events works on the last one, with weight 0, so that it is like the others
            first = stop - 1
        places = slice(first - self.start, stop - self.start)
        candidates = None if self.candidates is None else self.candidates[places]
        weight = events / (self.stop - self.start)
        return Share(
            self.index, self.epoch, first, stop, share, self.negatives[places], candidates, self.lagged, weight=weight,
            places=places,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Share(Batch):
    """The part of a batch that one rank works on; `size` is that of a full one.

    `weight` is its part of the batch's events, 0 if the rank has none. `places` are those of its events in the batch.
    """

    weight: float
    places: slice


# Candidates of a range of events: N random ones each, 0 for no ranking, ALL for all other destinations, or those in a
# table [events, N], where −1 stands for none.
Candidates = int | torch.Tensor
ALL = -1


def batches(
    start: int,
    stop: int,
    size: int,
    sampler: NegativeSampler,
    purpose: Purpose,
    epoch: int,
    candidates: Candidates = 0,
    each: int = 1,
    lagged: bool = False,
) -> Iterator[Batch]:
    """Cut events [start, stop) into batches, the last one maybe partial, with `each` K negatives per event."""
    dst = sampler.dst[start:stop]
    ranked = _candidates(sampler, dst, epoch, size, candidates)
    for index, negatives in enumerate(sampler.iterate(purpose, epoch, dst, size, each)):
        begin = start + index * size
        others = None if ranked is None else next(ranked)
        yield Batch(index, epoch, begin, min(begin + size, stop), size, negatives, others, lagged)


def _candidates(
    sampler: NegativeSampler, dst: torch.Tensor, epoch: int, size: int, candidates: Candidates
) -> Iterator[torch.Tensor] | None:
    """Candidates [B, N] of each batch of events with destinations [M]; None for no ranking."""
    if isinstance(candidates, torch.Tensor):
        return iter(torch.split(candidates, size))
    if candidates == ALL:
        return (sampler.others(part) for part in dst.split(size))
    return sampler.iterate(Purpose.RANKING_NEGATIVES, epoch, dst, size, candidates) if candidates else None


def root_places(first: int, share: int, size: int, each: int) -> torch.Tensor:
    """Return the places [(2 + K)C] of a share's roots among those of a whole batch.

    Args:
        first: the share's first event. share, size: the numbers C and B of events of the share and of the batch.
        each: K, negatives per event.
    """
    numbers = first + torch.arange(share)
    negatives = 2 * size + first * each + torch.arange(share * each)
    return torch.cat([numbers, size + numbers, negatives])


def new_keys(roots: torch.Tensor, events: int) -> torch.Tensor:
    """Return keys [R] of roots that are not ends of the stream's events, −1 in padding (see `Roots`)."""
    return torch.where(roots >= 0, torch.arange(2 * events, 2 * events + roots.numel(), device=roots.device), -1)
