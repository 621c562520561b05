"""Features of pairs by loops over all events, as an oracle in plain Python: it imports nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Sequence

Number = int | float
Event = tuple[int, int, Number]  # source, destination, time


def plain_pair_features(events: Sequence[Event], src: int, dst: int, time: Number, before: int) -> list[float]:
    """The 36 features of a pair from the first `before` events; all are 0 if a node is negative."""
    if src < 0 or dst < 0:
        return [0.0] * 36
    past = range(before)
    sent = [k for k in past if events[k][0] == src]
    received = [k for k in past if events[k][1] == src]
    there = [k for k in past if events[k][:2] == (src, dst)]
    back = [k for k in past if events[k][:2] == (dst, src)]
    seen = [k for k in past if events[k][1] == dst]

    columns = [0.0] * 11
    if there:
        last, number = there[-1], len(there)
        order = sum(k >= last for k in sent)
        columns = [1.0, float(order == 1), float(order == 2), 1 / order, math.log(order) / 5]
        columns += [*recency(events, last, time), math.log(1 + number) / 3, number / len(sent)]

    reverse = [0.0] * 9
    if back:
        last = back[-1]
        order = sum(k >= last for k in past if events[k][0] == dst)
        place = sum(k >= last for k in received)
        reverse = [1.0, *recency(events, last, time), math.log(1 + len(back)) / 3]
        reverse += [1 / order, 1 / place, math.log(place) / 5]

    destination = [0.0] * 8
    if seen:
        sums = [sum(math.exp((k + 1 - before) / span) for k in seen) for span in (50, 500, 5000)]
        destination = [1.0, *recency(events, seen[-1], time), *(math.log(1 + each) / 3 for each in sums)]

    new = [1.0, *destination[5:]] if not sent else [0.0] * 4
    shares = [
        len(there) / len(seen) if seen else 0.0,
        len({events[k][1] for k in sent}) / len(sent) if sent else 0.0,
        len({events[k][0] for k in seen}) / len(seen) if seen else 0.0,
        recency(events, sent[-1], time)[0] if sent else 0.0,
    ]
    return columns + reverse + destination + new + shares


def recency(events: Sequence[Event], event: int, time: Number) -> list[float]:
    """L(Δ)/10 and 1/(1 + Δ/τ) for three τ; both times are subtracted exactly."""
    delta = float(time - events[event][2])
    return [math.log1p(delta) / 10, *(1 / (1 + delta / tau) for tau in (1e2, 1e4, 1e6))]
