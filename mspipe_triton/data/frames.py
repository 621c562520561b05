"""Streams from tables in memory, and from and to PyG's `TemporalData`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mspipe_triton.config import DataConfig
from mspipe_triton.data.assembly import assemble
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.sheets import ArrowSheet
from mspipe_triton.data.tables import table_of
from mspipe_triton.errors import DataError


def stream_of(
    frame: Any,
    src: str | None = None,
    dst: str | None = None,
    t: str | None = None,
    label: str | None = None,
    features: Sequence[str] | str | None = None,
    *,
    sort: bool = False,
    bipartite: bool = False,
    one_kind: bool = False,
    raw_features: bool = False,
    edge_features: Any = None,
    node_features: Any = None,
    name: str = "frame",
) -> EventStream:
    """Make a stream of a table in memory; see `EventStream.of`."""
    choice = {"src": src, "dst": dst, "t": t, "label": label}
    columns = {role: str(column) for role, column in choice.items() if column is not None}
    if features is not None:
        columns["features"] = features if isinstance(features, str) else ",".join(features)
    data = DataConfig("", columns, sort, bipartite, one_kind, raw_features=raw_features)
    sheet = ArrowSheet(name, table_of(frame, name), is_file=False)
    return assemble([sheet], data, name, edge_features, node_features)


def from_temporal_data(data: Any, name: str = "temporal data") -> EventStream:
    """Make a stream of PyG's `TemporalData`: src, dst, t, with msg as edge features as they are, and y as labels.

    Its nodes are numbers already, so that they keep them, and rows of other tables still belong to them.

    Raises:
        DataError: a part is missing or invalid.
    """
    missing = [part for part in ("src", "dst", "t") if getattr(data, part, None) is None]
    if missing:
        raise DataError(f"{name}: has no {missing[0]}; TemporalData needs src, dst and t")
    message, labels = getattr(data, "msg", None), getattr(data, "y", None)
    if message is not None:
        message = message.reshape(len(data.src), -1)
        message = message if message.is_floating_point() else message.float()
    t = data.t if data.t.is_floating_point() else data.t.long()
    return EventStream(data.src, data.dst, t, message, labels=labels, name=name)


def to_temporal_data(stream: EventStream) -> Any:
    """Convert a stream to PyG's `TemporalData`, with node numbers as src and dst; edge features become msg, labels y.

    Raises:
        DataError: torch_geometric is not installed.
    """
    try:
        from torch_geometric.data import TemporalData
    except ImportError:
        raise DataError("torch_geometric is not installed; install it with pip install torch-geometric") from None
    parts = {"src": stream.src, "dst": stream.dst, "t": stream.t, "msg": stream.edge_rows(), "y": stream.labels}
    return TemporalData(**{part: values for part, values in parts.items() if values is not None})
