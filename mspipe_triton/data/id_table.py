"""Ids of one kind of nodes with their numbers, looked up one by one or many at once, to which new ones are added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.id_columns import UUID
from mspipe_triton.data.ids import are_uuids, ids_like, places

_UUID, _INTEGER = re.compile(UUID), re.compile(r"0|-?[1-9]\d*")
_RANGES = {pa.int64(): (-(2**63), 2**63), pa.uint64(): (0, 2**64)}


class IdTable:
    """Ids of int64, uint64 or string, distinct, with ascending numbers."""

    def __init__(self, ids: pa.Array, numbers: np.ndarray) -> None:
        """Take ids [K] and their numbers [K]."""
        self._ids, self._numbers = ids, numbers
        self._later = list[tuple[Any, int]]()
        self.text = pa.types.is_string(ids.type)
        self._low, self._high = _RANGES.get(ids.type, (0, 0))

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._ids) + len(self._later)

    @property
    def ids(self) -> pa.Array:
        """All ids in the order of their numbers."""
        self._join()
        return self._ids

    @property
    def numbers(self) -> np.ndarray:
        """The number of each id, ascending."""
        self._join()
        return self._numbers

    @cached_property
    def _lookup(self) -> dict[Any, int]:
        """The number by id; made by the first look-up of a single id, since it takes memory for every node."""
        ids = self.ids.to_pylist()
        lookup = dict(zip(ids, self._numbers.tolist(), strict=True))
        for each in filter(_is_uuid, ids if self.text else ()):
            lookup.setdefault(each.lower(), lookup[each])
        return lookup

    def key(self, value: int | str) -> int | str | None:
        """Return one id as the table's type, as `keys` does; None for what is no id of it, and for an empty one."""
        if isinstance(value, int):
            return str(value) if self.text else value if self._low <= value < self._high else None
        if self.text:
            return value.encode("utf-8", "backslashreplace").decode().strip() or None  # as `objects_to_arrow` does
        if _INTEGER.fullmatch(value):
            return self.key(int(value))
        key: int | None = self.keys([value])[0].as_py()
        return key

    def keys(self, ids: Any) -> pa.Array:
        """Return ids [M] in any form as the table's type; null for what is no id of it, and for an empty one.

        Raises:
            DataError: they are pairs, or of no type that ids have.
        """
        keys = ids_like(ids, self._ids)
        return pc.if_else(pc.equal(keys, ""), pa.scalar(None, keys.type), keys) if self.text else keys

    def number(self, key: int | str) -> int:
        """Return the number of a key, −1 if it has none."""
        number = self._lookup.get(key, -1)
        return self._lookup.get(key.lower(), -1) if number < 0 and _is_uuid(key) else number

    def find(self, keys: pa.Array) -> np.ndarray:
        """Return the numbers [M] of keys, −1 for those that have none, and for null."""
        rows = places(keys, self.ids)
        return np.where(rows < 0, -1, self._numbers.take(rows, mode="clip") if len(self._numbers) else -1)

    def holds(self, numbers: np.ndarray) -> np.ndarray:
        """Return a mask [M] of the numbers that are of this kind."""
        all_numbers = self.numbers
        if not all_numbers.size:
            return np.zeros(numbers.shape, dtype=bool)
        mask: np.ndarray = all_numbers.take(np.searchsorted(all_numbers, numbers), mode="clip") == numbers
        return mask

    def id(self, number: int) -> int | str | None:
        """Return the id of one number, None if it is not of this kind."""
        place = int(self.numbers.searchsorted(number))
        if place == len(self._numbers) or self._numbers[place] != number:
            return None
        value: int | str = self._ids[place].as_py()
        return value

    def take(self, numbers: np.ndarray) -> pa.Array:
        """Return the ids of numbers [M], all of this kind."""
        return self.ids.take(pa.array(np.searchsorted(self._numbers, numbers)))

    def append(self, key: int | str, number: int) -> None:
        """Add an id with a number above all others."""
        key = key.lower() if _is_uuid(key) else key
        self._lookup[key] = number
        self._later.append((key, number))

    def extend(self, keys: pa.Array, numbers: np.ndarray) -> None:
        """Add ids [M], with ascending numbers above all others."""
        self._ids = pa.concat_arrays([self.ids, keys])
        self._numbers = np.concatenate([self._numbers, numbers])
        if "_lookup" in self.__dict__:
            self._lookup.update(zip(keys.to_pylist(), numbers.tolist(), strict=True))

    def _join(self) -> None:
        """Join the ids that were added one by one to the others."""
        if self._later:
            keys, numbers = zip(*self._later, strict=True)
            self._later.clear()
            self._ids = pa.concat_arrays([self._ids, pa.array(keys, self._ids.type)])
            self._numbers = np.concatenate([self._numbers, np.array(numbers, dtype=np.int64)])


def number_new(tables: Sequence[IdTable], arrays: Sequence[pa.Array], numbers: Sequence[np.ndarray], count: int) -> int:
    """Number ids without a number from `count` on, in the order of rows and of columns in a row, and add them.

    Args:
        tables: of each column's ids; columns may share one. arrays: columns [M] of keys. numbers: of the keys, −1 for
            those that have none, which are completed.

    Returns:
        The count after them.
    """
    news: list[tuple[IdTable, pa.Array, np.ndarray]] = []
    for table in dict.fromkeys(tables):
        rows, values = [], []
        for part, ids in enumerate(arrays):
            if tables[part] is table:
                unknown = np.flatnonzero(numbers[part] < 0)
                rows.append(unknown * len(tables) + part)
                values.append(ids.take(pa.array(unknown)))
        ranks = np.concatenate(rows)
        order = np.argsort(ranks)
        encoded = _one_case(pa.concat_arrays(values)).take(pa.array(order)).dictionary_encode()
        first = np.unique(encoded.indices.to_numpy(), return_index=True)[1]
        news.append((table, encoded.dictionary, ranks[order][first]))
    firsts = np.concatenate([first for *_, first in news])
    fresh = np.empty(firsts.size, dtype=np.int64)
    fresh[np.argsort(firsts)] = np.arange(count, count + firsts.size)
    borders = np.cumsum([len(ids) for _, ids, _ in news])[:-1]
    for (table, ids, _), each in zip(news, np.split(fresh, borders), strict=True):
        table.extend(ids, each)
    for table, ids, each in zip(tables, arrays, numbers, strict=True):
        unknown = np.flatnonzero(each < 0)
        each[unknown] = table.find(ids.take(pa.array(unknown)))
    return count + firsts.size


def _one_case(ids: pa.Array) -> pa.Array:
    """Return new ids with UUIDs in lower case, as `id_column` writes them."""
    if not pa.types.is_string(ids.type):
        return ids
    uuids = are_uuids(ids)
    return pc.if_else(pa.array(uuids), pc.utf8_lower(ids), ids) if uuids.any() else ids


def _is_uuid(key: Any) -> TypeGuard[str]:
    return isinstance(key, str) and len(key) == 36 and _UUID.fullmatch(key) is not None
