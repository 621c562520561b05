"""Continued streams: the events of a run, as history, and new events after them, in one numbering of nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.ids import NodeIds, number_nodes
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.moments import time_text
from mspipe_triton.data.new_events import NewEvents
from mspipe_triton.data.origin import Origin, Source, shown_path
from mspipe_triton.data.split import split_stream
from mspipe_triton.errors import DataError


def continued_stream(
    history: EventStream, new: NewEvents, data: DataConfig, name: str
) -> tuple[EventStream, torch.Tensor]:
    """Append new events to a stream, whose own events become history; labels are dropped.

    Nodes are numbered as in one table of all events. Those that the history does not have get node features 0.

    Args:
        history: a stream that was read. new: the events after it, which were read as its own were.
        data: the settings of the new events, which `split_at` splits. name: of the stream.

    Returns:
        The stream, and the numbers [N] that the history's nodes have in it.

    Raises:
        DataError: an id does not fit the history's, the first new event is earlier than the history's last event, or
            the new events cannot be split.
        ConfigError: `split_at` leaves a part empty.
    """
    count, source = len(history), _source(history, new, data)
    nodes, src, dst, ids = _numbered(history, new)
    features = None if new.features is None else torch.cat([_edge_rows(history), new.features])
    node_features = None
    if history.node_features is not None:
        node_features = history.node_features.new_zeros(len(ids), history.dim_node)
        node_features[nodes] = history.node_features
    later = EventStream(src, dst, new.t, num_nodes=len(ids), name=name, source=source)
    if bool(new.t[0] < history.t[-1]):
        run = shown_path(Path(data.history))
        first, last = (time_text(t.item(), source.time) for t in (new.t[0], history.t[-1]))
        raise DataError(
            f"{new.place(0)}: the time {first} is earlier than {last}, that of the last event of {run}; give only "
            "events after it"
        )
    borders = split_stream(later, data.split_at, data.time_format).split()
    stream = EventStream(
        torch.cat([nodes[history.src], src]), torch.cat([nodes[history.dst], dst]), torch.cat([history.t, new.t]),
        features, node_features, num_nodes=len(ids), name=name, ids=ids, source=source,
        borders=Split(*(count + border for border in borders)), start=count,
    )  # fmt: skip
    return stream, nodes


def _numbered(history: EventStream, new: NewEvents) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, NodeIds]:
    """Number the nodes of both; return the numbers [N] of the history's nodes, of the new events' ends, and the ids."""
    live, count = LiveIds(history.ids, history.num_nodes), history.num_nodes
    src, dst = new.numbers(live, add=True)  # new nodes come last
    kinds = () if history.ids is None else history.ids.kinds
    first, second = np.arange(len(live)), np.arange(0)
    if kinds:
        assert history.ids is not None
        border = len(history.ids.ids[0])
        first = np.union1d(np.arange(border), src)
        second = np.union1d(np.arange(border, count), dst)
    one, other, ids = number_nodes(live.column(first), live.column(second), kinds)
    numbers = np.empty(len(live), dtype=np.int64)
    numbers[first], numbers[second] = one, other
    nodes, sources, destinations = (torch.from_numpy(numbers[each]) for each in (np.arange(count), src, dst))
    return nodes, sources, destinations, ids


def _source(history: EventStream, new: NewEvents, data: DataConfig) -> Source:
    """Return the source of both, with what reading did to the history."""
    source, count = history.source, len(history)
    assert source is not None, "streams that are read have a source"
    order = None
    if source.order is not None or new.order is not None:
        parts = ((source.order, count, 0), (new.order, len(new), count))
        order = np.concatenate([first + (np.arange(size) if each is None else each) for each, size, first in parts])
    return Source(
        Origin((*source.origin.parts, *new.origin.parts)), order, data, source.roles, (), source.form, source.time,
        source.features, source.node_features,
    )  # fmt: skip


def _edge_rows(stream: EventStream) -> torch.Tensor:
    rows = stream.edge_rows()
    assert rows is not None, "new events have features only beside others"
    return rows
