"""Loading of the stream that a run's data settings name, and a digest to detect changes of it."""

from __future__ import annotations

import hashlib
import json

import torch

from mspipe_triton.config import DataConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.synthetic import synthetic_stream
from mspipe_triton.errors import ConfigError

_ROWS = 65_536  # rows to digest at a time, so that a memory-mapped table need not fit memory


def load_stream(data: DataConfig) -> EventStream:
    """Load the stream that a run's data settings name."""
    if data.path == "synthetic":
        if data.node_features:
            raise ConfigError("--node-features needs a file, not the built-in stream; write one with `data generate`")
        return synthetic_stream()
    return read_stream(data.path, data.columns, data.sort, data.node_features or None)


def fingerprint(stream: EventStream) -> str:
    """Digest of the events and features, to detect that a run's data have changed."""
    digest = hashlib.blake2b(digest_size=8)
    for column in (stream.src, stream.dst, stream.t, stream.edge_features, stream.node_features):
        for part in () if column is None else column.split(_ROWS):
            digest.update(part.contiguous().view(torch.uint8).numpy().data)
    if stream.edge_scaling is not None:
        digest.update(json.dumps(stream.edge_scaling.to_json()).encode())
    return digest.hexdigest()
