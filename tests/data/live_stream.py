"""Random streams that come in parts, for the tests of structures that grow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from mspipe_triton.data.events import EventStream

Columns = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def live_stream(seed: int, events: int, kind: torch.dtype, nodes: int = 30) -> EventStream:
    """Stream with ties, self-loops, frequent and rare nodes, and more nodes the later it is."""
    random = torch.Generator().manual_seed(seed)
    most = 2 + torch.arange(events) * nodes // max(events, 1)
    src, dst = ((torch.rand(events, generator=random) ** 2 * most).long() for _ in range(2))
    dst[::7] = src[::7]
    gaps = torch.randint(0, 3, (events,), generator=random)
    t = 1_600_000_000 + gaps.cumsum(0) if kind == torch.int64 else gaps.cumsum(0) / 4
    return EventStream(src, dst, t.to(kind), num_nodes=nodes + 3)


def parts(stream: EventStream, first: int, seed: int) -> Iterator[tuple[int, Columns]]:
    """Random parts, which have 0, 1 or more events, of the events from `first` on, with the number before each."""
    random, borders = torch.Generator().manual_seed(seed), [first]
    while borders[-1] < len(stream):
        largest = [1, 2, 40][int(torch.randint(0, 3, (1,), generator=random))]
        step = int(torch.randint(0, largest + 1, (1,), generator=random))
        borders.append(min(borders[-1] + step, len(stream)))
    for start, stop in pairwise(borders):
        yield start, (stream.src[start:stop], stream.dst[start:stop], stream.t[start:stop])
