"""Statistics of a stream, for users who want to train on it."""

from __future__ import annotations

from typing import Any

import torch

from mspipe_triton.data.events import EventStream


def describe(stream: EventStream) -> dict[str, Any]:
    """Compute counts, span, repetition, novelty and ties of a stream.

    `repeat_ratio` is the share of events whose (src, dst) pair occurred before; `new_node_share_in_test` the share of
    test events with a node that training has not seen; `tie_share` the share of events at the same time as the event
    before; `node_state_mib` the size of node memory and mailbox at width 100 in float32.
    """
    events, split = len(stream), stream.split()
    nodes, degree = torch.unique(torch.cat([stream.src, stream.dst]), return_counts=True)
    pairs = torch.unique(stream.src * stream.num_nodes + stream.dst)
    sources, destinations = torch.unique(stream.src), torch.unique(stream.dst)
    new = stream.unseen_in_training()[split.val_end :]
    first, last = stream.t[0].item(), stream.t[-1].item()
    return {
        "name": stream.name,
        "events": events,
        "nodes": int(nodes.numel()),
        "sources": int(sources.numel()),
        "destinations": int(destinations.numel()),
        "bipartite": not bool(torch.isin(sources, destinations).any()),
        "edge_features": stream.dim_edge,
        "node_features": stream.dim_node,
        "labels": stream.labels is not None,
        "first_time": first,
        "last_time": last,
        "span": last - first,
        "train_events": split.train_end,
        "val_events": split.val_end - split.train_end,
        "test_events": events - split.val_end,
        "repeat_ratio": 1 - pairs.numel() / events,
        "new_node_share_in_test": float(new.double().mean()),
        "tie_share": float((stream.t[1:] == stream.t[:-1]).double().mean()) if events > 1 else 0.0,
        "self_loops": int((stream.src == stream.dst).sum()),
        "mean_degree": 2 * events / nodes.numel(),
        "max_degree": int(degree.max()),
        "node_state_mib": stream.num_nodes * (2 * 100 * 4 + 3 * 8) / 2**20,
    }
