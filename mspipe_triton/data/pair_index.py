"""Pair index: the events of every source, destination and pair in sorted keys, with what is known just before each."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from mspipe_triton.data.events import MAX_NODE_ID
from mspipe_triton.data.pair_keys import (
    EVENT,
    keys_of,
    last_events,
    last_events_of_pairs,
    merge,
    merge_pairs,
    owners_of,
)
from mspipe_triton.errors import DataError
from mspipe_triton.kernels import pair_features
from mspipe_triton.kernels.link.pair_columns import SPANS

TABLES = ("source_keys", "destination_keys", "pairs", "pair_keys", "times", "earlier", "partners", "popularity")
_APART = 4096  # events that are sorted apart, at least, before all are sorted together
_CHUNK = 1 << 18  # events whose numbers are Python objects at a time


class Growth(NamedTuple):
    """Tables of an index after events were added: for each the place from which its rows change, and those rows."""

    tails: dict[str, tuple[int, torch.Tensor]]
    newer_events: int
    newer_pairs: int


@dataclass(frozen=True, eq=False, repr=False)
class PairIndex:
    """Tables of a stream's E events that `pair_features` reads and describes.

    `build` makes an index of events, and `extended` one of more events. No table changes once it is made, but for the
    views of a `LiveIndex`.
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
        host, device = torch.device("cpu"), self.times.device
        if device != host:
            return self.on(host).extended(src.to(host), dst.to(host), t.to(host)).on(device)
        growth = self.growth(src, dst, t)
        tables = {name: torch.cat([getattr(self, name)[:start], rows]) for name, (start, rows) in growth.tails.items()}
        return PairIndex(**tables, newer_events=growth.newer_events, newer_pairs=growth.newer_pairs)

    def growth(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> Growth:
        """Compute the rows by which `extended` differs from this index on the host, without a copy of the others.

        The time is that of the M events and of the newer keys. See `extended` for arguments and errors.
        """
        self._check(src, dst, t)
        sources, destinations, first = src.long().numpy(), dst.long().numpy(), len(self)
        tables = {name: table.numpy() for name, table in self.tables.items()}
        tails = {name: (first, rows) for name, rows in self._columns(tables, sources, destinations).items()}
        total, pairs = first + t.numel(), self.pairs.numel()
        older, older_pairs = first - self.newer_events, pairs - self.newer_pairs
        if not first or total - older > max(_APART, total // 8):
            sources = np.concatenate([owners_of(tables["source_keys"]), sources])
            destinations = np.concatenate([owners_of(tables["destination_keys"]), destinations])
            first = older = pairs = older_pairs = 0
        events = np.arange(first, total)
        for name, owners in (("source_keys", sources), ("destination_keys", destinations)):
            tails[name] = older, merge(tables[name][older:first], keys_of(owners, events))
        newer = tables["pairs"][older_pairs:pairs], tables["pair_keys"][older:first]
        numbers, keys = merge_pairs(*newer, (sources << 32) + destinations, events, older_pairs)
        tails["pairs"], tails["pair_keys"] = (older_pairs, numbers), (older, keys)
        rows = {name: (start, torch.from_numpy(part)) for name, (start, part) in tails.items()}
        rows["times"] = len(self), t
        return Growth(rows, total - older if older else 0, numbers.size if older else 0)

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
        return self.source_keys[self.earlier[self.source_keys & EVENT, 2] == 0]

    def on(self, device: torch.device) -> PairIndex:
        """Copy the index to a device; tables that are there already are not copied."""
        index = copy(self)
        for name, table in self.tables.items():
            object.__setattr__(index, name, table.to(device))
        return index

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.nbytes for table in self.tables.values())

    @property
    def tables(self) -> dict[str, torch.Tensor]:
        """Tables by name, in the order of the constructor's arguments."""
        return {name: getattr(self, name) for name in TABLES}

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
        for name, column in (("src", src), ("dst", dst)):
            nodes = column.numpy()  # whose small calls take less time than torch's
            wrong = (nodes < 0) | (nodes > MAX_NODE_ID)
            if wrong.any():
                first = int(wrong.nonzero()[0][0])
                raise DataError(
                    f"pair index: {name} of event {len(self) + first} is {int(nodes[first])}; "
                    f"give numbers from 0 to {MAX_NODE_ID}"
                )
        all_times = np.concatenate([self.times[-1:].numpy(), t.numpy()])
        late = all_times[1:] < all_times[:-1]
        if late.any():
            first = int(late.nonzero()[0][0])
            raise DataError(
                f"pair index: the event at {all_times[first + 1].item()} is earlier than the one before it, at "
                f"{all_times[first].item()}; give events in order of time, as with t.sort(stable=True)"
            )

    def _columns(self, tables: dict[str, np.ndarray], src: np.ndarray, dst: np.ndarray) -> dict[str, np.ndarray]:
        """Rows [M, ·] of `earlier`, `partners` and `popularity` of M later events."""
        first, newer, pairs = len(self), self.newer_events, (src << 32) + dst
        sent = last_events(tables["source_keys"], src, newer)
        received = last_events(tables["destination_keys"], dst, newer)
        met = last_events_of_pairs(tables["pairs"], tables["pair_keys"], pairs, self.newer_pairs, newer)
        lasts, orders = (sent, received, met), [_sorted(owners) for owners in (src, dst, pairs)]
        names = ("earlier", "partners", "popularity")
        # Without events, a row that stands for them is not read.
        rows = [tables[name] if first else np.zeros_like(tables[name], shape=(1, 3)) for name in names]
        one = np.ones_like(src)
        earlier = [
            np.where(last < 0, -1, rows[0][last, k]) + _running(one, *order)
            for k, (last, order) in enumerate(zip(lasts, orders, strict=True))
        ]
        meeting = (earlier[2] == 0).astype(np.int64)
        partners = [
            np.where(last < 0, 0, rows[1][last, k]) + _running(meeting, *order)
            for k, (last, order) in enumerate(zip(lasts[:2], orders[:2], strict=True))
        ]
        order, new = orders[1]
        numbers, previous = order + first, received[order]
        sums = np.where(previous[:, None] < 0, 0, rows[2][previous])
        previous[1:] = np.where(new[1:], previous[1:], numbers[:-1])
        decay = torch.exp(torch.from_numpy((previous - numbers)[:, None] / np.array(SPANS))).numpy()
        popularity = np.empty_like(decay)
        popularity[order] = _sums(np.where(new[:, None], -decay * sums, decay))
        counts = {"earlier": earlier, "partners": partners}
        columns = {name: np.stack(each, 1).astype(np.int32) for name, each in counts.items()}
        return {**columns, "popularity": popularity}


def _sorted(owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order [M] of events by owner, then number, and which of them are their owner's first."""
    new = np.ones(owners.size, dtype=bool)
    if owners.size == 1:
        return np.zeros(1, dtype=np.int64), new
    order = owners.argsort(kind="stable")
    owners = owners[order]
    np.not_equal(owners[1:], owners[:-1], out=new[1:])
    return order, new


def _running(numbers: np.ndarray, order: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Sum [M] of numbers ≥ 0 over an owner's events up to each; `order` and `new` are what `_sorted` returns."""
    if numbers.size == 1:
        return numbers
    numbers = numbers[order]
    sums, running = numbers.cumsum(), np.empty_like(numbers)
    running[order] = sums - np.maximum.accumulate(np.where(new, sums - numbers, 0))
    return running


def _sums(steps: np.ndarray) -> np.ndarray:
    """Popularity [M, K] just after each event, in the order of owners.

    A step is the decay d > 0 since the owner's previous event, whose S becomes 1 + d S; for an owner's first event it
    is −d S ≤ 0, with the S that the owner brings along. The sums run one by one, because any other order of additions
    would round differently when a stream comes in parts.
    """
    sums, totals = np.empty_like(steps), [0.0] * steps.shape[1]
    for start in range(0, len(steps), _CHUNK):
        part = steps[start : start + _CHUNK]
        columns = [
            [*accumulate(each, _step, initial=total)] for each, total in zip(part.T.tolist(), totals, strict=True)
        ]
        sums[start : start + _CHUNK] = np.array(columns).T[1:]
        totals = [each[-1] for each in columns]
    return sums


def _step(total: float, step: float) -> float:
    return 1 + step * total if step > 0 else 1 - step
