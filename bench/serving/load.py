"""Load and kills: latency and answers while many clients observe and rank, and what a log holds after SIGKILL."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.predictor.__main__ import Events, quantiles
from bench.serving.client import Continuation, Load
from bench.serving.replay import replay_is_equal
from bench.serving.server import Server, logged

CLIENTS, RATE = 10, 100.0
PAIRS = 20_000  # last events of the stream whose pairs come again
_FLAGS = ("--max-body", str(2**16 - 1))


def measure_load(run: Path, state: Path, events: Events, mode: str, seconds: float) -> dict[str, Any]:
    """Measure clients that observe and rank, with faults among their requests."""
    load = Load(Continuation(events, PAIRS), CLIENTS, RATE, mode)
    with Server(run, state, *_FLAGS) as server:
        load.port = server.port

        def wait() -> dict[str, float]:
            start, server_cpu, clients_cpu = time.perf_counter(), server.cpu_seconds(), time.process_time()
            time.sleep(seconds)
            elapsed = time.perf_counter() - start
            return {
                "seconds": elapsed,
                "server_cpu_share": (server.cpu_seconds() - server_cpu) / elapsed,
                "clients_cpu_share": (time.process_time() - clients_cpu) / elapsed,
            }

        facts = asyncio.run(load.run(wait))
        facts["rss_mb"] = server.memory() / 2**20
        stop = server.stop()
    return {
        "clients": CLIENTS, "rate": RATE, "mode": mode, **facts,
        "latency_ms": {name: latency(values, facts["seconds"]) for name, values in sorted(load.seconds.items())},
        "answers": dict(sorted(load.answers.items())), "faults_not_refused": load.wrong, "sent_again_late": load.late,
        "stop_seconds": stop, **outcome(load, state), "replay_equal": replay_is_equal(run, state),
    }  # fmt: skip


def measure_kills(run: Path, state: Path, events: Events, kills: int) -> dict[str, Any]:
    """Kill the server under load, again and again, and count each event in the log."""
    load, draws, restarts = Load(Continuation(events, PAIRS), CLIENTS, RATE, ""), random.Random(0), list[float]()
    with ExitStack() as last:

        def kill() -> None:
            for number in range(kills + 1):
                server = Server(run, state, "--snapshot-events", "100")
                last.enter_context(server)
                restarts.append(server.seconds)
                load.port = server.port
                if number < kills:
                    time.sleep(draws.uniform(0.3, 1.0))
                    server.process.kill()
                    server.process.wait()

        asyncio.run(load.run(kill))
    return {
        "kills": kills, **outcome(load, state),
        "restart_seconds": {"p50": sorted(restarts)[len(restarts) // 2], "max": max(restarts)},
    }  # fmt: skip


def outcome(load: Load, state: Path) -> dict[str, int]:
    """Count the acknowledged events that a log has once, those that it lacks, and those that it has twice."""
    counts = Counter(logged(state))
    times = [counts[key, *event] for key, event in load.acknowledged.items()]
    return {
        "acknowledged": len(times), "found_once": times.count(1), "lost": times.count(0),
        "doubled": sum(number > 1 for number in times), "logged": sum(counts.values()),
    }  # fmt: skip


def latency(values: Sequence[float], seconds: float) -> dict[str, float]:
    """Quantiles of requests in milliseconds, and their number per second."""
    return {**quantiles(values), "per_s": len(values) / seconds}
