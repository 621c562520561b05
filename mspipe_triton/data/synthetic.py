"""Built-in generator of streams: returning users with drifting tastes, and items that go in and out of fashion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mspipe_triton.config import DataConfig
from mspipe_triton.data.origin import Origin, Source
from mspipe_triton.errors import ConfigError

if TYPE_CHECKING:  # it imports torch, which `data generate` does not need
    from mspipe_triton.data.events import EventStream

_TASTES = 10
_SESSION_EVENTS = 6
_SESSION_GAP = 60.0
_SPAN = 30 * 86400
_FASHION = 5 * 86400
_TASTE = 6 * 86400
_IN_FASHION = 6
_RETURNS = 0.35


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and seed of the generator: events, users, items, width of the edge features (0: none)."""

    events: int = 60_000
    users: int = 1_500
    items: int = 500
    edge_features: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for field, minimum in (("events", 1), ("users", 1), ("items", _TASTES), ("edge_features", 0), ("seed", 0)):
            if getattr(self, field) < minimum:
                raise ConfigError(f"synthetic: {field} must be at least {minimum}, not {getattr(self, field)}")


class SyntheticEvents(NamedTuple):
    """Generated events: src, dst, t and labels [E] int64, and edge features [E, F] float32 or None."""

    src: np.ndarray
    dst: np.ndarray
    t: np.ndarray
    labels: np.ndarray
    features: np.ndarray | None


def synthetic_stream(config: SyntheticConfig | None = None) -> EventStream:
    """Generate a bipartite stream over 30 days: users 0 … U − 1, items U … U + I − 1, integer seconds.

    Users come in sessions. A user has a taste (one of ten groups of items) that drifts every few days. In a session,
    the user either returns to the favourite item of that taste or picks one of the group's items in fashion at the
    time. The pairs seen so far, which a memoriser knows, therefore predict the next event only in part; the rest is
    recency and taste, which a temporal model can learn.

    The label of an event is 1 if the user's taste has changed since the user's previous event. Edge features are a
    noisy embedding of the item's group.

    The source of the default stream has the settings that name it, so runs on it can be evaluated without a file.
    """
    import torch

    from mspipe_triton.data.events import EventStream

    config = config or SyntheticConfig()
    events = synthetic_events(config)
    return EventStream(
        torch.from_numpy(events.src),
        torch.from_numpy(events.dst),
        torch.from_numpy(events.t),
        None if events.features is None else torch.from_numpy(events.features),
        labels=torch.from_numpy(events.labels),
        num_nodes=config.users + config.items,
        name="synthetic",
        source=_source(config.events) if config == SyntheticConfig() else None,
    )


def synthetic_events(config: SyntheticConfig) -> SyntheticEvents:
    """Generate the events of `synthetic_stream`; this needs no torch."""
    random = np.random.default_rng(config.seed)
    sessions = 2 * config.events // _SESSION_EVENTS + 16
    activity = random.pareto(1.5, config.users) + 0.2
    user = random.choice(config.users, sessions, p=activity / activity.sum())
    length = random.geometric(1 / _SESSION_EVENTS, sessions)
    begin = random.uniform(0, _SPAN, sessions)

    src = np.repeat(user, length)
    gaps = random.exponential(_SESSION_GAP, src.size)
    elapsed = np.cumsum(gaps)
    t = np.repeat(begin, length) + elapsed - np.repeat(elapsed[np.cumsum(length) - length], length)
    order = np.argsort(t, kind="stable")
    keep = np.sort(random.permutation(src.size)[: config.events])
    src, t = src[order][keep], t[order][keep]

    offset = random.uniform(0, _TASTE, config.users)
    periods = (2 * _SPAN) // _TASTE + 2
    tastes = random.integers(0, _TASTES, (config.users, periods))
    taste = tastes[src, ((t + offset[src]) // _TASTE).astype(np.int64) % periods]
    group = config.items // _TASTES
    favourite = random.integers(0, group, (config.users, _TASTES))[src, taste]
    window = (t / _FASHION * group / _IN_FASHION).astype(np.int64) + taste * 3
    fashionable = (window + random.integers(0, min(_IN_FASHION, group), src.size)) % group
    returning = random.random(src.size) < _RETURNS
    item = taste * group + np.where(returning, favourite, fashionable)

    features = None
    if config.edge_features:
        embedding = random.standard_normal((_TASTES, config.edge_features))
        noisy = embedding[taste] + 0.5 * random.standard_normal((src.size, config.edge_features))
        features = noisy.astype(np.float32)
    destinations = item.astype(np.int64) + config.users
    labels = _taste_changes(src, taste)
    return SyntheticEvents(src.astype(np.int64), destinations, t.astype(np.int64), labels, features)


def _source(events: int) -> Source:
    """Return the source of the stream that the data setting `synthetic` names."""
    return Source(Origin((("synthetic", events),)), data=DataConfig(), time="seconds from the start")


def _taste_changes(src: np.ndarray, taste: np.ndarray) -> np.ndarray:
    """Labels [E] int64: 1 if the taste differs from that at the user's previous event, 0 at a user's first event."""
    order = np.argsort(src, kind="stable")
    same_user = np.diff(src[order], prepend=-1) == 0
    changes = np.zeros(src.size, dtype=np.int64)
    changes[order] = same_user & (np.diff(taste[order], prepend=-1) != 0)
    return changes
