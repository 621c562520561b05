"""Ids of a stream's nodes: the user's own ids, in one kind or two, and their numbering from 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import torch

from mspipe_triton.data.names import plain_name
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

    def of(self, nodes: torch.Tensor | np.ndarray | Iterable[int]) -> list[Any]:
        """Return the ids of nodes; with two kinds, pairs (kind, id)."""
        numbers = torch.as_tensor(nodes if isinstance(nodes, torch.Tensor) else np.asarray(list(nodes), np.int64))
        if not self.kinds:
            return list(self.ids[0].take(pa.array(numbers.numpy())).to_pylist())
        first = len(self.ids[0])
        return [
            (self.kinds[number >= first], self.ids[number >= first][number - first * (number >= first)].as_py())
            for number in numbers.tolist()
        ]

    def find(self, ids: Any, kind: str | None = None) -> np.ndarray:
        """Return the nodes [M] of ids (a list, or an Arrow array), −1 for an id that no node has.

        Args:
            kind: the kind of all these ids; needed if there are two.

        Raises:
            DataError: the kind is missing or unknown.
        """
        number = self.number_of_kind(kind)
        table, start = self.ids[number], sum(len(each) for each in self.ids[:number])
        sought = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else _sought(list(ids))
        if sought.type != table.type:
            sought = converted(sought, table.type)
        place = pc.index_in(sought, value_set=table)
        numbers = pc.fill_null(pc.cast(place, pa.int64()), -1).to_numpy(zero_copy_only=False)
        return np.where(numbers < 0, -1, numbers + start)

    def number_of_kind(self, kind: str | None) -> int:
        """Return 0 or 1 for the name of a kind; 0 if there is only one.

        Raises:
            DataError: the kind is missing or unknown.
        """
        if not self.kinds:
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
        about = {"kinds": "\n".join(self.kinds), "types": "\n".join(str(each.type) for each in self.ids)}
        pyarrow.parquet.write_table(self.table().replace_schema_metadata(about), path)

    @staticmethod
    def load(path: Path) -> NodeIds:
        """Read what `save` wrote."""
        table = pyarrow.parquet.read_table(path)
        about = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        kinds = tuple(filter(None, about["kinds"].split("\n")))
        parts = [table.filter(pc.equal(table["kind"], kind)) for kind in kinds] if kinds else [table]
        types = [pa.type_for_alias(name) for name in about["types"].split("\n")]
        ids = (pc.cast(part["id"].combine_chunks(), kind) for part, kind in zip(parts, types, strict=True))
        return NodeIds(tuple(ids), kinds)


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


def _sought(ids: list[Any]) -> pa.Array:
    """Convert a list of ids, perhaps of mixed types or too large for integers, to Arrow."""
    try:
        return pa.array(ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if each is None else str(each) for each in ids], pa.string())


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
