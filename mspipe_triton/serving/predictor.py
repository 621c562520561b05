"""Predictor: a trained model in use, which answers queries and takes in events as they happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.ids import is_single
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.new_events import NewEvents, Reading
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import DataError, RunFolderError
from mspipe_triton.models.stored import StoredModel
from mspipe_triton.serving.defaults import SHARE
from mspipe_triton.serving.files import Saved
from mspipe_triton.serving.incoming import Events, Incoming, Unnumbered
from mspipe_triton.serving.inputs import plain_list
from mspipe_triton.serving.live import Live
from mspipe_triton.serving.names import DESTINATION
from mspipe_triton.serving.queries import Queries

_STATE = "\n## State"  # heading of the card's last section
_TO_ROWS = ("to_pylist", "to_numpy")  # of Arrow, pandas and polars


class Predictor(Queries):
    """A trained model with the state of the events so far; `load` makes one.

    It is not safe to use from several threads at once.

    Args:
        stored, live, ids, times, share: see `Queries`. split: of the run's events. card: text of the model card.
    """

    def __init__(
        self, stored: StoredModel, live: Live, ids: LiveIds, times: torch.Tensor, split: Split, card: str,
        share: float = SHARE,
    ) -> None:  # fmt: skip
        super().__init__(stored, live, ids, times, share)
        self._split, self._card, self._incoming = split, card, Incoming(stored, ids)

    def observe(self, src: Any, dst: Any, t: Any, features: Any = None, *, late: str = "refuse") -> int:
        """Take in events that happened: neighbours and features of pairs grow, and memory moves on.

        New nodes are taken as they come. Memory moves on once per call, or in batches of at most `batch_size` events.

        Args:
            src, dst: M ids each, or one. t: M times, or one for all; never decreasing, and not before the last event.
            features: [M, F] numbers as in the run's table, or a table with its columns; None if the run has none.
            late: "refuse" raises an error for an event that is earlier than the last one, before anything is taken in;
                "drop" leaves such events out. An event at the last time is not late.

        Returns:
            The number of events taken in.

        Raises:
            DataError: an id does not fit the run's, lengths differ, features are missing or of another width, or a time
                is no time or late.
        """
        return self.take(self._incoming.converted(src, dst, t, features, self._times.last, late))

    def prepare(
        self, src: Any, dst: Any, t: Any, features: Any = None, *, late: str = "refuse",
        last: torch.Tensor | None = None,
    ) -> Unnumbered:  # fmt: skip
        """Check events and convert them to the run's form, without taking them in; `take` then cannot fail.

        Args:
            src, dst, t, features, late: see `observe`.
            last: [1], the time of the event before them; None for the last one so far.

        Raises:
            DataError: see `observe`.
        """
        last = self._times.last if last is None else last
        return self._incoming.fitting(self._incoming.converted(src, dst, t, features, last, late))

    def prepare_table(self, events: NewEvents, *, late: str = "refuse", last: torch.Tensor | None = None) -> Unnumbered:
        """Check events that `read_new_events` has read; see `prepare`."""
        return self._incoming.fitting(self._incoming.read(events, self._times.last if last is None else last, late))

    def take(self, events: Unnumbered) -> int:
        """Take in events that `prepare` has checked, as one call of `observe` does, and return their number."""
        numbered = self._incoming.numbered(events)
        self._live.observe(self._append(numbered))
        return numbered.t.numel()

    def predict(
        self, src: Any, dst: Any, t: Any, features: Any = None, candidates: Any = None, *, late: str = "refuse"
    ) -> np.ndarray:
        """Score events right before each happens, and take them in, as evaluation does.

        In a batch, an event's neighbours and features of pairs are from all strictly earlier events, those of the batch
        included; memory is that before the batch.

        Args:
            src, dst, t, features, late: see `observe`.
            candidates: M rows of C ids each, which are scored beside the events' own destinations. A node that no
                event has yet, those of the batch included, is scored as one without events.

        Returns:
            Logits [M], or [M, 1 + C] with candidates; NaN for late events that were dropped.

        Raises:
            DataError: see `observe`.
        """
        unnumbered = self._incoming.converted(src, dst, t, features, self._times.last, late)
        rows = None if candidates is None else self._rows(candidates, unnumbered)
        events = self._incoming.numbered(unnumbered)
        others = None if rows is None else self._candidates(*rows)
        scores = self._predict(events, others)
        return scores.squeeze(1).numpy() if others is None else scores.numpy()

    def predict_table(
        self, events: NewEvents, *, late: str = "refuse", progress: Callable[[int], None] = lambda events: None
    ) -> np.ndarray:
        """Score events that `read_new_events` has read, and take them in; see `predict`.

        Args:
            progress: called with the number of events of each batch.
        """
        ready = self._incoming.numbered(self._incoming.read(events, self._times.last, late))
        return self._predict(ready, None, progress).squeeze(1).numpy()

    def save(self, folder: str | Path) -> None:
        """Write the predictor to a folder, from which `load` restores it without a file of events.

        Raises:
            RunFolderError: the folder cannot be written, or holds something else.
        """
        if not isinstance(folder, str | Path):
            raise RunFolderError(f"folder must be a path, not {shown(folder)}; name a folder")
        self.image().write(Path(folder))

    def image(self) -> Saved:
        """Return a copy of the present state, which another thread may write while the predictor goes on.

        Tables that only grow are shared, the others are copied.
        """
        card = self._card.split(_STATE)[0] + f"{_STATE}\n\nSaved after {len(self):,} events, until {self.time}.\n"
        live, stored, stream = self._live, self._stored, self._live.session.stream
        features = None if self._live.node_features is None else self._live.node_features[: live.nodes]
        edges = live.edges.rows if live.edges.rows.shape[1] else None
        events = EventStream(
            stream.src, stream.dst, self._times.rows, edges, features, num_nodes=live.nodes, name=stored.name
        )
        tables = {name: table[: live.nodes].clone() for name, table in live.session.state.tables.items()}
        parameters = {name: each.clone() for name, each in live.model.state_dict().items()}
        now = replace(stored, parameters=parameters, state=tables, events=len(self))
        return Saved(now, events, self._ids.copy(), self._split, card)

    def make_reproducible(self) -> None:
        """Keep the state independent of questions, to the last bit; observing then takes a little longer."""
        self._live.reproducible = True

    def check_parameters(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Refuse parameters that `swap` cannot use.

        Raises:
            RunFolderError: they are of another model.
        """
        replace(self._stored, parameters=parameters).check(self._live.model)

    def swap(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Use other parameters from now on; the memory stays as the earlier ones wrote it.

        Raises:
            RunFolderError: they are of another model.
        """
        replace(self._stored, parameters=parameters).restore(self._live.model)
        self._live.note(torch.arange(self._live.moved.numel()))
        self._live.moves += 1

    @property
    def reading(self) -> Reading:
        """The way in which the run's events were read, for `read_new_events`."""
        return self._stored.reading

    def _append(self, events: Events) -> range:
        """Append events to the live session, and return their numbers."""
        self._times.append(events.t)
        return self._live.append(events.src, events.dst, events.scaled, events.edges)

    def _predict(
        self, events: Events, candidates: torch.Tensor | None, progress: Callable[[int], None] = lambda events: None
    ) -> torch.Tensor:
        """Score events in batches and take them in; returns logits [N, 1 + C], NaN for late events."""
        width = 1 if candidates is None else 1 + candidates.shape[1]
        parts, size = [self._live.no_rows(width)], self.batch_size
        for start in range(0, events.t.numel(), size):
            part = slice(start, start + size)
            columns = {name: getattr(events, name)[part] for name in ("src", "dst", "t", "scaled", "edges")}
            numbers, others = self._append(events._replace(**columns)), None
            if candidates is not None:  # those of later events have no row yet
                blank = self._live.nodes
                others = candidates[part]
                others = torch.where((others < 0) | (others > blank), blank, others)
            parts.append(self._live.predict(numbers, others))
            progress(len(numbers))
        scores = torch.cat(parts)
        out = scores.new_full((events.mask.numel(), width), torch.nan)
        out[events.mask] = scores
        return out

    def _rows(self, candidates: Any, events: Unnumbered) -> tuple[list[list[Any]], int]:
        """Return the candidates of the events that are kept, and their number C per event.

        Raises:
            DataError: they are not as many for each event, or one is no id.
        """
        table = next(
            (getattr(candidates, each) for each in _TO_ROWS if hasattr(candidates, each)), lambda: candidates
        )()
        rows, count = [] if is_single(table) else list(table), events.mask.numel()
        if len(rows) != count or any(map(is_single, rows)):
            raise DataError(f"candidates must have a row of ids for each of the {count} events; give a list per event")
        rows = [plain_list(row) for row in rows]
        widths = [len(row) for row in rows] or [1]
        if min(widths) != max(widths) or 0 in widths:
            fault = f"rows of {min(widths)} and {max(widths)} ids" if any(widths) else "rows without ids"
            raise DataError(f"candidates have {fault}; give each event as many")
        rows = [row for row, keeps in zip(rows, events.mask.tolist(), strict=True) if keeps]
        self._candidates(rows, widths[0])  # refuses what is no id, before events get theirs
        return rows, widths[0]

    def _candidates(self, rows: list[list[Any]], width: int) -> torch.Tensor:
        """Return numbers [M, C] of candidates, −1 for nodes without events."""
        flat = [each for row in rows for each in row]
        return self._names.numbers(flat, DESTINATION, "candidates", -1).view(len(rows), width)
