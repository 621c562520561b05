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
from mspipe_triton.errors import ConfigError, DataError
from mspipe_triton.models.stored import StoredModel
from mspipe_triton.serving.features import feature_rows
from mspipe_triton.serving.inputs import broadcast, picked, times_of

LATE = ("refuse", "drop")


class Events(NamedTuple):
    """M events to append: nodes [M], times in the run's unit and scaled [M], feature rows [M, E].

    `mask` [N] says which of the caller's N events they are; the others are late.
    """

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

    def converted(self, src: Any, dst: Any, t: Any, features: Any, last: torch.Tensor, late: str) -> Events:
        """Convert events from arguments (see `Predictor.observe`), after one at `last` [1]."""
        times, _ = times_of(t, self.stored)
        src, dst = ([each] if is_single(each) else each for each in (src, dst))
        sources, destinations = (each if hasattr(each, "__len__") else list(each) for each in (src, dst))
        count = len(sources)
        if len(destinations) != count:
            raise DataError(f"src has {count} ids and dst has {len(destinations)}; give one of each per event")
        reading = self.stored.reading
        edges = feature_rows(features, count, reading.width, reading.transform)
        return self._checked(sources, destinations, broadcast(times, count, "t"), edges, last, late, None)

    def read(self, events: NewEvents, last: torch.Tensor, late: str) -> Events:
        """Convert events that were read from a table, after one at `last` [1]."""
        features = torch.zeros((len(events), 0)) if events.features is None else events.features
        return self._checked(events.src, events.dst, events.t, features, last, late, events.place, events.names)

    def _checked(
        self, src: Any, dst: Any, t: torch.Tensor, edges: torch.Tensor, last: torch.Tensor, late: str,
        place: Callable[[int], str] | None, names: tuple[str, str] = ("src", "dst"),
    ) -> Events:  # fmt: skip
        """Number the nodes of events that are in order of time; nothing has changed if this raises an error.

        Raises:
            DataError: an event is late, unless `late` says to leave it out, or an id does not fit the run's.
        """
        if late not in LATE:
            raise ConfigError(f"late must be {either(LATE)}, not {late!r}")
        before = torch.cat([last, t[:-1]])[: t.numel()].cummax(0).values
        mask = t >= before
        if not bool(mask.all()):
            if late == "refuse":
                first = int((~mask).nonzero()[0])
                name = f"event {first}" if place is None else place(first)
                at, then = (time_text(each[first].item(), self.stored.reading.time) for each in (t, before))
                raise DataError(
                    f"{name}: is late, since its time is {at}, and an event at {then} came before it; sort the events, "
                    "load an earlier state with `at`, or leave late events out with `late` drop"
                )
            places = mask.numpy().nonzero()[0]
            src, dst, t, edges = picked(src, places), picked(dst, places), t[mask], edges[mask]
        sources, destinations = self.ids.ends(src, dst, True, place, names)
        scaled = self.stored.time.scale(t, self.stored.steps)
        return Events(
            torch.from_numpy(np.ascontiguousarray(sources)),
            torch.from_numpy(np.ascontiguousarray(destinations)),
            t,
            scaled,
            edges,
            mask,
        )
