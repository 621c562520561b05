"""Work for a service: batches of events to observe, questions, its status, and the reasons to refuse work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mspipe_triton.data.names import find_column
from mspipe_triton.data.new_events import NewEvents, Reading
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import DataError, MspipeError
from mspipe_triton.serving.incoming import Unnumbered
from mspipe_triton.serving.predictor import Predictor


class ServiceError(MspipeError):
    """The service cannot do this now; nothing has changed."""


class BusyError(ServiceError):
    """As much work waits as is allowed."""


class StartingError(ServiceError):
    """The service still restores its state, or it stops."""


class LogError(ServiceError):
    """The log cannot be written, so no events are taken in."""


class KeyReusedError(ServiceError):
    """An idempotency key names another request."""


@dataclass(frozen=True)
class Place:
    """The place in a source of events up to which it has been read.

    Args:
        source: its name. lines: number of lines read. offset: the byte after them.
    """

    source: str
    lines: int
    offset: int


@dataclass(frozen=True)
class Rejected:
    """A line of a source that is no event that fits.

    Args:
        line: its number, from 1. reason: one line. content: the line itself.
    """

    line: int
    reason: str
    content: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Events of a request, to observe in one call.

    Args:
        src, dst, t, features, late: see `Predictor.observe`.
        key: names the request, so that a repeated one changes nothing; None if it has no name.
        digest: of the request's content, which a repeated request has, too.
    """

    src: Any
    dst: Any
    t: Any
    features: Any = None
    late: str = "refuse"
    key: str | None = None
    digest: bytes = b""

    def prepare(self, predictor: Predictor, last: torch.Tensor | None) -> Unnumbered:
        """Check the events; see `Predictor.prepare`. Features that the run does not have are refused by name.

        Raises:
            DataError: see `Predictor.observe`.
        """
        _check_names(self.features, predictor.reading)
        return predictor.prepare(self.src, self.dst, self.t, self.features, late=self.late, last=last)


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines of a source that is followed, to observe in one call.

    Args:
        events: of these lines, as a table or as in a request; None without any. late: see `Predictor.observe`.
        place: of the source after these lines. rejected: the lines among them that are no event that fits.
    """

    events: NewEvents | Batch | None
    late: str
    place: Place
    rejected: Sequence[Rejected] = ()

    def prepare(self, predictor: Predictor, last: torch.Tensor | None) -> Unnumbered | None:
        """Check the events; see `Predictor.prepare`."""
        if isinstance(self.events, Batch):
            return replace(self.events, late=self.late).prepare(predictor, last)
        return None if self.events is None else predictor.prepare_table(self.events, late=self.late, last=last)


@dataclass(frozen=True)
class Observed:
    """The outcome of a batch.

    Args:
        observed: number of events taken in. dropped: number of late ones, which were left out.
        events: number of events so far. repeated: the request was observed before, and has changed nothing now.
    """

    observed: int
    dropped: int
    events: int
    repeated: bool = False


@dataclass(frozen=True)
class Question:
    """A ranking of a source's destinations; see `Predictor.rank`."""

    src: Any
    t: Any = None
    top: int | None = 10
    candidates: Any = None
    mode: str = "exact"
    new: bool = False

    @property
    def group(self) -> tuple[Any, int | None, str, bool] | None:
        """The part that questions share which `Predictor.rank_many` answers together; None if it cannot."""
        plain = self.candidates is None and (self.t is None or isinstance(self.t, int | float | str))
        return (self.t, self.top, self.mode, self.new) if plain else None

    def answer(self, predictor: Predictor) -> list[tuple[Any, float]]:
        """Answer the question alone."""
        return predictor.rank(self.src, self.t, self.top, self.candidates, mode=self.mode, new=self.new)


@dataclass(frozen=True)
class Status:
    """The state of a service at a moment.

    Args:
        ready: it answers. observing: events come from requests, and not from a source that the service follows.
        writable: the last attempt to write the log succeeded.
        model: name of the model and of its stream. kinds: of nodes, see `Predictor.kinds`.
        events, nodes: numbers so far. time: of the last event. observed: events taken in since the run.
        waiting: requests in the queue. log_entries, log_bytes: size of the log.
        snapshot: number of log entries that the last snapshot contains. replayed: entries restored at the start.
        swaps: number of times that new parameters came into use. retrained: the outcome of the last retraining.
        rejected: lines of the followed source that were no event that fits.
    """

    ready: bool = False
    observing: bool = True
    writable: bool = True
    model: str = ""
    kinds: tuple[str, ...] = ()
    events: int = 0
    nodes: int = 0
    time: int | float | str | None = None
    observed: int = 0
    waiting: int = 0
    log_entries: int = 0
    log_bytes: int = 0
    snapshot: int = 0
    replayed: int = 0
    swaps: int = 0
    retrained: str = ""
    rejected: int = 0


def _check_names(features: Any, reading: Reading) -> None:
    """Refuse columns of features that the run does not have, since a request has no other columns.

    Raises:
        DataError: with the first of them.
    """
    columns = list(features) if isinstance(features, dict) else getattr(features, "column_names", None)
    if columns is None or reading.transform is None:
        return
    names = [part.name for part in reading.transform.parts]
    used = {find_column(columns, name) for name in names}
    unknown = next((name for name in columns if name not in used), None)
    if unknown is not None:
        raise DataError(f"features have {shown(unknown)}, and the run's are {', '.join(names[:6])}; omit it")
