"""The scene of an iteration: what a step needs of a batch of events, whichever way it is brought together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mspipe_triton.data.negatives import Draws, NegativeSampler, Purpose
from mspipe_triton.data.neighbourhood import EdgeRows, Neighbourhood
from mspipe_triton.nodes.mailbox import Receivers


@dataclass(frozen=True)
class Scene:
    """A batch of B events, its 3B roots src ‖ dst ‖ negative, and what surrounds them; for ranking, other roots.

    Args:
        roots: [R] nodes, −1 in padding; on the host where the batch is staged.
        times: [R] of the roots, the batch's first time first; padding has the last event's.
        events: [B] ids; where shapes are static −1 in padding.
        count: [1], how many of the padded events are real, the first ones; None for all.
        around: the roots' neighbourhood.
        receivers: who hears of the events, where the model's mailbox tells more than the ends.
        edges: the edge rows of the slots, for each hop.
        node_features: [U, V] of the distinct nodes, if there are any.
        record: of the distinct nodes.
        draws: keys of dropout while training, else None.
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


@dataclass(frozen=True)
class Batch:
    """B consecutive events [start, stop) with a negative destination each, and candidates [B, N] when ranking.

    `size` is that of a whole batch: the last one is padded to it, so that draws have the same place in all of them.
    """

    index: int
    epoch: int
    start: int
    stop: int
    size: int
    negatives: torch.Tensor
    candidates: torch.Tensor | None = None


def batches(
    start: int,
    stop: int,
    size: int,
    sampler: NegativeSampler,
    purpose: Purpose,
    epoch: int,
    candidates: int = 0,
) -> Iterator[Batch]:
    """Events [start, stop) cut into batches, the partial last one included; `candidates` N ranking negatives each."""
    count = -(-(stop - start) // size)
    ranked = sampler.iterate(Purpose.RANKING_NEGATIVES, epoch, size, count, candidates) if candidates else None
    for index, negatives in enumerate(sampler.iterate(purpose, epoch, size, count)):
        begin = start + index * size
        end = min(begin + size, stop)
        others = None if ranked is None else next(ranked)[: end - begin]
        yield Batch(index, epoch, begin, end, size, negatives[: end - begin, 0], others)


_RANKED_ROOTS = 6000


def ranked_columns(size: int) -> int:
    """Columns of candidates that are ranked at a time, in batches of this size."""
    return max(1, _RANKED_ROOTS // size)
