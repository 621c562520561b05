"""The head of a stream: its first events as a small stream of their own."""

from __future__ import annotations

import torch

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.ids import compact_ids


def first_events(stream: EventStream, events: int) -> EventStream:
    """Return the first events with node ids renumbered, so that the tables have only the nodes they touch, and times
    too, since in float32 the angle of a long time has the largest error.

    The last two events are later than all others, as the head's validation and test, so that no tie is cut.
    """
    events = min(events, len(stream))
    src, dst, ids = compact_ids(stream.src[:events].numpy(), stream.dst[:events].numpy())
    rows = None if stream.node_features is None else stream.node_features[torch.from_numpy(ids)]
    t = stream.t[:events].unique(return_inverse=True)[1].to(stream.t.dtype)
    t[-2:] += torch.tensor([1, 2])
    return EventStream(
        torch.from_numpy(src), torch.from_numpy(dst), t, stream.edge_rows(0, events), rows, name=stream.name,
        borders=Split(events - 2, events - 1),
    )  # fmt: skip
