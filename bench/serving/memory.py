"""Memory of a service that takes in many events: per event, beside the tables that grow, with its log and snapshot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.predictor.__main__ import Events
from bench.serving.calls import encoded
from bench.serving.client import ARROW, Connection
from bench.serving.server import Server
from mspipe_triton import Predictor, load

BATCH, EACH = 1000, 50_000  # events of a request, and from one look at the memory to the next


def measure_memory(run: Path, state: Path, events: Events, count: int) -> dict[str, Any]:
    """Measure a service that takes in a continuation of the stream among its nodes."""
    with Server(run, state) as server:
        start, resident = time.perf_counter(), [(0, server.memory())]
        asyncio.run(feed(server, events, count, resident))
        seconds = time.perf_counter() - start
        status, peak = server.status(), server.memory("VmHWM")
        stop = server.stop()
    snapshot = max((state / "snapshots").iterdir())
    with Server(run, state) as server:
        restart = server.seconds
        if (loaded := server.status())["events"] != status["events"]:
            raise RuntimeError(f"{loaded['events']} of {status['events']} events are there after the restart")
    numbers, sizes = np.array(resident, dtype=np.float64).T
    per_event = float(np.polyfit(numbers, sizes, 1)[0])
    tables = table_growth(run, events, count)
    return {
        "events": count, "batch": BATCH, "events_per_s": count / seconds,
        "rss_mb": [[number, size / 2**20] for number, size in resident], "rss_peak_mb": peak / 2**20,
        "rss_bytes_per_event": per_event, "table_bytes_per_event": tables,
        "other_bytes_per_event": per_event - sum(tables.values()),
        "log_bytes_per_event": status["log_bytes"] / count,
        "snapshot_bytes": sum(path.stat().st_size for path in snapshot.iterdir()),
        "snapshot_seconds": snapshot_seconds(snapshot), "stop_seconds": stop, "restart_seconds": restart,
    }  # fmt: skip


def batches(events: Events, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of a continuation: pairs of the stream's events at random, at its mean rate."""
    draws, src, dst = np.random.default_rng(0), np.array(events.src), np.array(events.dst)
    step, last = (int(events.t[-1]) - int(events.t[0])) / len(src), int(events.t[-1])
    for first in range(0, count, BATCH):
        picked = draws.integers(0, len(src), min(BATCH, count - first))
        times = last + ((first + np.arange(len(picked))) * step).astype(np.int64)
        yield {"src": src[picked], "dst": dst[picked], "t": times}


async def feed(server: Server, events: Events, count: int, resident: list[tuple[int, int]]) -> None:
    """Let a service observe a continuation, and note its memory in between."""
    connection, done = Connection(server.port), 0
    for columns in batches(events, count):
        status, content = await connection.send("/observe", encoded(columns), ARROW)
        if status != 200:
            raise RuntimeError(f"observe: {status} {content!r}")
        done += len(columns["src"])
        if done % min(EACH, count // 4) < BATCH:
            resident.append((done, server.memory()))
    connection.close()


def table_growth(run: Path, events: Events, count: int) -> dict[str, float]:
    """Bytes per event by which each table of a predictor grows, with its spare room."""
    predictor = load(run)
    before = table_bytes(predictor)
    for columns in batches(events, count):
        predictor.observe(columns["src"], columns["dst"], columns["t"])
    return {name: (size - before[name]) / count for name, size in table_bytes(predictor).items()}


def table_bytes(predictor: Predictor) -> dict[str, int]:
    """Bytes of the tables that grow with events, with their spare room."""
    live = predictor._live
    adjacency, index = live.adjacency.csr, live.index
    tables = {
        "src": [live.src.rows], "dst": [live.dst.rows], "t": [live.t.rows],
        "t as the user has it": [predictor._times.rows], "features": [live.edges.rows],
        "adjacency": [adjacency.neighbours, adjacency.event_ids, adjacency.times],
        "pair index": [] if index is None else list(index.index.tables.values()),
    }  # fmt: skip
    return {name: sum(each.untyped_storage().nbytes() for each in parts) for name, parts in tables.items()}


def snapshot_seconds(snapshot: Path) -> float:
    """Seconds to write a snapshot."""
    predictor = load(snapshot)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        predictor.image().write(Path(folder) / "snapshot")
        return time.perf_counter() - start
