"""An oracle of the ends of a batch, in plain Python: its distinct nodes, and the rank that sends the row of each."""

from __future__ import annotations

from math import ceil


def plain_ends(src: list[int], dst: list[int]) -> list[int]:
    """Return the distinct nodes in order of first occurrence, sources before destinations."""
    return list(dict.fromkeys([*src, *dst]))


def holders(src: list[int], dst: list[int], size: int, world: int) -> dict[int, list[int]]:
    """Return for each node the ranks of its events, once per occurrence: those as a source first, then in order.

    Of a batch of at most `size` events, rank r has those from number r · ceil(size / world) on.
    """
    share = ceil(size / world)
    ranks: dict[int, list[int]] = {}
    for column in (src, dst):
        for number, node in enumerate(column):
            ranks.setdefault(node, []).append(number // share)
    return ranks


def senders(src: list[int], dst: list[int], size: int, world: int) -> dict[int, int]:
    """Return the rank that sends each node: of the j-th node's c occurrences, number j mod c counts."""
    ranks = holders(src, dst, size, world)
    return {node: ranks[node][j % len(ranks[node])] for j, node in enumerate(plain_ends(src, dst))}


def most_rows(src: list[int], dst: list[int], size: int, world: int) -> int:
    """Return R, the most rows that one rank sends."""
    chosen = list(senders(src, dst, size, world).values())
    return max(chosen.count(rank) for rank in range(world))
