"""A small stream with ties and repeated pairs, queries on it, and the oracle of historical negatives.

The oracle imports nothing of the package: it loops over all events for every query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from tests.kernels.numbers.plain_philox import expected_at

Event = tuple[int, int, float]
LARGE = 2**53 - 10  # the times pass 2⁵³, from where float64 does not hold every integer
DRAWS = [2**32 - 1, 11, 3, 5]


@dataclass(frozen=True)
class Query:
    """One query: its source, destination and time, and its random negatives."""

    src: int
    dst: int
    time: float
    negatives: list[int]


def random_stream(events: int = 150, sources: int = 6, destinations: int = 9, seed: int = 0) -> list[Event]:
    """Make events in the order of time, about three at a time, of few pairs; some sources are destinations, too."""
    random = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[int]:
        return torch.randint(0, count, (events,), generator=random).tolist()

    times = sorted(draw(events // 3))
    return [
        (src, dst + sources // 2, time + LARGE)
        for src, dst, time in zip(draw(sources), draw(destinations), times, strict=True)
    ]


def destinations_of(events: list[Event]) -> list[int]:
    return sorted({dst for _, dst, _ in events})


def random_queries(events: list[Event], size: int, number: int, seed: int = 1) -> list[Query]:
    """Make queries of every kind, in turn: an event of the stream, a new source, a random pair at any time (before the
    stream's start and after its end, too), padding."""
    random = torch.Generator().manual_seed(seed)
    nodes = destinations_of(events)

    def draw(count: int) -> int:
        return int(torch.randint(0, count, (), generator=random))

    queries = []
    for place in range(size):
        event, node = events[draw(len(events))], nodes[draw(len(nodes))]
        src, dst, time = [
            event, (1000, event[1], event[2]), (event[0], node, events[0][2] - 1 + draw(len(events))), event,
            (-1, -1, event[2]),
        ][place % 5]  # fmt: skip
        others = [node for node in nodes if node != dst]
        negatives = [others[draw(len(others))] if src >= 0 else -1 for _ in range(number)]
        queries.append(Query(src, dst, time, negatives))
    return queries


def count_before(events: list[Event], query: Query) -> int:
    return sum(time < query.time for _, _, time in events)


def inputs(
    events: list[Event],
    queries: list[Query],
    historical: int,
    number: int,
    times: torch.dtype = torch.int64,
    index: torch.dtype = torch.int64,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    """Make the operation's arguments."""
    pairs = sorted({(src << 32) + dst for src, dst, _ in events})
    owners = [(src << 32) + dst for src, dst, _ in events]
    src, dst, moments = ([getattr(query, name) for query in queries] for name in ("src", "dst", "time"))
    return {
        "meeting_keys": torch.tensor(sorted((pair >> 32 << 32) + owners.index(pair) for pair in pairs)),
        "pairs": torch.tensor(pairs),
        "pair_keys": torch.tensor(sorted((pairs.index(pair) << 32) + event for event, pair in enumerate(owners))),
        "event_dst": torch.tensor([dst for _, dst, _ in events], dtype=index),
        "times": torch.tensor([time for _, _, time in events], dtype=times),
        "src": torch.tensor(src, dtype=index), "dst": torch.tensor(dst, dtype=index),
        "query_times": torch.tensor(moments, dtype=times),
        "before": torch.tensor([count_before(events, query) for query in queries], dtype=torch.int64),
        "negatives": torch.tensor([query.negatives for query in queries], dtype=index).view(-1, number),
        "draws": torch.tensor(DRAWS), "historical": historical, "destinations": len(destinations_of(events)),
        "dtype": dtype,
    }  # fmt: skip


def history(events: list[Event], query: Query) -> list[int]:
    """Nodes other than dst that the source met before the query's time, in the order of first meeting."""
    nodes = [dst for src, dst, time in events if src == query.src and time < query.time and dst != query.dst]
    return list(dict.fromkeys(nodes))


def expected_draws(events: list[Event], query: Query, historical: int, node: int) -> float:
    """Expected number of draws of a node, q."""
    nodes, number = history(events, query), len(query.negatives)
    random = number - historical if nodes else number
    return (historical / len(nodes) if node in nodes else 0) + random / (len(destinations_of(events)) - 1)


def plain(events: list[Event], queries: list[Query], historical: int) -> tuple[list[list[int]], list[list[float]]]:
    """Negatives and log weights, query by query."""
    rows, weights = [], []
    for i, query in enumerate(queries):
        row, nodes, stays = list(query.negatives), history(events, query), len(query.negatives) - historical
        for h in range(historical if nodes else 0):
            node = nodes[expected_at(DRAWS, i * historical + h)[0] * len(nodes) // 2**32]
            if (query.src, node, query.time) not in events:
                row[stays + h] = node
        least = 1 / (len(destinations_of(events)) - 1)
        rows.append(row)
        draws = (max(expected_draws(events, query, historical, node), least) for node in row)
        weights.append([-math.log(each) if query.src >= 0 else 0.0 for each in draws])
    return rows, weights
