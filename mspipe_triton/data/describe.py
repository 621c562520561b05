"""Statistics of a stream, for users who want to train on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.times import per_second, tie_share
from mspipe_triton.errors import DataError


def describe(stream: EventStream) -> dict[str, Any]:
    """Compute counts, span, repetition, novelty and ties of a stream, and tell how its table was read.

    `format` is that of the table, `kinds` the number of nodes of each kind or None for one kind, `time` the meaning of
    the times; `columns` has the role of each column, "" if nothing uses it. `repeat_ratio` is the share of events whose
    (src, dst) pair occurred before; `new_node_share_in_test` the share of test events with a node that training has not
    seen; `val_start` and `test_start` the times of their first events; `tie_share` the share of events that share their
    time with another event; `node_state_mib` the size of node memory and mailbox at width 100 in float32. If the events
    cannot be split, a note says why, and what needs a split is None.
    """
    events, source, faults = len(stream), stream.source, list[str]()
    try:
        split: Split | None = stream.split()
    except DataError as error:
        split, faults = None, [f"the events cannot be split for training: {error}"]
    src, dst, t = stream.src.numpy(), stream.dst.numpy(), stream.t.numpy()
    sent, received = (np.bincount(ends, minlength=stream.num_nodes) for ends in (src, dst))
    degree = sent + received
    nodes = int((degree > 0).sum())
    pairs = np.sort(src * stream.num_nodes + dst)
    first, last = t[0].item(), t[-1].item()
    return {
        "name": stream.name,
        "format": "" if source is None else source.form,
        "events": events,
        "nodes": nodes,
        "kinds": _kinds(stream),
        "sources": int((sent > 0).sum()),
        "destinations": int((received > 0).sum()),
        "bipartite": not bool(((sent > 0) & (received > 0)).any()),
        "edge_features": stream.dim_edge,
        "node_features": stream.dim_node,
        "labels": stream.labels is not None,
        "first_time": first,
        "last_time": last,
        "span": last - first,
        "time": "" if source is None else source.time,
        "train_events": None if split is None else split.train_end,
        "val_events": None if split is None else split.val_end - split.train_end,
        "test_events": None if split is None else events - split.val_end,
        "val_start": None if split is None else t[split.train_end].item(),
        "test_start": None if split is None else t[split.val_end].item(),
        "repeat_ratio": int((pairs[1:] == pairs[:-1]).sum()) / events,
        "new_node_share_in_test": None if split is None else _new_share(stream, split),
        "tie_share": tie_share(t),
        "self_loops": int((src == dst).sum()),
        "mean_degree": 2 * events / nodes,
        "max_degree": int(degree.max()),
        "node_state_mib": stream.num_nodes * (2 * 100 * 4 + 3 * 8) / 2**20,
        "columns": {} if source is None else dict(source.roles),
        "notes": [*(() if source is None else source.notes), *faults],
    }


def _new_share(stream: EventStream, split: Split) -> float:
    """Return the share of test events with a node that training has not seen."""
    return float(stream.unseen_in_training()[split.val_end :].double().mean())


def readable_time(t: float, meaning: str) -> str | None:
    """Format a time as a date, as in "2016-10-01 12:30:05"; None if its meaning is not a Unix time."""
    scale = per_second(meaning)
    if scale is None:
        return None
    try:
        return datetime.fromtimestamp(t / scale, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return None


def _kinds(stream: EventStream) -> dict[str, int] | None:
    """Return the number of nodes of each of two kinds."""
    if stream.ids is None or not stream.ids.kinds:
        return None
    return {kind: len(ids) for kind, ids in zip(stream.ids.kinds, stream.ids.ids, strict=True)}
