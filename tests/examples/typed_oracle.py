"""Plain memory of the events of one type: a dictionary of nodes, and a GRU written out in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(message: np.ndarray, memory: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """A GRU cell with torch's weights, gates r, z, n."""
    from_message = np.split(weights["weight_ih"] @ message + weights["bias_ih"], 3)
    from_memory = np.split(weights["weight_hh"] @ memory + weights["bias_hh"], 3)
    r, z = (logistic(from_message[gate] + from_memory[gate]) for gate in (0, 1))
    new = np.tanh(from_message[2] + r * from_memory[2])
    return (1 - z) * new + z * memory


def memories(
    micro_batches: Sequence[Sequence[tuple[int, int, int]]],
    codes: np.ndarray,
    weights: Mapping[str, np.ndarray],
    frequency: np.ndarray,
) -> dict[int, dict[str, Any]]:
    """Records of the nodes after micro-batches of events (source, destination, time) of one type."""
    records: dict[int, dict[str, Any]] = {}

    def digest(node: int) -> np.ndarray:
        if node not in records:
            return codes[node]
        record = records[node]
        delta = record["mail_time"] - record["memory_time"]
        message = np.concatenate([record["memory"], record["partner"], np.cos(frequency * delta)])
        return gru(message, record["memory"], weights)

    for events in micro_batches:
        before = {node: (digest(node), records.get(node, {}).get("mail_time", 0)) for e in events for node in e[:2]}
        for src, dst, time in events:
            for node, other in ((src, dst), (dst, src)):
                hidden, digested = before[node]
                records[node] = {
                    "memory": hidden, "memory_time": digested, "partner": before[other][0], "mail_time": time,
                }  # fmt: skip
    return records
