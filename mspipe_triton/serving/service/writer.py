"""Writer of a service: groups of requests that are logged together, and then taken in one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors

from mspipe_triton.errors import RunFolderError
from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.serving.service.log import Entry, EventLog
from mspipe_triton.serving.service.work import Batch, KeyReusedError, Lines, LogError, Observed

LATEST = 50  # events that are remembered for the page


@dataclass(frozen=True, eq=False)
class Swap:
    """Parameters to use from now on: safetensors, and the verdict that chose them, JSON."""

    parameters: bytes
    verdict: str


@dataclass(eq=False)
class Work:
    """A request to the engine, and the future that gets its outcome."""

    request: Any
    future: Future[Any] = field(default_factory=Future)

    @property
    def writes(self) -> bool:
        """True if it changes the state."""
        return isinstance(self.request, Batch | Lines | Swap)


class Writer:
    """Changes of a predictor's state, each of which is in the log first.

    Args:
        predictor: which contains the first entries of the log. log: of events.
    """

    def __init__(self, predictor: Predictor, log: EventLog) -> None:
        self.predictor, self.log = predictor, log
        predictor.make_reproducible()
        self.writable, self.swaps, self.rejected = True, log.swaps(), log.rejections
        self.latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
        for row in reversed(log.latest(LATEST)):
            self.latest.append({**row, "t": predictor.shown(row["t"])})

    def replay(self, entry: Entry) -> None:
        """Take in an entry of the log.

        Raises:
            RunFolderError: it does not follow the predictor's events.
        """
        if entry.total - entry.count != len(self.predictor):
            raise RunFolderError(
                f"{self.log.path}: an entry starts at event {entry.total - entry.count}, and the state has "
                f"{len(self.predictor)}; restore the log"
            )
        self._take(entry)

    def write(self, work: Sequence[Work]) -> list[tuple[Work, Observed | Exception]]:
        """Check requests, write the good ones to the log, take them in, and return the outcome of each."""
        outcomes: list[tuple[Work, Observed | Exception]] = []
        entries: list[tuple[Entry, list[Work]]] = []
        places: dict[str, int] = {}  # of entries, by their keys
        last: torch.Tensor | None = None
        total = len(self.predictor)
        for each in work:
            try:
                key, digest = getattr(each.request, "key", None), getattr(each.request, "digest", b"")
                if key in places:
                    entry, same = entries[places[key]]
                    _check_same(key, entry.digest, digest)
                    same.append(each)
                    continue
                if key is not None and (earlier := self.log.find(key)) is not None:
                    _check_same(key, earlier[0], digest)
                    outcomes.append((each, Observed(*earlier[1:], repeated=True)))
                    continue
                entry = self._entry(each.request, last, total)
            except Exception as error:  # the fault of this request alone
                outcomes.append((each, error))
                continue
            if entry.is_empty:
                outcomes.append((each, Observed(0, entry.dropped, total)))
                continue
            if key is not None:
                places[key] = len(entries)
            if entry.count:
                assert entry.events is not None
                last, total = entry.events.t[-1:], entry.total
            entries.append((entry, [each]))
        return outcomes + self._commit(entries) if entries else outcomes

    def _entry(self, request: Batch | Lines | Swap, last: torch.Tensor | None, total: int) -> Entry:
        """Check a request after `total` events, and return what the log keeps of it."""
        if isinstance(request, Swap):
            self.predictor.check_parameters(load_tensors(request.parameters))
            return Entry(None, 0, total, parameters=request.parameters, verdict=request.verdict)
        events = request.prepare(self.predictor, last)
        count = 0 if events is None else events.t.numel()
        dropped = 0 if events is None else events.mask.numel() - count
        if isinstance(request, Lines):
            return Entry(events, dropped, total + count, place=request.place, rejected=request.rejected)
        return Entry(events, dropped, total + count, key=request.key, digest=request.digest)

    def _commit(self, entries: Sequence[tuple[Entry, list[Work]]]) -> list[tuple[Work, Observed | Exception]]:
        """Write entries to the log, then take them in."""
        try:
            self.log.append([entry for entry, _ in entries])
        except LogError as error:
            self.writable = False
            return [(work, error) for _, group in entries for work in group]
        self.writable = True
        for entry, _ in entries:
            self._take(entry)
            self._note(entry)
        return [
            (work, Observed(entry.count, entry.dropped, entry.total, repeated=number > 0))
            for entry, group in entries
            for number, work in enumerate(group)
        ]

    def _take(self, entry: Entry) -> None:
        if entry.events is not None:
            self.predictor.take(entry.events)
        if entry.parameters is not None:
            self.predictor.swap(load_tensors(entry.parameters))

    def _note(self, entry: Entry) -> None:
        """Note facts of an entry for the status."""
        self.swaps += entry.parameters is not None
        self.rejected += len(entry.rejected)
        for src, dst, t in entry.rows(LATEST):
            self.latest.append({"src": src, "dst": dst, "t": self.predictor.shown(t), "received": entry.received})


def _check_same(key: str, digest: bytes, other: bytes) -> None:
    if digest != other:
        raise KeyReusedError(f"Idempotency-Key {key} names an earlier request with other content; use a new key")
