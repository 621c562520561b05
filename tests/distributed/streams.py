"""Awkward streams for several ranks: a node in every event, self-loops, ties, features; and stretches of real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from tests.models.beside_oracle import first, with_node_features


def hub(events: int = 600) -> EventStream:
    """Few nodes, of which one is an end of every event, now the source and now the destination; hours tie many events.

    Some events are loops of the hub.
    """
    stream = synthetic_stream(SyntheticConfig(events=events, users=20, items=10, edge_features=2, seed=3))
    centre, numbers = int(stream.dst[0]), torch.arange(events)
    even = numbers % 2 == 0
    src = torch.where(even, stream.src, centre)
    dst = torch.where(even, centre, stream.dst)
    loops = numbers % 19 == 0
    return replace(stream, src=torch.where(loops, centre, src), dst=dst, t=stream.t // 3600)


def featured(events: int = 600) -> EventStream:
    """The same with node features."""
    return with_node_features(hub(events))


def real(folder: Path, events: int) -> EventStream:
    """The first events of `uci.csv`."""
    return first(load_stream(DataConfig(path=str(folder / "uci.csv"))), events)
