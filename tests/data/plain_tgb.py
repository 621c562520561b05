"""TGB's split, candidates and ranks, event by event in plain Python, as an oracle: imports nothing of the package."""

from __future__ import annotations

from fractions import Fraction

from tests.kernels.numbers.plain_philox import expected_at

Event = tuple[int, int, int]
RANKING_NEGATIVES = 3


def quantiles(t: list[int]) -> list[Fraction]:
    """The values at 70 % and 85 % of the way through sorted numbers, on the line between two of them."""
    values = []
    for place in (Fraction(share, 100) * (len(t) - 1) for share in (70, 85)):
        low, high = t[int(place)], t[min(int(place) + 1, len(t) - 1)]
        values.append(low + (place - int(place)) * (high - low))
    return values


def parts(t: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The times of training, validation and test; one that equals a quantile is in the earlier part."""
    first, second = quantiles(t)
    return [x for x in t if x <= first], [x for x in t if first < x <= second], [x for x in t if x > second]


def floyd(words: list[int], bound: int, count: int) -> list[int]:
    """Distinct integers below a bound: a word's choice, or the largest that is possible if that is there already."""
    if count == bound:
        return list(range(count))
    numbers: list[int] = []
    for word, last in zip(words, range(bound - count, bound), strict=False):
        number = word * (last + 1) // 2**32
        numbers.append(last if number in numbers else number)
    return numbers


def pools(events: list[Event], train_end: int, start: int, stop: int) -> list[tuple[list[int], list[int]]]:
    """For events [start, stop): destinations of the source in training, and all nodes that are none of these.

    Both lack the destinations that the source has at the same time in this part.
    """
    nodes = {dst for _, dst, _ in events}
    rows = []
    for src, _, t in events[start:stop]:
        now = {d for s, d, other in events[start:stop] if (s, other) == (src, t)}
        past = {d for s, d, _ in events[:train_end] if s == src}
        rest = set(range(min(nodes), max(nodes) + 1)) - past
        rows.append((sorted(past - now), sorted(rest - now)))
    return rows


def candidates(events: list[Event], train_end: int, start: int, stop: int, number: int, seed: int) -> list[list[int]]:
    """Candidates of events [start, stop): at most half from training, and the others from the rest."""
    rows = []
    for event, (past, rest) in enumerate(pools(events, train_end, start, stop), start):
        count = min(number // 2, len(past))
        row = []
        for half, pool, size in ((0, past, count), (1, rest, min(number - count, len(rest)))):
            first = event * -(-number // 4)
            draws = [seed, RANKING_NEGATIVES, half, 0]
            words = [word for block in range(-(-size // 4)) for word in expected_at(draws, first + block)]
            row += [pool[rank] for rank in floyd(words, len(pool), size)]
        rows.append(row)
    return rows


def reciprocal_rank(positive: float, negatives: list[float]) -> float:
    """TGB's evaluator: 1 over the mean of the ranks that count the ties after the positive, and before it."""
    optimistic = sum(score > positive for score in negatives)
    pessimistic = sum(score >= positive for score in negatives)
    return 1 / (0.5 * (optimistic + pessimistic) + 1)
