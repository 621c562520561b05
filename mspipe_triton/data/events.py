"""Event stream: validated arrays of sources, destinations, times and features, and their chronological split."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.origin import Source
from mspipe_triton.data.scaling import Scaling, scaled_in_chunks
from mspipe_triton.errors import ConfigError, DataError
from mspipe_triton.placement import Placement

MAX_NODE_ID = 2**31 - 1


class Split(NamedTuple):
    """Chronological split of a stream: training events [0, train_end), validation events up to val_end, then test."""

    train_end: int
    val_end: int


@dataclass(frozen=True)
class EventStream:
    """Events in time order; events of equal time keep their order in the input.

    Args:
        src, dst: [E] int64 node ids, ≥ 0. They index the node tables, so keep them dense (`compact_ids`).
        t: [E] int64 or float64, never decreasing. Any unit; seconds are usual.
        edge_features: [E, F] floating point, or None; of any real dtype if `edge_scaling` scales them.
        node_features: [N, F] floating point, or None.
        labels: [E] one label per event, such as a state change of src, or None.
        num_nodes: N, the number of rows of node tables; by default the largest id + 1.
        name: name of the stream in messages and results.
        ids: the user's own ids of the nodes; None if they are the numbers 0 … N − 1 themselves.
        source: how the stream was read; None if it was made from tensors.
        edge_scaling: scales rows of `edge_features` as they are fetched, so that the table may be a memory-mapped file;
            its fit has checked that all are finite. None if the rows are final.

    Raises:
        DataError: lengths differ, an id is negative or too large, a time or feature is not finite, times go back.
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

    def __post_init__(self) -> None:
        events = self.src.numel()
        for column in ("dst", "t", "edge_features", "labels"):
            values = getattr(self, column)
            if values is not None and values.shape[0] != events:
                raise DataError(f"{self.name}: {column} has {values.shape[0]} entries, src has {events}; give {events}")
        for column in ("src", "dst"):
            values = getattr(self, column)
            if values.is_floating_point():
                raise DataError(f"{self.name}: {column} must hold integers, not {values.dtype}")
            _refuse(values < 0, self.name, f"{column} is negative; node ids start at 0", values)
            _refuse(values > MAX_NODE_ID, self.name, f"{column} is above {MAX_NODE_ID}; compact the ids first", values)
            object.__setattr__(self, column, values.long())
        if self.t.dtype not in (torch.int64, torch.float64):
            raise DataError(f"{self.name}: t must be int64 or float64, not {self.t.dtype}: float32 loses whole minutes")
        if self.t.is_floating_point():
            _refuse(~torch.isfinite(self.t), self.name, "t is not finite", self.t)
        late = self.t[1:] < self.t[:-1]
        _refuse(late, self.name, "t is earlier than at the event before; sort the events (--sort)", self.t[1:], 1)
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
                _refuse(~torch.isfinite(values).all(1), self.name, f"{column} has a value that is not finite", None)
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

    def split(self) -> Split:
        """Split the events chronologically, 70/15/15 by number.

        Raises:
            DataError: a part would be empty.
        """
        events = len(self)
        split = Split(events * 70 // 100, events * 85 // 100)
        if split.train_end < 1 or split.val_end <= split.train_end or events <= split.val_end:
            raise DataError(f"{self.name}: {events} events are too few for a 70/15/15 split; at least 4 are needed")
        return split

    def split_for(self, size: int) -> Split:
        """Split the events for training in batches of `size` events.

        Raises:
            ConfigError: `size` is above the number of training events.
        """
        split = self.split()
        if size > split.train_end:
            raise ConfigError(
                f"batch-size {size:,} is above the {split.train_end:,} training events of {self.name}; "
                f"use at most {split.train_end}"
            )
        return split

    def unseen_in_training(self) -> torch.Tensor:
        """Mask [E] of the events with an endpoint that no training event has."""
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
        return replace(self, edge_features=edge, node_features=node)

    def pinned(self, placement: Placement) -> EventStream:
        """Pin the features that are final, so that the placement's device can copy them."""
        edge = self.edge_features
        if edge is not None and self.edge_scaling is None:
            edge = placement.pin(edge)
        node = None if self.node_features is None else placement.pin(self.node_features)
        return replace(self, edge_features=edge, node_features=node)

    def on(self, device: torch.device) -> EventStream:
        """Copy the columns that training reads to a device, without checking them again.

        Edge features stay in place: training reads them from a table of their own, which may be large.
        """
        stream = copy(self)
        for column in ("src", "dst", "t", "node_features"):
            values = getattr(self, column)
            object.__setattr__(stream, column, None if values is None else values.to(device))
        return stream


def _refuse(wrong: torch.Tensor, name: str, why: str, values: torch.Tensor | None, shift: int = 0) -> None:
    """Raise DataError naming the first event for which `wrong` holds."""
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        value = "" if values is None else f" ({values[first].item()})"
        raise DataError(f"{name}: event {first + shift}: {why}{value}")


def check_labels(stream: EventStream) -> None:
    """Refuse a stream whose labels cannot be learned.

    Raises:
        DataError: there are no labels, a label is neither 0 nor 1, or all training events have the same label.
    """
    labels = stream.labels
    if labels is None:
        raise DataError(f"{stream.name}: no label column for --task node; name it with --columns label=NAME")
    others = ((labels != 0) & (labels != 1)).nonzero()
    if others.numel():
        first = int(others[0])
        raise DataError(f"{stream.name}: event {first}: label {labels[first].item()} is neither 0 nor 1; use these")
    positives, events = int(labels[: stream.split().train_end].sum()), stream.split().train_end
    if positives in (0, events):
        raise DataError(f"{stream.name}: {positives} of {events} training events have label 1; a decoder needs both")
