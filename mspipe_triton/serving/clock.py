"""Clock of a predictor: the times of its events, how they are shown, and the times that queries name."""

from __future__ import annotations

from typing import Any

import torch

from mspipe_triton.data.growing import Growing
from mspipe_triton.data.moments import time_text
from mspipe_triton.errors import DataError
from mspipe_triton.models.stored import StoredModel
from mspipe_triton.serving.inputs import times_of
from mspipe_triton.serving.live import Live


class Clock:
    """Times of the events so far, in the run's unit.

    Args:
        stored: the model's description. live: the live session, which has the times scaled. times: [E] of the events.
    """

    def __init__(self, stored: StoredModel, live: Live, times: torch.Tensor) -> None:
        self.stored, self.live, self._times = stored, live, Growing(times)

    @property
    def rows(self) -> torch.Tensor:
        """[E], the times of all events."""
        return self._times.rows

    @property
    def last(self) -> torch.Tensor:
        """[1], the time of the last event."""
        return self._times.rows[-1:]

    def append(self, times: torch.Tensor) -> None:
        """Add the times [M] of later events."""
        self._times.append(times)

    def queries(self, t: Any) -> torch.Tensor:
        """Return scaled times [M] of queries; None is just after the last event.

        Raises:
            DataError: one is no time, or before the last event.
        """
        if t is None:
            return self.live.now.unsqueeze(0) + 1
        times, last = times_of(t, self.stored), self.last
        if times.numel() and bool((times < last).any()):
            first, early = self._times.rows[0], times[times < last][0]
            if early < first:
                where, fix = f"first event, at {self.shown(first)}", "no state is that old, so give a later time"
            else:
                where = f"last event, at {self.shown(last)}"
                fix = "a model that has seen it cannot go back; load(run, at=...) has the state of an earlier time"
            raise DataError(f"t is {self.shown(early)}, before the {where}; {fix}")
        return self.stored.time.scale(times, self.stored.steps) if times.numel() else self.live.t.rows[:0]

    def query(self, t: Any, name: str) -> torch.Tensor:
        """Return the scaled time [1] of a query called `name`; see `queries`.

        Raises:
            DataError: there is more than one time, or none.
        """
        times = self.queries(t)
        if times.numel() != 1:
            raise DataError(f"t has {times.numel()} times; {name} takes one")
        return times

    def shown(self, time: torch.Tensor) -> int | float | str:
        """Return a time [1] as a number, or as the text of a date if the run's times are dates."""
        number, meaning = time.item(), self.stored.reading.time
        return time_text(number, meaning) if "date" in meaning else number
