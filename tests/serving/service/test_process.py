"""The command `serve` as a process: under load, with faults, through kills, on a full disk, until a signal."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mspipe_triton import Predictor, load
from mspipe_triton.serving.service.log import EventLog
from mspipe_triton.serving.service.state import LOG, SNAPSHOTS
from tests.conftest import Command
from tests.serving.service.clients import FAULTS, LARGEST, TOKEN, Client, Clients, check_events, purchase, send_fault
from tests.serving.service.process import ServerProcess, check_last_snapshot, digests, replayed, rows
from tests.serving.service.services import same_bits, started, wait_for

EVENTS = "SELECT key, src, dst, t FROM events JOIN entries ON entries.id = entry"


@pytest.mark.parametrize("seconds", [2.5, pytest.param(60.0, marks=pytest.mark.slow)])
def test_load(seconds: float, shop_run: Path, tmp_path: Path) -> None:
    """Ten clients observe and rank, with faults among the requests; the state is that of a serial replay."""
    flags = ["--token", TOKEN, "--max-body", str(LARGEST), "--max-ids", "100", "--snapshot-events", "100"]
    with ServerProcess(shop_run, tmp_path, *flags, watchdog=seconds + 60) as server:
        client = Client(server.wait().url)
        wait_for(lambda: client.ask("/ready")[0] == 200)
        statuses = [(each, send_fault(client, each)) for each in FAULTS]
        assert [(each, status) for each, status in statuses if status != each.status] == []
        clients = Clients(server.url, 10, 100.0)
        time.sleep(seconds)
        answers = clients.answers.copy()
        assert server.end(signal.SIGTERM) == 0
        clients.stop(gone=True)
        assert server.lines[-1].startswith("Stopped after ")
    assert {kind: status for kind, status in answers if status >= 500} == {}
    assert answers["observe", 200] > 50 * seconds
    assert answers["rank", 200] > 10 * seconds
    assert sum(count for (kind, _), count in answers.items() if kind == "fault") > len(FAULTS)
    check_events(clients, rows(tmp_path, EVENTS))
    check_last_snapshot(shop_run, tmp_path, replayed(shop_run, tmp_path))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills(kills: int, shop_run: Path, tmp_path: Path) -> None:
    """After kills at any moment, every event is there once, be it acknowledged before or only when sent again.

    Snapshots are frequent, so that kills fall into them, and some kills fall into the start. A reader keeps the WAL
    from being emptied.
    """
    draws, clients = random.Random(kills), None
    with closing(sqlite3.connect(tmp_path / LOG, isolation_level=None)) as reader:
        for number in range(kills + 1):
            early = number % 3 == 2
            with ServerProcess(shop_run, tmp_path, "--snapshot-events", "7", "--token", TOKEN, watchdog=90) as server:
                if early:
                    time.sleep(draws.uniform(0.5, 2.0) if number < kills else 0)
                    if number < kills:
                        continue
                server.wait()
                if clients is None:
                    clients = Clients(server.url, 4, 100.0, asks=False)
                clients.url = server.url
                if number < kills:
                    before = len(clients.acknowledged)
                    wait_for(lambda before=before: len(clients.acknowledged) > before + 10)
                    time.sleep(draws.uniform(0.0, 0.7))
                    server.kill()
                    if number == 0:
                        reader.execute("BEGIN")
                        reader.execute("SELECT count(*) FROM events").fetchone()
                else:
                    clients.stop()
                    assert server.end(signal.SIGINT) == 0
    assert clients is not None
    assert not clients.pending
    check_events(clients, rows(tmp_path, EVENTS))
    check_last_snapshot(shop_run, tmp_path, digests(shop_run, tmp_path, snapshot=False))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 4 MB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no command mount")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room in a file system."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            for size in (65_536, 4096, 1):
                while file.write(b"x" * size) == size:
                    pass
        except OSError:
            pass


@pytest.mark.parametrize("limit", ["size of files", "size of the disk"])
def test_full_disk(limit: str, shop_run: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Events are refused and questions answered while there is no room; nothing that was acknowledged is lost."""
    small = limit == "size of the disk"
    state = (request.getfixturevalue("small_disk") if small else tmp_path) / "state"
    numbers, acknowledged = itertools.count(1), list[int]()

    with ServerProcess(shop_run, state, "--snapshot-events", "10") as server:
        client = Client(server.wait().url)
        wait_for(lambda: client.ask("/ready")[0] == 200)

        def observe() -> int:
            number = next(numbers)
            status, answer = client.ask("/observe", purchase((f"u{number % 9}", 100, number)))
            if status == 200:
                acknowledged.append(number)
            else:
                assert "events cannot be logged" in answer["detail"], answer
            return status

        def snapshots() -> list[str]:
            return sorted(each.name for each in (state / SNAPSHOTS).iterdir() if each.name.isdecimal())

        def shut(room: int) -> None:
            if small:
                fill(state.parent)
            else:
                server.limit_files(room)

        assert [observe() for _ in range(12)] == [200] * 12
        wait_for(snapshots)
        for _ in range(2):
            shut((state / f"{LOG}-wal").stat().st_size + 8000)
            wait_for(lambda: observe() == 503)
            assert [observe() for _ in range(3)] == [503] * 3
            status, answer = client.ask("/rank", {"src": "u1"})
            assert (status, answer["src"]) == (200, "u1")
            status, answer = client.ask("/status")
            assert (status, answer["ready"], answer["writable"]) == (200, True, False)
            assert answer["observed"] == len(acknowledged)
            if small:
                (state.parent / "filler").unlink()
            server.limit_files(None)
            assert observe() == 200
            assert client.ask("/status")[1]["writable"]
        shut(5000)
        before = snapshots()
        assert server.end(signal.SIGTERM) == 0
        assert any(line.startswith("No snapshot: ") for line in server.lines)
        assert snapshots() == before, "the last good ones stay"
    if small:
        (state.parent / "filler").unlink()
    start = rows(state, "SELECT min(t) FROM events")[0][0] - 1
    assert [t - start for (t,) in rows(state, "SELECT t FROM events ORDER BY number")] == acknowledged
    with started(shop_run, state) as again:
        assert again.service.status().observed == len(acknowledged)
        same_bits(again.predictor, serial(shop_run, again.log))


def serial(run: Path, log: EventLog) -> Predictor:
    """The predictor after a serial replay of a log."""
    predictor = load(run)
    for entry in log.read():
        assert entry.events is not None
        predictor.take(entry.events)
    return predictor
