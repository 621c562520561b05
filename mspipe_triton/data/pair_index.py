"""Pair index: the events of every source, destination and pair in sorted keys, with what is known just before each."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import ClassVar

import torch

from mspipe_triton.data.events import MAX_NODE_ID
from mspipe_triton.errors import DataError
from mspipe_triton.kernels import pair_features
from mspipe_triton.kernels.link.last_events import last_event, last_of_pair
from mspipe_triton.kernels.link.pair_features import SPANS

_EVENT = (1 << 32) - 1  # the bits of an event in a key
_APART = 4096  # events that are sorted apart, at least, before all are sorted together
_CHUNK = 1 << 20  # numbers that are Python objects at a time


@dataclass(frozen=True, eq=False, repr=False)
class PairIndex:
    """Tables of a stream's E events that `pair_features` reads and describes.

    `build` makes an index of events, and `extended` one of more events. No table changes once it is made.
    """

    source_keys: torch.Tensor
    destination_keys: torch.Tensor
    pairs: torch.Tensor
    pair_keys: torch.Tensor
    times: torch.Tensor
    earlier: torch.Tensor
    partners: torch.Tensor
    popularity: torch.Tensor
    newer_events: int = 0
    newer_pairs: int = 0

    BYTES: ClassVar[int] = 84  # per event, if all pairs are distinct

    @staticmethod
    def build(src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> PairIndex:
        """Build the index of events, which takes 76 bytes per event and 8 per distinct pair.

        Args:
            src, dst: [E] integers from 0 to 2³¹ − 1.
            t: [E] int64 or float64, never decreasing.

        Raises:
            DataError: lengths differ, a node is out of range, or an event is earlier than the one before it.
        """
        none = src.new_empty(0, dtype=torch.int64)
        earlier, partners = (none.new_empty((0, width), dtype=torch.int32) for width in (3, 2))
        popularity = none.new_empty((0, len(SPANS)), dtype=torch.float64)
        return PairIndex(none, none, none, none, t[:0], earlier, partners, popularity).extended(src, dst, t)

    def extended(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> PairIndex:
        """Return the index of these events and M later ones, whose features are bitwise those of `build` on all events.

        The keys of added events are sorted apart, which takes time for them alone (and a copy of all tables), until
        they are more than an eighth of all events and more than 4,096; then all keys are sorted together.

        Args:
            src, dst: [M] integers from 0 to 2³¹ − 1; nodes may be new.
            t: [M] in the dtype of `times`, never decreasing, and not below the last event's.

        Raises:
            DataError: lengths differ, a node is out of range, or an event is earlier than the one before it.
        """
        self._check(src, dst, t)
        src, dst, total = src.long(), dst.long(), len(self) + t.numel()
        earlier, partners, popularity = self._continued(src, dst)
        older, older_pairs = len(self) - self.newer_events, self.pairs.numel() - self.newer_pairs
        if not len(self) or total - older > max(_APART, total // 8):
            older = older_pairs = 0
        src = torch.cat([_owners(self.source_keys[older:], older), src])
        dst = torch.cat([_owners(self.destination_keys[older:], older), dst])
        pairs, places = torch.unique((src << 32) + dst, return_inverse=True)
        numbers = torch.arange(older, total, device=t.device)
        newer = [((owners << 32) + numbers).sort().values for owners in (src, dst, places + older_pairs)]
        keys = self.source_keys, self.destination_keys, self.pair_keys
        source_keys, destination_keys, pair_keys = (
            torch.cat([each[:older], part]) for each, part in zip(keys, newer, strict=True)
        )
        return PairIndex(
            source_keys,
            destination_keys,
            torch.cat([self.pairs[:older_pairs], pairs]),
            pair_keys,
            torch.cat([self.times, t]),
            torch.cat([self.earlier, earlier]),
            torch.cat([self.partners, partners]),
            torch.cat([self.popularity, popularity]),
            total - older if older else 0,
            pairs.numel() if older else 0,
        )

    def before(self, times: torch.Tensor) -> torch.Tensor:
        """Number of events strictly before each of `times`, any shape, in the dtype and on the device of `self.times`.

        Features of a query at a time may read that many events, or fewer.
        """
        return torch.searchsorted(self.times, times)

    def features(
        self,
        src: torch.Tensor,
        dst: torch.Tensor,
        times: torch.Tensor,
        before: torch.Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Features [B, C, 36] of pairs from the first `before` [B] events: `pair_features` on this index."""
        return pair_features(
            self.source_keys,
            self.destination_keys,
            self.pairs,
            self.pair_keys,
            self.times,
            self.earlier,
            self.partners,
            self.popularity,
            src,
            dst,
            times,
            before,
            self.newer_events,
            self.newer_pairs,
            dtype,
        )

    def meeting_keys(self) -> torch.Tensor:
        """Keys [P] of the first event of every pair, for `historical_negatives`; all events must be sorted together."""
        return self.source_keys[self.earlier[self.source_keys & _EVENT, 2] == 0]

    def on(self, device: torch.device) -> PairIndex:
        """Copy the index to a device; tables that are there already are not copied."""
        index = copy(self)
        for name, table in self._tables.items():
            object.__setattr__(index, name, table.to(device))
        return index

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.nbytes for table in self._tables.values())

    @property
    def _tables(self) -> dict[str, torch.Tensor]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}

    def __len__(self) -> int:
        """Number of events."""
        return self.times.numel()

    def _check(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> None:
        """Refuse events that cannot follow those of the index."""
        if not src.numel() == dst.numel() == t.numel():
            lengths = f"src has {src.numel()} entries, dst {dst.numel()}, t {t.numel()}"
            raise DataError(f"pair index: {lengths}; give one per event")
        if t.dtype != self.times.dtype:
            raise DataError(f"pair index: t is {t.dtype}, times are {self.times.dtype}; use t.to({self.times.dtype})")
        for name, nodes in (("src", src), ("dst", dst)):
            wrong = (nodes < 0) | (nodes > MAX_NODE_ID)
            if bool(wrong.any()):
                first = int(wrong.nonzero()[0])
                raise DataError(
                    f"pair index: {name} of event {len(self) + first} is {int(nodes[first])}; "
                    f"give numbers from 0 to {MAX_NODE_ID}"
                )
        all_times = torch.cat([self.times[-1:], t])
        late = all_times[1:] < all_times[:-1]
        if bool(late.any()):
            first = int(late.nonzero()[0])
            raise DataError(
                f"pair index: the event at {all_times[first + 1].item()} is earlier than the one before it, at "
                f"{all_times[first].item()}; give events in order of time, as with t.sort(stable=True)"
            )

    def _continued(self, src: torch.Tensor, dst: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Columns `earlier` [M, 3], `partners` [M, 2] and `popularity` [M, 3] of M later events."""
        first, device = len(self), src.device
        stop, pairs = torch.full_like(src, first), (src << 32) + dst
        sent, received = (
            last_event(keys, nodes, stop, self.newer_events).clamp_(min=-1)
            for keys, nodes in ((self.source_keys, src), (self.destination_keys, dst))
        )
        met = torch.full_like(src, -1)
        places, events = last_of_pair(self.pairs, self.pair_keys, pairs, stop, self.newer_pairs, self.newer_events)
        met[places] = events
        orders = [_sorted(owners) for owners in (src, dst, pairs)]
        # A row of zeros ahead of the tables stands for "no event".
        counts = torch.cat([self.earlier.new_zeros(1, 3), self.earlier + 1])
        groups = list(enumerate(zip((sent, received, met), orders, strict=True)))
        one = torch.ones_like(src)
        earlier = [counts[last + 1, group] + _running(one, *order) - 1 for group, (last, order) in groups]
        counts, meeting = torch.cat([self.partners.new_zeros(1, 2), self.partners]), (earlier[2] == 0).long()
        partners = [counts[last + 1, group] + _running(meeting, *order) for group, (last, order) in groups[:2]]
        sums = torch.cat([self.popularity.new_zeros(1, len(SPANS)), self.popularity])[received + 1]
        order, new = orders[1]
        numbers = order + first
        previous = torch.where(new, received[order], numbers.roll(1))
        decay = torch.exp((previous - numbers).double().unsqueeze(1) / sums.new_tensor(SPANS))
        steps = torch.where(new.unsqueeze(1), -decay * sums[order], decay)
        popularity = torch.empty_like(steps).index_copy_(0, order, _sums(steps).to(device))
        return torch.stack(earlier, 1).int(), torch.stack(partners, 1).int(), popularity


def _owners(keys: torch.Tensor, first: int) -> torch.Tensor:
    """Owners of consecutive events from number `first`, in the order of the events, from their sorted keys."""
    return torch.empty_like(keys).index_copy_(0, (keys & _EVENT) - first, keys >> 32)


def _sorted(owners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Order [M] of events by owner, then number, and which of them are their owner's first."""
    order = owners.argsort(stable=True)
    owners = owners[order]
    return order, torch.cat([torch.ones_like(owners[:1], dtype=torch.bool), owners[1:] != owners[:-1]])


def _running(numbers: torch.Tensor, order: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Sum [M] of numbers ≥ 0 over an owner's events up to each; `order` and `new` are what `_sorted` returns."""
    numbers = numbers[order]
    sums = numbers.cumsum(0)
    before = torch.where(new, sums - numbers, 0).cummax(0).values
    return torch.empty_like(sums).index_copy_(0, order, sums - before)


def _sums(steps: torch.Tensor) -> torch.Tensor:
    """Popularity [M, K] just after each event, in the order of owners.

    A step is the decay d > 0 since the owner's previous event, whose S becomes 1 + d S; for an owner's first event it
    is −d S ≤ 0, with the S that the owner brings along. The sums run one by one, because any other order of additions
    would round differently when a stream comes in parts.
    """
    columns = []
    for column in steps.t():
        parts, total = [], 0.0
        for part in column.split(_CHUNK):
            _, *totals = accumulate(part.tolist(), _step, initial=total)
            parts.append(torch.tensor(totals, dtype=steps.dtype))
            total = totals[-1] if totals else total
        columns.append(torch.cat(parts))
    return torch.stack(columns, 1)


def _step(total: float, step: float) -> float:
    return 1 + step * total if step > 0 else 1 - step
