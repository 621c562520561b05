"""Loading of the stream that a run's data settings name, and a short form of its contents, to detect changes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.readers import read
from mspipe_triton.data.split import split_if_possible, split_stream, split_text
from mspipe_triton.data.synthetic import synthetic_stream
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.errors import ConfigError

FILES = ("path", "edge_features", "node_features")  # the settings of DataConfig that name files
_CHUNK_BYTES, _CHUNK_IDS, _ROWS = 2**24, 2**16, 2**16


def load_stream(data: DataConfig) -> EventStream:
    """Load the stream that a run's data settings name.

    Raises:
        InputError: the settings name no stream, or one that cannot be read.
    """
    if data.path == "":
        raise ConfigError(
            "the data settings name no file, since the events were passed from Python; pass them "
            "again (stream=), or name their file"
        )
    if data.history:
        raise ConfigError(f"history {data.history!r} is for `train` and `evaluate`, which continue that run; omit it")
    if data.path == "synthetic":
        plain = replace(data, split_at="")
        changed = [each.name for each in fields(plain) if getattr(plain, each.name) != getattr(DataConfig(), each.name)]
        if changed:
            flag = f"--{changed[0].replace('_', '-')}"
            raise ConfigError(
                f"{flag} is for a table, not for the built-in stream; write one with `mspipe-triton data generate`"
            )
        stream = split_stream(synthetic_stream(), data.split_at)
        assert stream.source is not None
        return replace(stream, source=replace(stream.source, data=data))
    return read(data)


def with_absolute_paths(data: DataConfig) -> DataConfig:
    """Return data settings whose files and folders do not depend on the working folder."""
    names = [name for name in (*FILES, "history") if getattr(data, name) not in ("", "synthetic")]
    paths: dict[str, Any] = {name: str(Path(getattr(data, name)).absolute()) for name in names}
    return replace(data, **paths)


def data_of(stream: EventStream, data: DataConfig) -> DataConfig:
    """Return the settings that read a stream from Python again, with absolute paths.

    They are those that read it, otherwise `data` if it names a file. Otherwise their path is "", and the other settings
    read a file of the same numbers as they are. The latter two split it as it is split.
    """
    if stream.source is not None and stream.source.data is not None:
        return with_absolute_paths(stream.source.data)
    split_at = "" if stream.borders is None else split_text(stream, stream.borders)
    if data.path not in ("", DataConfig().path):
        return replace(with_absolute_paths(data), split_at=split_at)
    kinds = stream.ids is not None and bool(stream.ids.kinds)
    return DataConfig(path="", bipartite=kinds, one_kind=not kinds, raw_features=True, split_at=split_at)


@dataclass(frozen=True)
class Contents:
    """A stream's contents in short: a run's data have changed if these have, apart from the split.

    Args:
        fingerprint: digest of the events, the features and the user's node ids.
        events, nodes: their numbers. edge_features: the width of the edge features.
        parts: a digest by part: "ids", "sources and destinations", "times", "edge features", "node features", "labels".
        train_end, val_end: the split; 0 if the events cannot be split.
        start: the number of events that are history.
    """

    fingerprint: str
    events: int
    nodes: int
    edge_features: int
    parts: Mapping[str, str]
    train_end: int
    val_end: int
    start: int = 0

    @staticmethod
    def of(stream: EventStream) -> Contents:
        """Compute a stream's contents, which reads all of it once."""
        parts, split = _digests(stream), split_if_possible(stream) or Split(0, 0)
        counts = len(stream), stream.num_nodes, stream.dim_edge
        return Contents(_fingerprint(parts), *counts, parts, *split, stream.start)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Contents:
        """Return the contents that `record` describes."""
        names = ("fingerprint", "events", "nodes", "parts", "train_end", "val_end")
        return Contents(
            **{name: record[name] for name in names}, edge_features=record["dim_edge"], start=record["history"]
        )

    @property
    def split(self) -> Split:
        """The split of the events."""
        return Split(self.train_end, self.val_end)

    def changes(self, now: Contents, labels: bool) -> list[str]:
        """Return the names of the parts that differ; labels count only if they are learned."""
        return [name for name in self.parts if self.parts[name] != now.parts.get(name) and (labels or name != "labels")]

    def __str__(self) -> str:
        """Describe the contents, as in "600 events, 60 nodes and edge features of width 3"."""
        features = f"edge features of width {self.edge_features}" if self.edge_features else "no edge features"
        return f"{self.events:,} events, {self.nodes:,} nodes and {features}"


def fingerprint(stream: EventStream) -> str:
    """Digest of the events, the features as float32, and the user's node ids, to detect that a run's data have changed.

    Columns are read in chunks, so a table in a memory-mapped file never is in memory as a whole. Ids that equal the
    numbers 0 … N − 1 of their nodes count as none.
    """
    return _fingerprint(_digests(stream))


def _fingerprint(parts: Mapping[str, str]) -> str:
    return _digest(part.encode() for name, part in parts.items() if name != "labels")


def _digests(stream: EventStream) -> dict[str, str]:
    """Return a digest of each part of a stream."""
    nodes, labels = stream.node_features, stream.labels
    return {
        "ids": _digest(() if stream.ids is None else _id_parts(stream.ids)),
        "sources and destinations": _digest(chain(_chunks(stream.src), _chunks(stream.dst))),
        "times": _digest(_chunks(stream.t)),
        "edge features": _digest(_edge_chunks(stream)),
        "node features": _digest(() if nodes is None else _chunks(nodes)),
        "labels": _digest(() if labels is None else _chunks(labels.double())),
    }


def _digest(chunks: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _edge_chunks(stream: EventStream) -> Iterator[Any]:
    """Yield the bytes of the final edge features as float32."""
    for start in range(0, len(stream) if stream.dim_edge else 0, _ROWS):
        rows = stream.edge_rows(start, start + _ROWS)
        assert rows is not None
        yield _bytes(rows.float())


def record(stream: EventStream, contents: Contents, scale: TimeScale) -> dict[str, Any]:
    """Return what reading and scaling did to a stream, for `data.json` of a run folder.

    Unknown values are null or empty.
    """
    source = stream.source
    edge, node = (None, None) if source is None else (source.features, source.node_features)
    return {
        "name": stream.name,
        **{name: value for name, value in asdict(contents).items() if name not in ("edge_features", "start")},
        "history": contents.start,
        "dim_edge": stream.dim_edge,
        "dim_node": stream.dim_node,
        "format": "" if source is None else source.form,
        "kinds": [] if stream.ids is None else list(stream.ids.kinds),
        "roles": {} if source is None else dict(source.roles),
        "time": "" if source is None else source.time,
        "time_scale": asdict(scale),
        "notes": [] if source is None else list(source.notes),
        "features": None if edge is None else edge.to_json(),
        "node_features": None if node is None else node.to_json(),
    }


def _chunks(column: torch.Tensor) -> Iterator[Any]:
    """Yield the bytes of a column [E] or table [E, F] in the order of its rows; features as float32."""
    rows = max(1, _CHUNK_BYTES // max(1, column[:1].numel() * column.element_size()))
    for chunk in column.split(rows):
        yield _bytes(chunk.float() if column.dim() == 2 else chunk)


def _bytes(values: torch.Tensor) -> Any:
    return values.contiguous().view(torch.uint8).numpy().data


def _id_parts(ids: NodeIds) -> Iterator[Any]:
    """Yield bytes that determine the ids and their kinds, whichever of the possible types hold them."""
    integers = [pa.types.is_integer(each.type) for each in ids.ids]
    if not ids.kinds and all(integers):
        numbers = ids.ids[0].to_numpy(zero_copy_only=False)
        if np.array_equal(numbers, np.arange(numbers.size)):
            return
    yield repr(ids.kinds).encode()
    for each, whole in zip(ids.ids, integers, strict=True):
        negative = whole and len(each) > 0 and each[0].as_py() < 0
        yield f"{len(each)} {('negative' if negative else 'integer') if whole else 'text'}".encode()
        for start in range(0, len(each), _CHUNK_IDS):
            part = each.slice(start, _CHUNK_IDS)
            if whole:
                yield part.to_numpy(zero_copy_only=False).view(np.uint8).data
            else:
                yield pc.binary_length(part).to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint8).data
                yield "".join(part.to_pylist()).encode()
