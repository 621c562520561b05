"""Ids of a stream's nodes: the user's own ids, in one kind or two, and their numbering from 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch

from mspipe_triton.data.id_columns import UUID, as_ids
from mspipe_triton.data.names import plain_name
from mspipe_triton.data.origin import shown
from mspipe_triton.data.tables import column_to_arrow
from mspipe_triton.errors import DataError


@dataclass(frozen=True, eq=False)
class NodeIds:
    """The user's ids of nodes 0 … N − 1: those of the first kind in ascending order, then those of the second.

    Args:
        ids: the ids of each kind, ascending, as an array of int64, uint64 or string.
        kinds: the names of the two kinds, as in ("user", "item"); () if all nodes are of one kind.
    """

    ids: tuple[pa.Array, ...]
    kinds: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of nodes."""
        return sum(len(each) for each in self.ids)

    def __repr__(self) -> str:
        """Say the number of nodes, of each kind, and the first ids."""
        parts = []
        for number, table in enumerate(self.ids):
            first = ", ".join([shown(each) for each in table[:3].to_pylist()] + (["…"] if len(table) > 3 else []))
            parts.append(f"{len(table):,} {self.kinds[number] if self.kinds else 'nodes'}: {first}")
        return f"NodeIds({'; '.join(parts)})"

    def of(self, nodes: torch.Tensor | np.ndarray | Iterable[int]) -> list[Any]:
        """Return the ids of nodes [M]; with two kinds, pairs (kind, id).

        Raises:
            DataError: `nodes` are not integers in one dimension, or one is not in 0 … N − 1.
        """
        numbers = node_numbers(nodes, len(self))
        if not self.kinds:
            return list(self.ids[0].take(pa.array(numbers)).to_pylist())
        first = len(self.ids[0])
        ids = np.empty(numbers.size, dtype=object)
        for kind, table, start in zip(self.kinds, self.ids, (0, first), strict=True):
            places = np.flatnonzero((numbers >= first) == (start > 0))
            for place, each in zip(places, table.take(pa.array(numbers[places] - start)).to_pylist(), strict=True):
                ids[place] = (kind, each)
        return list(ids)

    def find(self, ids: Any, kind: str | None = None) -> np.ndarray:
        """Return the nodes [M] of ids, −1 for an id that no node has, and for None.

        An id is read as in a table of events: beside integers "1.0" is 1, and UUIDs are their text.

        Args:
            ids: a list, an array, a tensor, a series or an Arrow array, in one dimension.
            kind: the kind of all these ids; needed if there are two.

        Raises:
            DataError: the kind is missing or unknown, or the ids are a single one, pairs, or of no type that ids have.
        """
        number = self.number_of_kind(kind)
        table, start = self.ids[number], sum(len(each) for each in self.ids[:number])
        numbers = places(ids_like(ids, table), table)
        return np.where(numbers < 0, -1, numbers + start)

    def number_of_kind(self, kind: str | None) -> int:
        """Return 0 or 1 for the name of a kind; 0 if there is only one.

        Raises:
            DataError: the kind is missing or unknown.
        """
        if not self.kinds:
            if kind is not None:
                raise DataError(f"kind is {kind!r}, but all nodes are of one kind; omit kind")
            return 0
        plain = plain_name(kind or "")
        for aliases in ([plain_name(name) for name in self.kinds], ["src", "dst"], ["user", "item"]):
            if plain in aliases:
                return aliases.index(plain)
        raise DataError(f"kind {kind!r} is not one of {', '.join(self.kinds)}; nodes are of two kinds, so name one")

    def table(self) -> pa.Table:
        """Return a table with a row per node: `id`, after `kind` if there are two. Mixed types of ids become text."""
        types = {each.type for each in self.ids}
        parts = [each if len(types) == 1 else pc.cast(each, pa.string()) for each in self.ids]
        columns = {"id": pa.concat_arrays(parts)}
        if self.kinds:
            names = [name for name, each in zip(self.kinds, self.ids, strict=True) for _ in range(len(each))]
            columns = {"kind": pa.array(names, pa.string()), **columns}
        return pa.table(columns)

    def save(self, path: Path) -> None:
        """Write `table` as Parquet, with the types of the ids in its metadata."""
        write_table(self.table(), self.kinds, [each.type for each in self.ids], path)

    @staticmethod
    def load(path: Path) -> NodeIds:
        """Read what `save` wrote."""
        kinds, parts = read_table(path)
        return NodeIds(tuple(ids for ids, _ in parts), kinds)


def write_table(table: pa.Table, kinds: Sequence[str], types: Sequence[pa.DataType], path: Path) -> None:
    """Write a table of ids as Parquet, with the kinds and the type of each kind's ids in its metadata."""
    about = {"kinds": "\n".join(kinds), "types": "\n".join(map(str, types))}
    pyarrow.parquet.write_table(table.replace_schema_metadata(about), path)


def read_table(path: Path) -> tuple[tuple[str, ...], list[tuple[pa.Array, np.ndarray]]]:
    """Read what `write_table` wrote: the kinds, and the ids of each kind, or of all nodes, with their rows."""
    table = pyarrow.parquet.read_table(path)
    about = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    kinds = tuple(filter(None, about["kinds"].split("\n")))
    every = np.ones(table.num_rows, dtype=bool)
    masks = [pc.equal(table["kind"], kind).to_numpy() for kind in kinds] if kinds else [every]
    types, ids = [pa.type_for_alias(name) for name in about["types"].split("\n")], table["id"].combine_chunks()
    parts = zip(masks, types, strict=True)
    return kinds, [(pc.cast(ids.filter(pa.array(mask)), kind), np.flatnonzero(mask)) for mask, kind in parts]


def node_numbers(nodes: Any, count: int) -> np.ndarray:
    """Return nodes as numbers [M] int64.

    Raises:
        DataError: they are not integers in one dimension, or one is not in 0 … `count` − 1.
    """
    fix = "give integers in one dimension, such as stream.src[:3]"
    if isinstance(nodes, str | bytes) or not isinstance(nodes, torch.Tensor | Iterable):
        raise DataError(f"nodes is {shown(nodes)}; {fix}")
    sized = isinstance(nodes, torch.Tensor) or hasattr(nodes, "__array__")
    try:
        numbers = np.asarray(nodes.cpu() if isinstance(nodes, torch.Tensor) else nodes if sized else list(nodes))
    except ValueError as error:
        raise DataError(f"nodes differ in length; {fix}") from error
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise DataError(f"nodes have type {numbers.dtype} and shape {list(numbers.shape)}; {fix}")
    wrong = (numbers < 0) | (numbers >= count)
    if wrong.any():
        raise DataError(f"node {numbers[wrong][0]} is not one of the {count:,} nodes; give 0 to {count - 1}")
    return numbers.astype(np.int64)


def number_nodes(src: pa.Array, dst: pa.Array, kinds: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray, NodeIds]:
    """Number nodes from 0 in ascending order of their ids, apart for each of two kinds.

    Args:
        src, dst: [E] ids as int64, uint64 or string, without nulls.
        kinds: the names of two kinds, or () for one numbering.

    Returns:
        The nodes [E] int64 of src and of dst, and the ids of all nodes.
    """
    if kinds:
        sources, first = _number(src)
        destinations, second = _number(dst)
        return sources, destinations + len(first), NodeIds((first, second), kinds)
    if src.type != dst.type:
        common = common_type(src.type, dst.type, (src, dst))
        src, dst = (converted(each, common) for each in (src, dst))
    numbers, ids = _number(pa.concat_arrays([src, dst]))
    return numbers[: len(src)], numbers[len(src) :], NodeIds((ids,))


def ids_like(ids: Any, table: pa.Array) -> pa.Array:
    """Convert ids in any form to the type of a table's ids, as beside these; an id that it cannot hold becomes null.

    Raises:
        DataError: they are a single id, pairs, or of no type that ids have.
    """
    column = _column(ids)
    try:
        values = as_ids(column, table)
    except pa.ArrowException as error:
        raise DataError(f"ids are of type {column.type}; give integers or text in one dimension") from error
    return values if values.type == table.type else converted(values, table.type)


def is_single(ids: Any) -> bool:
    """Return True for one id, False for a column of ids."""
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return False
    return isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0


def _column(ids: Any) -> pa.Array | pa.ChunkedArray:
    """Convert ids in any form to Arrow.

    Raises:
        DataError: they are a single id, pairs, or of no type that ids have.
    """
    if is_single(ids):
        raise DataError(f"ids is {shown(ids)}, not a list of ids; give a list, as in [id]")
    column = ids if hasattr(ids, "__len__") and not isinstance(ids, set | frozenset) else list(ids)
    if isinstance(column, list | tuple) and any(isinstance(each, tuple) for each in column):
        raise DataError("ids are pairs; give ids of one kind, as in find(['ann'], kind='user')")
    return column_to_arrow(column, "find", "ids")


def places(ids: pa.Array, table: pa.Array) -> np.ndarray:
    """Return the places [M] int64 of ids in a table of the same type, −1 for those that it does not have, and for null.

    The case of UUIDs means nothing.
    """
    numbers = _places(ids, table)
    if pa.types.is_string(table.type) and (numbers < 0).any():
        uuids = (numbers < 0) & are_uuids(ids)
        if uuids.any():
            numbers[uuids] = _places(pc.utf8_lower(ids.filter(pa.array(uuids))), pc.utf8_lower(table))
    return numbers


def are_uuids(ids: pa.Array) -> np.ndarray:
    """Return a mask [M] of the texts that are UUIDs."""
    return np.array(pc.fill_null(pc.match_substring_regex(ids, UUID), False).to_numpy(zero_copy_only=False))


def _places(ids: pa.Array, table: pa.Array) -> np.ndarray:
    """Return the places [M] int64 of values in a table, −1 for those that it does not have, and for null."""
    numbers = pc.index_in(ids, value_set=table, skip_nulls=True)
    return np.array(pc.fill_null(pc.cast(numbers, pa.int64()), -1).to_numpy(zero_copy_only=False))


def compact_ids(src: np.ndarray, dst: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map integer ids to 0 … N − 1 in ascending order; returns new src, new dst and the [N] original ids."""
    numbers, ids = _compact(np.concatenate([src, dst]))
    return numbers[: src.size], numbers[src.size :], ids


def _number(ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Number ids [E] in ascending order; returns the numbers and the distinct ids."""
    if pa.types.is_integer(ids.type):
        numbers, distinct = _compact(ids.to_numpy(zero_copy_only=False))
        return numbers, pa.array(distinct, ids.type)
    encoded = ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def _compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number integers in ascending order, in linear time if they are fairly dense, otherwise by sorting."""
    smallest, largest = int(ids.min(initial=0)), int(ids.max(initial=0))
    if smallest >= 0 and largest < 8 * ids.size + 1024:
        present = np.zeros(largest + 1, dtype=bool)
        present[ids] = True
        distinct = np.flatnonzero(present)
        if distinct.size == present.size:
            return ids.astype(np.int64), distinct
        return (np.cumsum(present) - 1)[ids], distinct
    distinct, numbers = np.unique(ids, return_inverse=True)
    return numbers, distinct


def common_type(first: pa.DataType, second: pa.DataType, ids: Iterable[pa.Array]) -> pa.DataType:
    """Return the type that holds ids of two types exactly: uint64 for integers ≥ 0, otherwise text."""
    integers = pa.types.is_integer(first) and pa.types.is_integer(second)
    if integers and all(pa.types.is_integer(each.type) and (pc.min(each).as_py() or 0) >= 0 for each in ids):
        return pa.uint64()
    return pa.string()


def converted(ids: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert ids to a type; an id that it cannot hold becomes null, as does "01" for integers."""
    if pa.types.is_string(ids.type) and pa.types.is_integer(kind):
        ids = pc.if_else(pc.match_substring_regex(ids, r"^(0|-?[1-9]\d*)$"), ids, pa.scalar(None, pa.string()))
    try:
        return pc.cast(ids, kind)
    except pa.ArrowInvalid:
        values = []
        for each in ids.to_pylist():
            try:
                values.append(pa.scalar(each).cast(kind).as_py())
            except pa.ArrowInvalid:
                values.append(None)
        return pa.array(values, kind)
