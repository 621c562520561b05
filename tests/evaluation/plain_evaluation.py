"""Plain Python for the terms of an evaluation: split, events with unseen nodes, baselines and AUC; imports math."""

from __future__ import annotations

import math

Pair = tuple[int, int]


def split(t: list[float]) -> tuple[int, int]:
    """Borders of 70/15/15 by number, each moved back as long as the event before has the same time."""
    borders = []
    for percent in (70, 85):
        border = len(t) * percent // 100
        while border > 0 and t[border - 1] == t[border]:
            border -= 1
        borders.append(border)
    return borders[0], borders[1]


def split_at(t: list[float], first: float, second: float) -> tuple[int, int]:
    """Numbers of the events before two times."""
    return sum(time < first for time in t), sum(time < second for time in t)


def has_empty_part(borders: tuple[int, int], events: int) -> bool:
    """Return True if training, validation or test has no event."""
    return not 0 < borders[0] < borders[1] < events


def unseen(pairs: list[Pair], train_end: int) -> list[bool]:
    """Say of each event if an endpoint occurs in no training event."""
    seen = {node for pair in pairs[:train_end] for node in pair}
    return [not set(pair) <= seen for pair in pairs]


def edgebank(pairs: list[Pair], t: list[float], queries: list[Pair], moments: list[float]) -> list[float]:
    """Score 1 for a pair that has an event strictly before its moment, else 0."""
    events = list(zip(pairs, t, strict=True))
    return [
        float(any(pair == query and time < moment for pair, time in events))
        for query, moment in zip(queries, moments, strict=True)
    ]


def edgebank_window(
    pairs: list[Pair], t: list[float], queries: list[Pair], moments: list[float], window: float
) -> list[float]:
    """Score 1 for a pair that has an event strictly before its moment, and at most a window before it, else 0."""
    events = list(zip(pairs, t, strict=True))
    return [
        float(any(pair == query and time < moment and moment - time <= window for pair, time in events))
        for query, moment in zip(queries, moments, strict=True)
    ]


def popularity(pairs: list[Pair], t: list[float], query: int, moment: float, span: float) -> float:
    """Sum over a destination's events strictly before a moment, each decayed by the number of events after it."""
    before = sum(time < moment for time in t)
    return sum(math.exp((event + 1 - before) / span) for event in range(before) if pairs[event][1] == query)


def auc(positive: list[float], negative: list[float]) -> float:
    """Share of all pairs of a positive and a negative in which the positive scores higher, half for equal scores."""
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return wins / (len(positive) * len(negative))
