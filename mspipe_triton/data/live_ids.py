"""Ids of a run's nodes and of nodes that appear later, which are numbered in order of their first occurrence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mspipe_triton.data.id_table import IdTable, number_new
from mspipe_triton.data.ids import NodeIds, is_single, node_numbers, read_table, write_table
from mspipe_triton.data.origin import plain_value, shown
from mspipe_triton.data.spelling import same_but_for_form, similar
from mspipe_triton.data.tables import column_to_arrow
from mspipe_triton.errors import DataError

Place = Callable[[int], str]
_FEW = 256  # ids that are looked up one by one, which beats a vectorised look-up among many nodes


class _Part(NamedTuple):
    """One column of ids: the table of its kind, its name, its ids as the user wrote them, and as the table's type.

    The latter are a list if they are few, otherwise an Arrow array.
    """

    table: IdTable
    name: str
    ids: Any
    keys: Any


class LiveIds:
    """Ids of nodes 0 … N − 1, to which new nodes are added: they get the numbers N, N + 1, … across both kinds.

    An id is read as in a table of events: beside integers "1.0" is 1, and the case of UUIDs means nothing. Ids are
    plain, and their kind is named beside them: 0 for sources and 1 for destinations, if nodes are of two kinds. With
    one kind, `kind` has no effect.
    """

    def __init__(self, ids: NodeIds | None, nodes: int = 0) -> None:
        """Start with a stream's ids, or with the integers 0 … `nodes` − 1 if it has none."""
        ids = NodeIds((pa.array(np.arange(nodes)),)) if ids is None else ids
        ends = np.cumsum([0, *map(len, ids.ids)])
        self._start(ids.kinds, [(each, np.arange(*span)) for each, span in zip(ids.ids, pairwise(ends), strict=True)])

    def _start(self, kinds: tuple[str, ...], parts: Sequence[tuple[pa.Array, np.ndarray]]) -> None:
        self.kinds = kinds
        self._tables = [IdTable(*part) for part in parts]
        self._count = sum(map(len, self._tables))

    def __len__(self) -> int:
        """Number of nodes."""
        return self._count

    def numbers(self, ids: Any, kind: int | None = None, add: bool = False) -> np.ndarray:
        """Return the numbers [M] int64 of ids.

        Args:
            ids: a list, an array, a tensor, a series or an Arrow array, in one dimension, or one id.
            kind: 0 or 1; needed if nodes are of two kinds.
            add: number ids that no node has, in order of their first occurrence; False returns −1 for them, and for
                what is no id.

        Raises:
            DataError: the kind is missing, the ids are pairs or of no type that ids have; or, with `add`, one is empty
                or does not fit the type of the run's ids. Nothing is added then.
        """
        place = self._kind(kind)
        return self._numbers([self._part(place, ids, self.kinds[place] if self.kinds else "id")], add, None)[0]

    def ends(
        self,
        src: Any,
        dst: Any,
        add: bool = False,
        place: Place | None = None,
        names: tuple[str, str] = ("src", "dst"),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers [M] of the sources and of the destinations of events.

        New nodes are numbered event by event, the source first, so that events get the same numbers one by one.

        Args:
            src, dst, add: as `ids` and `add` of `numbers`.
            place: names an event in messages. names: of sources and destinations there.

        Raises:
            DataError: as `numbers`; or the lengths differ.
        """
        sources, destinations = self._numbers(self._ends(src, dst, names), add, place)
        return sources, destinations

    def fitting(
        self, src: Any, dst: Any, place: Place | None = None, names: tuple[str, str] = ("src", "dst")
    ) -> tuple[Any, Any]:
        """Return the ids of events in the type of the run's, which `ends` can add; arguments and errors as there.

        Returns:
            Columns of M ids: lists, or Arrow arrays if they are many.
        """
        sources, destinations = self._ends(src, dst, names)
        self._refuse_empty((sources, destinations), place)
        return sources.keys, destinations.keys

    def typed(self, ids: Any, kind: int | None = None) -> pa.Array:
        """Return ids [M] in the type of those of the kind; null for what is no id of it."""
        return self._tables[self._kind(kind)].keys(ids)

    def check(self, ids: Any, kind: int | None, name: str) -> None:
        """Refuse ids that no new node can have, as `numbers` does with `add`; `name` is theirs in messages.

        Raises:
            DataError: about the first that is empty, or does not fit the type of the run's ids.
        """
        self._refuse_empty([self._part(self._kind(kind), ids, name)], None, "correct it")

    def of_kind(self, kind: int) -> np.ndarray:
        """Return the numbers [K] of all nodes of a kind, ascending."""
        return self._tables[kind].numbers

    def of(self, numbers: torch.Tensor | np.ndarray | Sequence[int]) -> list[Any]:
        """Return the ids of nodes [M]; with two kinds, pairs (kind, id).

        Raises:
            DataError: they are not integers in one dimension, or one is not in 0 … N − 1.
        """
        nodes = node_numbers(numbers, len(self))
        if not self.kinds:
            return list(self._tables[0].take(nodes).to_pylist())
        ids = np.empty(nodes.size, dtype=object)
        for kind, rows, values in self._by_kind(nodes):
            for row, value in zip(rows, values.to_pylist(), strict=True):
                ids[row] = (self.kinds[kind], value)
        return list(ids)

    def plain(self, numbers: torch.Tensor) -> list[Any]:
        """Return the ids of nodes [M] without their kinds."""
        if numbers.numel() > _FEW:
            return list(self.column(numbers.numpy()).to_pylist())
        tables = self._tables[::-1]  # most questions are about destinations
        few = ((table.id(number) for table in tables) for number in numbers.tolist())
        return [next(each for each in row if each is not None) for row in few]

    def column(self, numbers: np.ndarray) -> pa.Array:
        """Return the ids of nodes [M] without their kinds, null for −1; if both kinds occur, mixed types become text.

        Raises:
            DataError: a number is not in −1 … N − 1.
        """
        node_numbers(numbers[numbers >= 0], len(self))
        order, parts = [np.flatnonzero(numbers < 0)], list[pa.Array]()
        for _, rows, values in self._by_kind(numbers):
            order.append(rows)
            parts.append(values)
        parts = _of_one_type([part for part in parts if len(part)] or parts[:1])
        ids = pa.concat_arrays([pa.nulls(order[0].size, parts[0].type), *parts])
        return ids.take(pa.array(np.argsort(np.concatenate(order))))

    def spelling(self, id: Any, kind: int | None = None) -> Any:
        """Return a known id that an unknown one may stand for, or None.

        It differs in case, in blanks or as a number in text ("007" and 7); or it is of the other kind, and returned as
        a pair (kind, id); or it is text with a few other letters.
        """
        place = self._kind(kind)
        table, text = self._tables[place], str(id)
        if (same := same_but_for_form(table, text)) is not None:
            return same
        number = self.numbers(id, 1 - place)[0] if self.kinds else -1
        if number >= 0:
            return self.of([number])[0]
        return similar(table, text)

    def table(self) -> pa.Table:
        """Return a table with a row per node in the order of their numbers: `id`, after `kind` if there are two.

        Mixed types of ids become text.
        """
        order = np.argsort(np.concatenate([table.numbers for table in self._tables]))
        columns = {"id": pa.concat_arrays(_of_one_type([table.ids for table in self._tables]))}
        if self.kinds:
            lengths = [len(table) for table in self._tables]
            columns = {"kind": pa.array(np.repeat(np.array(self.kinds), lengths), pa.string()), **columns}
        return pa.table(columns).take(pa.array(order))

    def copy(self) -> LiveIds:
        """Return these ids, without nodes that are added later."""
        ids = LiveIds(None)
        ids._start(self.kinds, [(table.ids, table.numbers) for table in self._tables])
        return ids

    def save(self, path: Path) -> None:
        """Write `table` as Parquet, with the types of the ids in its metadata, as `NodeIds.save` does."""
        write_table(self.table(), self.kinds, [table.ids.type for table in self._tables], path)

    @staticmethod
    def load(path: Path) -> LiveIds:
        """Read what `save` or `NodeIds.save` wrote; a node's number is its row."""
        ids = LiveIds(None)
        ids._start(*read_table(path))
        return ids

    def _kind(self, kind: int | None) -> int:
        if not self.kinds:
            return 0
        if kind not in (0, 1):
            first, second = self.kinds
            fix = f"give 0 for {first}, or 1 for {second}"
            raise DataError(f"kind is {shown(kind)}, but nodes are of two kinds; {fix}")
        return kind

    def _part(self, kind: int, ids: Any, name: str) -> _Part:
        """Read a column of ids, a few of them to a list."""
        table, column = self._tables[kind], [plain_value(ids)] if is_single(ids) else ids
        column = column if hasattr(column, "__len__") and not isinstance(column, set | frozenset) else list(column)
        if isinstance(column, list | tuple) and len(column) <= _FEW and {str, int}.issuperset(map(type, column)):
            return _Part(table, name, column, [table.key(each) for each in column])
        keys = table.keys(column)
        return _Part(table, name, column, keys.to_pylist() if len(keys) <= _FEW else keys)

    def _ends(self, src: Any, dst: Any, names: tuple[str, str]) -> list[_Part]:
        """Read the columns of the ends of events.

        Raises:
            DataError: the lengths differ.
        """
        parts = [self._part(0, src, names[0]), self._part(len(self._tables) - 1, dst, names[1])]
        lengths = [len(part.keys) for part in parts]
        if lengths[0] != lengths[1]:
            raise DataError(f"src has {lengths[0]} ids and dst has {lengths[1]}; give one each per event")
        return parts

    def _refuse_empty(
        self, parts: Sequence[_Part], place: Place | None, fix: str = "correct it, or omit the event"
    ) -> None:
        """Refuse ids that are empty or do not fit."""
        for part in parts:
            if isinstance(part.keys, list):
                if None in part.keys:
                    self._refuse(part, part.keys.index(None), place, fix)
            elif part.keys.null_count:
                self._refuse(part, int(pc.index(part.keys.is_null(), True).as_py()), place, fix)

    def _numbers(self, parts: Sequence[_Part], add: bool, place: Place | None) -> list[np.ndarray]:
        """Return the numbers of each part's ids."""
        if add:
            self._refuse_empty(parts, place)
        if isinstance(parts[0].keys, list):
            rows = zip(*(part.keys for part in parts), strict=True)
            few = [[self._number(part.table, key, add) for part, key in zip(parts, row, strict=True)] for row in rows]
            return list(np.array(few, dtype=np.int64).reshape(-1, len(parts)).T)
        arrays = [part.keys for part in parts]
        numbers = [part.table.find(keys) for part, keys in zip(parts, arrays, strict=True)]
        if add and any((each < 0).any() for each in numbers):
            self._count = number_new([part.table for part in parts], arrays, numbers, self._count)
        return numbers

    def _number(self, table: IdTable, key: Any, add: bool) -> int:
        """Return the number of one id, a new one if it has none."""
        number = -1 if key is None else table.number(key)
        if number < 0 and add:
            number = self._count
            table.append(key, number)
            self._count += 1
        return number

    def _refuse(self, part: _Part, row: int, place: Place | None, fix: str) -> NoReturn:
        """Raise the error about an id that cannot be added.

        Raises:
            DataError: always.
        """
        ids, row_of_ids = ([part.ids[row]], 0) if isinstance(part.ids, list | tuple) else (part.ids, row)
        value = column_to_arrow(ids, "ids", part.name)[row_of_ids].as_py()
        subject = part.name if place is None else f"{place(row)}: {part.name}"
        if value is None or (isinstance(value, str | bytes) and not value.strip()):
            raise DataError(f"{subject} is empty; give an id")
        kind = "text" if part.table.text else f"an integer of {part.table.ids.type}"
        raise DataError(f"{subject} is {shown(value)}, not {kind}, as the run's ids are; {fix}")

    def _by_kind(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray, pa.Array]]:
        """Yield each kind with the rows of its nodes and their ids."""
        for kind, table in enumerate(self._tables):
            rows = np.flatnonzero(table.holds(numbers))
            yield kind, rows, table.take(numbers[rows])


def _of_one_type(parts: Sequence[pa.Array]) -> list[pa.Array]:
    return list(parts) if len({part.type for part in parts}) == 1 else [pc.cast(part, pa.string()) for part in parts]
