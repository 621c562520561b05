"""Generated stream with three types of events among traders, in which each type depends on what others have left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mspipe_triton.choices import check_settings, setting
from mspipe_triton.data.events import EventStream

VIEW, MESSAGE, PURCHASE = KINDS = range(3)
NAMES = ("view", "message", "purchase")
_SHARES = (0.5, 0.3, 0.2)  # of the types
_GROUPS = 20
_GAP = 30.0  # seconds between events, on average
_SUPPLIER = 5  # groups further on
_TURN = 86400  # seconds until every group views the next group
_ACTIVE, _AGAIN = 16, 0.5  # traders of the latest events, and the probability that one of them acts next
_VIEWED = 3


@dataclass(frozen=True)
class TypedConfig:
    """Size and seed of the generator.

    Raises:
        ConfigError: a value is not allowed.
    """

    events: int = setting(102_400, "Events.", minimum=64)
    traders: int = setting(1_000, "Nodes.", minimum=2 * _GROUPS)
    seed: int = setting(0, "Seed.", minimum=0)

    def __post_init__(self) -> None:
        check_settings(self)


class TypedStream(NamedTuple):
    """Events of all types in time order, and the type of each.

    Args:
        events: E events; times are int64 seconds from the start.
        kind: [E] int64, an index of `NAMES`.
    """

    events: EventStream
    kind: torch.Tensor

    def of(self, kind: int) -> tuple[EventStream, torch.Tensor]:
        """Return the events of one type, and their numbers among all."""
        numbers = (self.kind == kind).nonzero().squeeze(1)
        events = self.events
        src, dst, t = (each.index_select(0, numbers) for each in (events.src, events.dst, events.t))
        return EventStream(src, dst, t, num_nodes=events.num_nodes, name=NAMES[kind]), numbers


class _Market:
    """Memory of the traders: the latest views, messages and purchases, on which the next ones depend."""

    def __init__(self, traders: int) -> None:
        self.viewed = [deque[int](maxlen=_VIEWED) for _ in range(traders)]
        self.viewer, self.writer, self.partner, self.seller = ([-1] * traders for _ in range(4))

    def choices(self, kind: int, trader: int) -> tuple[tuple[float, int], ...]:
        """Return the traders that an event may be with, −1 for none, each after the sum of probabilities up to it."""
        viewed = self.viewed[trader]
        latest, first = (viewed[-1], viewed[0]) if viewed else (-1, -1)
        if kind == VIEW:
            return (0.4, self.seller[trader]), (0.6, self.viewer[trader])
        if kind == MESSAGE:
            return (0.5, latest), (0.65, first), (0.8, self.writer[trader])
        return (0.6, self.partner[trader]), (0.8, latest)

    def record(self, kind: int, src: int, dst: int) -> None:
        """Remember an event."""
        if kind == VIEW:
            self.viewed[src].append(dst)
            self.viewer[dst] = src
        elif kind == MESSAGE:
            self.writer[dst] = src
            self.partner[src], self.partner[dst] = dst, src
        else:
            self.seller[src] = dst


def typed_stream(config: TypedConfig | None = None) -> TypedStream:
    """Generate views, messages and purchases among traders in 20 groups.

    The other trader of an event is, with these probabilities,

    * of a view: the seller of the trader's latest purchase (0.4), the latest trader who viewed this one (0.2), or one
      of a group that changes every day (0.4),
    * of a message: the trader viewed last (0.5) or third from last (0.15), the latest one to write to this trader
      (0.15), or one of the trader's own group (0.2),
    * of a purchase: the other trader of the latest message, whoever wrote it (0.6), the trader viewed last (0.2), or
      one of the group that supplies the trader's (0.2).

    So views depend on purchases, messages on views, and purchases on messages and views: a model that remembers one
    type alone misses most of that. Half of the events are by traders of the latest 16 events.
    """
    config = config or TypedConfig()
    random = np.random.default_rng(config.seed)
    events, traders = config.events, config.traders
    size = traders // _GROUPS
    kinds = random.choice(len(_SHARES), events, p=_SHARES)
    times = np.cumsum(random.exponential(_GAP, events)).astype(np.int64)
    activity = random.pareto(2.0, traders) + 0.5
    actors = random.choice(traders, events, p=activity / activity.sum()).tolist()
    chances, again, member = (random.random(events).tolist() for _ in range(3))
    market, active = _Market(traders), deque[int](maxlen=_ACTIVE)
    src, dst = [0] * events, [0] * events
    for number, (kind, turn) in enumerate(zip(kinds.tolist(), (times // _TURN).tolist(), strict=True)):
        trader = actors[number]
        if again[number] < _AGAIN and active:
            trader = active[int(again[number] / _AGAIN * len(active))]
        other = next((each for limit, each in market.choices(kind, trader) if chances[number] < limit), -1)
        if other in (-1, trader):
            group = (trader + (turn + 1, 0, _SUPPLIER)[kind]) % _GROUPS
            other = int(member[number] * size) * _GROUPS + group
        if other == trader:
            other = (other + _GROUPS) % (size * _GROUPS)
        src[number], dst[number] = trader, other
        market.record(kind, trader, other)
        active.extend((trader, other))
    columns = torch.tensor(src), torch.tensor(dst), torch.from_numpy(times - times[0])
    return TypedStream(EventStream(*columns, num_nodes=traders, name="typed"), torch.from_numpy(kinds))
