"""Search for the last event of a node or pair before a number, in sorted keys, in torch."""

from __future__ import annotations

import torch


def last_event(keys: torch.Tensor, owners: torch.Tensor, before: torch.Tensor, newer: int = 0) -> torch.Tensor:
    """Number of each owner's last event below `before`; negative without one, and for a negative owner.

    Args:
        keys: [E] int64, owner · 2³² + number of every event; the last `newer` are sorted apart from the others.
        owners, before: int64 of shapes that broadcast.
    """
    start = owners << 32
    bound = start + before
    if not keys.numel():
        return torch.full_like(bound, -1)
    events = [_last(part, start, bound, before) for part in _parts(keys, newer)]
    return events[0] if len(events) == 1 else torch.maximum(*events)


def last_of_pair(
    pairs: torch.Tensor,
    keys: torch.Tensor,
    numbers: torch.Tensor,
    before: torch.Tensor,
    newer_pairs: int = 0,
    newer: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last event below `before` [n] of those of n pairs that have one: their places among the n, and the events.

    Args:
        pairs: [P] int64, src · 2³² + dst of distinct pairs, ascending; the last `newer_pairs` are the newer keys'.
        keys: [E] int64, place of the pair · 2³² + number of every event; see `last_event`.
        numbers: [n] src · 2³² + dst, which are in no table if a node is negative.
    """
    events, first = torch.full_like(numbers, -1), 0
    if not keys.numel():
        return events[:0], events[:0]
    for part, distinct in zip(_parts(keys, newer), _parts(pairs, newer_pairs), strict=True):
        owners = torch.searchsorted(distinct, numbers).clamp_(max=distinct.numel() - 1)
        places = (distinct.take(owners) == numbers).nonzero().view(-1)
        start, stop = owners.index_select(0, places).add_(first) << 32, before.index_select(0, places)
        # Newer events come last, so that they replace older ones.
        latest = _last(part, start, start + stop, stop)
        events.index_copy_(0, places, torch.maximum(latest, events.index_select(0, places)))
        first += distinct.numel()
    places = (events >= 0).nonzero().view(-1)
    return places, events.index_select(0, places)


def _parts(tensor: torch.Tensor, newer: int) -> tuple[torch.Tensor, ...]:
    """The part that was sorted first, and the newer one if there is one."""
    return tensor.split([tensor.numel() - newer, newer]) if newer else (tensor,)


def _last(keys: torch.Tensor, start: torch.Tensor, bound: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Number of the last event below `before` of the owner whose keys begin at `start`, negative without one."""
    # The key ahead of the bound; the very last key if all are at the bound or above, whose number is not below either.
    events = keys.take(torch.searchsorted(keys, bound).sub_(1)).sub_(start)
    return torch.where(events < before, events, -1)
