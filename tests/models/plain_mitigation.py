"""An oracle of mitigation by similarity: one row, one event, one candidate at a time, from the definition alone."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

Number = int | float
Event = tuple[int, int, Number]
Row = tuple[Number, list[float]]


def entries(events: list[Event], node: int, time: Number) -> list[int]:
    """Partners of a node's events before a time, the latest first; a self-loop counts twice."""
    partners = []
    for src, dst, t in events:
        if t < time:
            partners += [dst] * (src == node) + [src] * (dst == node)
    return partners[::-1]


def similar(events: list[Event], node: int, time: Number, fanout: int) -> dict[int, int]:
    """Count, for each other node, the neighbours that it shares with a node within the window."""
    around: list[int] = []
    for other in entries(events, node, time)[: 8 * fanout]:
        if other not in around and len(around) < fanout:
            around.append(other)
    shared: dict[int, int] = {}
    for other in around:
        for candidate in set(entries(events, other, time)[:fanout]) - {node}:
            shared[candidate] = shared.get(candidate, 0) + 1
    return shared


def mitigate(
    events: list[Event], nodes: list[int], fetched: list[Row], current: list[Row], start: Number, time: Number,
    quantile: str, blend: float, fanout: int, peers: int,
) -> tuple[list[list[float]], set[int]]:  # fmt: skip
    """Memory rows of `nodes`, and indices of the blended ones; `fetched` and `current` are (memory time, memory)."""
    ages = sorted(time - memory_time for memory_time, _ in fetched if memory_time > start)
    rank = max(1, ceil(Fraction(quantile) * len(ages)))
    memory, blended = [list(row) for _, row in fetched], set()
    for i, (node, (memory_time, row)) in enumerate(zip(nodes, fetched, strict=True)):
        if memory_time <= start or time - memory_time <= ages[rank - 1]:
            continue
        shared = similar(events, node, time, fanout)
        later = [v for v in shared if current[v][0] > memory_time]
        similar_nodes = sorted(later, key=lambda v: (-shared[v], -current[v][0], v))[:peers]
        if similar_nodes:
            blended.add(i)
            for k in range(len(row)):
                mean = sum(current[v][1][k] for v in similar_nodes) / len(similar_nodes)
                memory[i][k] = blend * row[k] + (1 - blend) * mean
    return memory, blended
