"""Incoming events: conversion, checks and numbering of events that a predictor takes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from mspipe_triton.choices import either
from mspipe_triton.data.ids import is_single
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.moments import time_text
from mspipe_triton.data.new_events import NewEvents
from mspipe_triton.data.origin import plain_value
from mspipe_triton.errors import ConfigError, DataError
from mspipe_triton.models.stored import StoredModel
from mspipe_triton.serving.defaults import LATE
from mspipe_triton.serving.features import feature_rows
from mspipe_triton.serving.inputs import broadcast, column, picked, times_of


class Unnumbered(NamedTuple):
    """M events that were checked, apart from their ids, which may be new.

    Args:
        src, dst: columns of M ids. t: [M]. edges: [M, E].
        mask: [N], which of the caller's N events they are; the others are late.
        place: names an event in messages. names: of sources and destinations there.
    """

    src: Any
    dst: Any
    t: torch.Tensor
    edges: torch.Tensor
    mask: torch.Tensor
    place: Callable[[int], str] | None
    names: tuple[str, str]


class Events(NamedTuple):
    """M events to append: nodes [M], times in the run's unit and scaled [M], feature rows [M, E]; `mask` as before."""

    src: torch.Tensor
    dst: torch.Tensor
    t: torch.Tensor
    scaled: torch.Tensor
    edges: torch.Tensor
    mask: torch.Tensor


class Incoming:
    """Conversion of the user's events to those of a run.

    Args:
        stored: the model's description. ids: of the nodes, to which new ones are added.
    """

    def __init__(self, stored: StoredModel, ids: LiveIds) -> None:
        self.stored, self.ids = stored, ids

    def converted(self, src: Any, dst: Any, t: Any, features: Any, last: torch.Tensor, late: str) -> Unnumbered:
        """Convert events from arguments (see `Predictor.observe`), after one at `last` [1]."""
        times = times_of(t, self.stored)
        src, dst = ([plain_value(each)] if is_single(each) else each for each in (src, dst))
        sources, destinations = column(src), column(dst)
        count = len(sources)
        if len(destinations) != count:
            raise DataError(f"src has {count} ids and dst has {len(destinations)}; give one of each per event")
        reading = self.stored.reading
        edges = feature_rows(features, count, reading.width, reading.transform)
        return self._checked(sources, destinations, broadcast(times, count, "t"), edges, last, late, None)

    def read(self, events: NewEvents, last: torch.Tensor, late: str) -> Unnumbered:
        """Convert events that were read from a table, after one at `last` [1]."""
        features = torch.zeros((len(events), 0)) if events.features is None else events.features
        return self._checked(events.src, events.dst, events.t, features, last, late, events.place, events.names)

    def _checked(
        self, src: Any, dst: Any, t: torch.Tensor, edges: torch.Tensor, last: torch.Tensor, late: str,
        place: Callable[[int], str] | None, names: tuple[str, str] = ("src", "dst"),
    ) -> Unnumbered:  # fmt: skip
        """Check that events are in order of time.

        Raises:
            DataError: an event is late, unless `late` says to leave it out.
        """
        if late not in LATE:
            raise ConfigError(f"late must be {either(LATE)}, not {late!r}")
        before = last if t.numel() == 1 else torch.cat([last, t[:-1]])[: t.numel()].cummax(0).values
        mask = t >= before
        if not bool(mask.all()):
            if late == "refuse":
                first = int((~mask).nonzero()[0])
                name = f"event {first}" if place is None else place(first)
                at, then = (time_text(each[first].item(), self.stored.reading.time) for each in (t, before))
                old = bool(before[first] == last)
                whose = "the last event so far is at" if old else "the one before it is at"
                fix = "load an earlier state with at=..." if old else "sort the events"
                raise DataError(
                    f"{name} is late: its time is {at}, and {whose} {then}; {fix}, or leave late events out with "
                    "late='drop'"
                )
            places = mask.numpy().nonzero()[0]
            src, dst, t, edges = picked(src, places), picked(dst, places), t[mask], edges[mask]
            place = _place_of(places, place)
        return Unnumbered(src, dst, t, edges, mask, place, names)

    def fitting(self, events: Unnumbered) -> Unnumbered:
        """Check the ids of events too, and return them with ids in the type of the run's.

        Raises:
            DataError: an id does not fit the run's.
        """
        src, dst = self.ids.fitting(events.src, events.dst, events.place, events.names)
        return events._replace(src=src, dst=dst)

    def numbered(self, events: Unnumbered) -> Events:
        """Number the nodes of events, new ones too; nothing has changed if this raises an error.

        Raises:
            DataError: an id does not fit the run's.
        """
        scaled = self.stored.time.scale(events.t, self.stored.steps) if events.t.numel() else events.t.double()
        ends = self.ids.ends(events.src, events.dst, True, events.place, events.names)
        src, dst = (torch.from_numpy(np.ascontiguousarray(each)) for each in ends)
        return Events(src, dst, events.t, scaled, events.edges, events.mask)


def _place_of(places: np.ndarray, place: Callable[[int], str] | None) -> Callable[[int], str] | None:
    """Return the function that names events of which those at `places` remain."""
    return None if place is None else lambda event: place(int(places[event]))
