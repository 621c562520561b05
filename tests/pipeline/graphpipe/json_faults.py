"""Faults for tests of JSON files: the file without any one of its keys, and with any one of its values replaced."""

from __future__ import annotations

from collections.abc import Iterator
from math import nan
from typing import Any

WRONG = (None, "a", -1, True, [], {}, nan, 10**400, 1e300, "\ud800")


def faulty(record: dict[str, Any]) -> Iterator[Any]:
    """Yield a record with one fault at a time, anywhere in it; it is whole again in the end."""
    yield from WRONG
    for holder, name in list(_places(record)):
        value = holder[name]
        for each in WRONG:
            holder[name] = each
            yield record
        if isinstance(holder, dict):
            order = list(holder)
            del holder[name]
            yield record
            holder[name] = value
            for each in order:  # as before
                holder[each] = holder.pop(each)
        else:
            del holder[name]
            yield record
            holder.insert(name, value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every object and list in a value with each of its names or indices."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in pairs:
        yield value, name
        yield from _places(each)
