"""Calls one after the other: latency of each endpoint for one client, and events observed per second in batches."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.predictor.__main__ import TOP, Events, quantiles
from bench.serving.client import ARROW, JSON, Connection, Continuation
from bench.serving.load import PAIRS
from bench.serving.server import Server

WARM_UP = 50  # calls before those that are timed
SIZES, CLIENTS = (1, 10, 200, 1000), (1, 4)
PAIRED = 100  # pairs of a call of score, and nodes of one of embed


def measure_latency(run: Path, state: Path, events: Events, calls: int) -> dict[str, Any]:
    """Measure each endpoint in turn, after an event that was observed just before."""
    continuation = Continuation(events, PAIRS)
    seconds: dict[str, list[float]] = {}

    async def work(port: int) -> None:
        connection = Connection(port)

        async def timed(name: str, path: str, fields: dict[str, Any]) -> None:
            body = json.dumps(fields).encode()
            start = time.perf_counter()
            status, content = await connection.send(path, body)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            if status != 200:
                raise RuntimeError(f"{name}: {status} {content!r}")

        for _ in range(WARM_UP + calls):
            src, dst, t = continuation.next()
            rows = [continuation.next() for _ in range(PAIRED)]
            sources, destinations = ([row[place] for row in rows] for place in (0, 1))
            await timed("observe", "/observe", {"src": src, "dst": dst, "t": t})
            for mode in ("exact", "cached"):
                await timed(f"rank_{mode}", "/rank", {"src": sources[0], "top": TOP, "mode": mode})
            await timed("score", "/score", {"src": src, "dst": dst})
            await timed(f"score_{PAIRED}", "/score", {"src": sources, "dst": destinations})
            await timed(f"embed_{PAIRED}", "/embed", {"nodes": sources})
        connection.close()

    with Server(run, state) as server:
        asyncio.run(work(server.port))
    return {name: quantiles(values[WARM_UP:]) for name, values in seconds.items()}


def measure_throughput(run: Path, state: Path, events: Events, seconds: float) -> list[dict[str, Any]]:
    """Measure events observed per second, by size of batch, form and number of clients.

    The events of a measurement have one time, so that clients do not have to wait for each other.
    """
    continuation, rows = Continuation(events, PAIRS), list[dict[str, Any]]()
    with Server(run, state) as server:
        for size, kind, clients in itertools.product(SIZES, (JSON, ARROW), CLIENTS):
            t = continuation.next()[2]
            pairs = [continuation.next()[:2] for _ in range(max(size, 2000))]
            bodies = [body(pairs[start : start + size], t, kind) for start in range(0, len(pairs), size)]
            start, clients_cpu = time.perf_counter(), time.process_time()
            batches = asyncio.run(observe(server.port, bodies, kind, clients, seconds))
            elapsed = time.perf_counter() - start
            rows.append(
                {
                    "batch": size, "form": "json" if kind == JSON else "arrow", "clients": clients,
                    "events_per_s": batches * size / elapsed,
                    "clients_cpu_share": (time.process_time() - clients_cpu) / elapsed,
                }
            )  # fmt: skip
    return rows


async def observe(port: int, bodies: Sequence[bytes], kind: str, clients: int, seconds: float) -> int:
    """Send bodies for some seconds, and return their number."""
    end, count = time.perf_counter() + seconds, 0

    async def client(number: int) -> None:
        nonlocal count
        connection, turn = Connection(port), number
        while time.perf_counter() < end:
            status, content = await connection.send("/observe", bodies[turn % len(bodies)], kind)
            if status != 200:
                raise RuntimeError(f"observe: {status} {content!r}")
            turn, count = turn + clients, count + 1
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return count


def body(pairs: Sequence[tuple[Any, Any]], t: int, kind: str) -> bytes:
    """Write events of one time as a body."""
    src, dst = (list(column) for column in zip(*pairs, strict=True))
    return encoded({"src": src, "dst": dst, "t": [t] * len(src)}, kind)


def encoded(columns: dict[str, Any], kind: str = ARROW) -> bytes:
    """Write columns as JSON or Arrow."""
    if kind == JSON:
        return json.dumps({name: list(column) for name, column in columns.items()}).encode()
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
