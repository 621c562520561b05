"""Event stream: validated arrays of sources, destinations, times and features, and their chronological split."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mspipe_triton.data.origin import Source
from mspipe_triton.data.scaling import Scaling, scaled_in_chunks
from mspipe_triton.data.stream_checks import check_finite, check_kinds, refuse
from mspipe_triton.errors import ConfigError, DataError
from mspipe_triton.placement import Placement

if TYPE_CHECKING:
    from mspipe_triton.data.ids import NodeIds  # it imports pyarrow, which streams of tensors do not need

MAX_NODE_ID = 2**31 - 1
_ITERATIONS = 10  # per epoch, at least, that a batch size should allow


class Split(NamedTuple):
    """Chronological split of a stream: training events up to train_end, validation events up to val_end, then test."""

    train_end: int
    val_end: int


@dataclass(frozen=True, eq=False, repr=False)
class EventStream:
    """Events in time order; events of equal time keep their order in the input.

    Args:
        src, dst: [E] integers ≥ 0, the numbers of nodes. They index the node tables, so number them without gaps.
        t: [E] int64 or float64, never decreasing, in any unit: runs scale them (see `data.time_scale`).
        edge_features: [E, F] floating point, or None; of any real dtype if `edge_scaling` scales them.
        node_features: [N, F] floating point, or None.
        labels: [E] one label per event, such as a state change of src, or None; NaN for an event without a label.
        num_nodes: N, the number of rows of node tables; by default the largest id + 1.
        name: name of the stream in messages and results.
        ids: the user's own ids of the nodes; None if they are the numbers 0 … N − 1 themselves.
        source: how the stream was read; None if it was made from tensors.
        edge_scaling: scales rows of `edge_features` as they are fetched, so that the table may be a memory-mapped file;
            its fit has checked that all are finite. None if the rows are final.
        borders: the split's numbers of events; None for 70/15/15.
        start: the number of events before training, the history of a run that continues another.

    Raises:
        DataError: lengths differ, an id, time or feature is out of range, times go back, or borders are no split of the
            events after `start`.
    """

    src: torch.Tensor
    dst: torch.Tensor
    t: torch.Tensor
    edge_features: torch.Tensor | None = None
    node_features: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    num_nodes: int = 0
    name: str = "stream"
    ids: NodeIds | None = None
    source: Source | None = None
    edge_scaling: Scaling | None = None
    borders: Split | None = None
    start: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        events = self.src.numel()
        for column in ("dst", "t", "edge_features", "labels"):
            values = getattr(self, column)
            if values is not None and values.shape[0] != events:
                raise DataError(f"{self.name}: {column} has {values.shape[0]} entries, src has {events}; give {events}")
        for column in ("src", "dst"):
            values = getattr(self, column)
            if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
                raise DataError(f"{self.name}: {column} must hold integers, not {values.dtype}")
            refuse(self, values < 0, f"{column} is negative; node ids start at 0", values)
            refuse(self, values > MAX_NODE_ID, f"{column} is above {MAX_NODE_ID}; compact the ids first", values)
            object.__setattr__(self, column, values.long())
        if self.t.dtype not in (torch.int64, torch.float64):
            loss = "; float32 loses whole minutes of a Unix time" if self.t.dtype == torch.float32 else ""
            raise DataError(f"{self.name}: t is {self.t.dtype}; give float64 or int64{loss}")
        if self.t.is_floating_point():
            refuse(self, ~torch.isfinite(self.t), "t is not finite; correct it, or remove the event", self.t)
        late = torch.cat([self.t[:1] != self.t[:1], self.t[1:] < self.t[:-1]])
        refuse(self, late, "t is earlier than at the event before; sort the events (--sort)", self.t)
        for column in ("edge_features", "node_features"):
            values = getattr(self, column)
            if column == "edge_features" and self.edge_scaling is not None:
                width = self.edge_scaling.width
                if values is None or values.shape[1:] != (width,):
                    shape = None if values is None else list(values.shape)
                    raise DataError(f"{self.name}: edge_features has shape {shape}; edge_scaling needs {width} columns")
            elif values is not None:
                if values.dim() != 2 or not values.is_floating_point():
                    kind = f"{values.dtype} of shape {tuple(values.shape)}"
                    raise DataError(f"{self.name}: {column} must be a floating-point matrix, not {kind}")
                check_finite(self, column, values)
        largest = int(max(self.src.max(), self.dst.max())) + 1 if events else 0
        if self.num_nodes == 0:
            object.__setattr__(self, "num_nodes", largest)
        if self.num_nodes < largest:
            raise DataError(
                f"{self.name}: num_nodes is {self.num_nodes}, but the largest node id is {largest - 1}; give {largest}"
            )
        if self.node_features is not None and self.node_features.shape[0] != self.num_nodes:
            raise DataError(
                f"{self.name}: node_features has {self.node_features.shape[0]} rows for {self.num_nodes} nodes; "
                "give one row per node"
            )
        if self.borders is not None:
            from mspipe_triton.data.split import checked_borders  # it imports this module

            object.__setattr__(self, "borders", checked_borders(self, self.borders))
        if self.start and not 0 < self.start < (self.borders or (0,))[0]:
            raise DataError(f"{self.name}: start is {self.start}; give borders, the first of them above start")

    @staticmethod
    def of(
        frame: Any,
        src: str | None = None,
        dst: str | None = None,
        t: str | None = None,
        label: str | None = None,
        features: Sequence[str] | str | None = None,
        **options: Any,
    ) -> EventStream:
        """Make a stream of a table in memory, read as a file would be.

        Args:
            frame: a pandas or polars frame, an Arrow table, a dictionary of arrays, lists or tensors, a list of
                dictionaries, or PyG's `TemporalData`, whose only options are `name` and `split_at`.
            src, dst, t, label: the columns, by default those of usual names; label "" switches labels off.
            features: columns of edge features, or patterns.
            options: `sort`, `bipartite`, `one_kind`, `time_format`, `raw_features` and `split_at` as in `read_stream`,
                the last perhaps a pair of numbers or dates; `edge_features`, a matrix [E, F]; `node_features`, a table
                with a column `node`, or a matrix with a row per id; `name`.

        Raises:
            DataError: the table is none of these, or a value cannot be read; with row, column, value and fix.
            ConfigError: `split_at` cannot be read, or leaves a part of the split empty.
        """
        from mspipe_triton.data.frames import stream_of

        choice = {"src": src, "dst": dst, "t": t, "label": label, "features": features}
        return stream_of(frame, choice, options)

    def to_temporal_data(self) -> Any:
        """Convert the stream to PyG's `TemporalData`: node numbers as src and dst, edge features as msg, labels as y.

        Raises:
            DataError: torch_geometric is not installed.
        """
        from mspipe_triton.data.frames import to_temporal_data

        return to_temporal_data(self)

    def __len__(self) -> int:
        """Number of events."""
        return self.src.numel()

    @property
    def dim_edge(self) -> int:
        """Width of the edge features, 0 without features."""
        return 0 if self.edge_features is None else self.edge_features.shape[1]

    @property
    def dim_node(self) -> int:
        """Width of the node features, 0 without features."""
        return 0 if self.node_features is None else self.node_features.shape[1]

    @property
    def labelled(self) -> torch.Tensor:
        """Mask [E] of the events with a label."""
        labels = torch.full_like(self.t, torch.nan, dtype=torch.float64) if self.labels is None else self.labels
        return labels == labels  # only NaN differs from itself

    def split(self) -> Split:
        """Split the events in time at `borders`, by default 70/15/15 by number; no two parts share a time.

        Raises:
            DataError: a part would be empty.
        """
        from mspipe_triton.data.split import default_split  # it imports this module

        return self.borders or default_split(self)

    def split_for(self, size: int) -> Split:
        """Split the events for training in batches of `size` events.

        Raises:
            ConfigError: `size` is above the number of training events.
        """
        split = self.split()
        events = split.train_end - self.start
        if size > events:
            raise ConfigError(
                f"batch-size {size:,} is above the {events:,} training events of {self.name}; use a smaller one, such "
                f"as {float(f'{max(1, events / _ITERATIONS):.0e}'):.0f}"
            )
        return split

    def place(self, event: int) -> str:
        """Name an event's file and row if its source is known, otherwise the stream and the event, counted from 0."""
        source = self.source
        if source is not None:
            rows = sum(rows for _, rows in source.origin.parts) if source.order is None else source.order.size
            if rows == len(self):  # a stream cut out of another one has its source, but not its rows
                return source.place(event)
        return f"{self.name}: event {event}"

    def unseen_in_training(self) -> torch.Tensor:
        """Mask [E] of the events with an endpoint that no event of history and training has."""
        stop = self.split().train_end
        seen = torch.zeros(self.num_nodes, dtype=torch.bool)
        seen[self.src[:stop]] = True
        seen[self.dst[:stop]] = True
        return ~(seen[self.src] & seen[self.dst])

    def edge_rows(self, start: int = 0, stop: int | None = None) -> torch.Tensor | None:
        """Return the final features [M, F] of events [start, stop), or None without edge features."""
        rows = None if self.edge_features is None else self.edge_features[start:stop]
        if rows is None or self.edge_scaling is None:
            return rows
        return scaled_in_chunks(rows, self.edge_scaling, rows.shape[0])

    def to_dtype(self, dtype: torch.dtype) -> EventStream:
        """Convert the features to `dtype`, except edge features that are scaled as they are fetched."""
        edge = self.edge_features
        if edge is not None and self.edge_scaling is None:
            edge = edge.to(dtype)
        node = None if self.node_features is None else self.node_features.to(dtype)
        return self._with_features(edge, node)

    def pinned(self, placement: Placement) -> EventStream:
        """Pin the features that are final, so that the placement's device can copy them."""
        edge = self.edge_features
        if edge is not None and self.edge_scaling is None:
            edge = placement.pin(edge)
        node = None if self.node_features is None else placement.pin(self.node_features)
        return self._with_features(edge, node)

    def at(self, t: torch.Tensor, split: Split | None = None, start: int | None = None) -> EventStream:
        """Return the stream with other times [E] in the same order, unchecked.

        Its split and its number of events before training are by default its own.
        """
        stream = copy(self)
        object.__setattr__(stream, "borders", split or self.split())
        object.__setattr__(stream, "start", self.start if start is None else start)
        object.__setattr__(stream, "t", t)
        return stream

    def on(self, device: torch.device) -> EventStream:
        """Copy the columns that training reads to a device, without checking them again.

        Edge features stay in place: training reads them from a table of their own, which may be large.
        """
        stream = copy(self)
        for column in ("src", "dst", "t", "node_features"):
            values = getattr(self, column)
            object.__setattr__(stream, column, None if values is None else values.to(device))
        return stream

    def __repr__(self) -> str:
        """Describe the stream in a line."""
        features = f", edge features of width {self.dim_edge}" if self.dim_edge else ""
        return f"EventStream({self.name}: {len(self):,} events, {self.num_nodes:,} nodes{features})"

    def _with_features(self, edge: torch.Tensor | None, node: torch.Tensor | None) -> EventStream:
        """Return a stream with other features; the same stream, unchecked, if they are the same tensors."""
        if edge is self.edge_features and node is self.node_features:
            return self
        return replace(self, edge_features=edge, node_features=node)
