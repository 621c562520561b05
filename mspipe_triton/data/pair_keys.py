"""Sorted keys of a pair index, in numpy: the last events of owners, and the merging of new keys and pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

EVENT = (1 << 32) - 1  # the bits of an event in a key


def keys_of(owners: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Keys owner · 2³² + event, ascending."""
    keys: np.ndarray = (owners << 32) + events
    keys.sort()
    return keys


def owners_of(keys: np.ndarray) -> np.ndarray:
    """Owners of all events, in the order of the events, from their keys."""
    owners = np.empty_like(keys)
    owners[keys & EVENT] = keys >> 32
    return owners


def last_events(keys: np.ndarray, owners: np.ndarray, newer: int) -> np.ndarray:
    """Last event [M] of each owner, -1 without one; the last `newer` keys are sorted apart."""
    last = np.full_like(owners, -1)
    for part in _parts(keys, newer):
        ends = part[part.searchsorted((owners + 1) << 32) - 1]  # the very last key if there is none below
        last = np.where(ends >> 32 == owners, ends & EVENT, last)
    return last


def last_events_of_pairs(
    pairs: np.ndarray, keys: np.ndarray, numbers: np.ndarray, newer_pairs: int, newer: int
) -> np.ndarray:
    """Last event [M] of each pair src · 2³² + dst in `numbers`, -1 without one; see `last_events`."""
    last, first = np.full_like(numbers, -1), 0
    for distinct, part in zip(_parts(pairs, newer_pairs), _parts(keys, newer), strict=True):
        places = distinct.searchsorted(numbers)
        places[places == distinct.size] = 0
        absent = distinct[places] != numbers
        places += first
        places[absent] = -1  # no owner
        last = np.maximum(last_events(part, places, 0), last)
        first += distinct.size
    return last


def merge(keys: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Merge new keys into others, both ascending, in the time of a copy."""
    if not keys.size:
        return new
    places = keys.searchsorted(new)
    if new.size == 1:  # several times as fast as `insert`
        return np.concatenate([keys[: places[0]], new, keys[places[0] :]])
    return np.insert(keys, places, new)


def merge_pairs(
    pairs: np.ndarray, keys: np.ndarray, numbers: np.ndarray, events: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge pairs of new events into others, and the keys of these events into those of pairs.

    Args:
        pairs: distinct src · 2³² + dst, ascending.
        keys: place of the pair · 2³² + number of every event, ascending; places count from `first`.
        numbers: [M] src · 2³² + dst of the new events.
        events: [M] their numbers.
    """
    distinct, owners = np.unique(numbers, return_inverse=True)
    places = pairs.searchsorted(distinct)
    absent = pairs.searchsorted(distinct, "right") == places
    moved = keys
    if absent.any():  # a pair that comes between others moves the later ones on by a place
        steps = np.zeros(keys.size + 1, dtype=np.int64)
        np.add.at(steps, keys.searchsorted((places[absent] + first) << 32), 1 << 32)
        moved = keys + steps[:-1].cumsum()
    new = (places + absent.cumsum() - absent + first)[owners]
    return merge(pairs, distinct[absent]), merge(moved, keys_of(new, events))


def _parts(keys: np.ndarray, newer: int) -> Iterator[np.ndarray]:
    """The part that was sorted first and the newer one, without empty ones."""
    border = keys.size - newer
    return (part for part in (keys[:border], keys[border:]) if part.size)
