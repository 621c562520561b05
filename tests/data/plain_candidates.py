"""Candidates of events, one by one on Python integers, as an oracle: it imports nothing of the package."""

from __future__ import annotations

from tests.kernels.numbers.plain_philox import expected_at


def plain_candidates(draws: list[int], dst: list[int], each: int, destinations: set[int]) -> list[list[int]]:
    """Draw `each` candidates per event of an iteration: remove its destination from the list, and pick one by the word.

    Args:
        draws: seed, purpose, epoch and iteration.
        dst: [B] the events' destinations.
    """
    rows = []
    for number, node in enumerate(dst):
        others = sorted(destinations)
        others.remove(node)
        words = (expected_at(draws, number * each + column)[0] for column in range(each))
        rows.append([others[word * len(others) // 2**32] for word in words])
    return rows
