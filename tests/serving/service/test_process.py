"""The command `serve` as a process: under load, with faults, through kills, on a full disk, until a signal."""

from __future__ import annotations

import itertools
import json
import random
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path

import pytest

from mspipe_triton import Predictor, load
from mspipe_triton.serving.service.log import EventLog
from mspipe_triton.serving.service.state import LOG, SNAPSHOTS
from tests.cli.using import Command, refusal
from tests.serving.service.clients import (
    APRIL,
    FAULTS,
    LARGEST,
    TOKEN,
    Client,
    Clients,
    check_events,
    purchase,
    send_fault,
)
from tests.serving.service.process import ServerProcess, check_last_snapshot, digests, replayed, rows
from tests.serving.service.services import same_bits, started, wait_for

EVENTS = "SELECT key, src, dst, t FROM events JOIN entries ON entries.id = entry"


def faults(clients: Clients) -> int:
    """Number of answers to requests with faults."""
    return sum(count for (kind, _), count in clients.answers.copy().items() if kind == "fault")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.5, 60.0])
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
        wait_for(lambda: faults(clients) > len(FAULTS))
        answers = clients.answers.copy()
        assert server.end(signal.SIGTERM) == 0
        clients.stop(gone=True)
        assert server.lines[-1].startswith("Stopped after ")
    assert {kind: status for kind, status in answers if status >= 500} == {}
    assert answers["observe", 200] > 50 * seconds
    assert answers["rank", 200] > 10 * seconds
    check_events(clients, rows(tmp_path, EVENTS))
    check_last_snapshot(shop_run, tmp_path, replayed(shop_run, tmp_path))


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_kills(kills: int, shop_run: Path, tmp_path: Path) -> None:
    """After kills at any moment, every event is there once, be it acknowledged before or only when sent again.

    Snapshots are frequent, so that kills fall into them, and some kills fall into the start. A reader keeps the WAL
    from being emptied.
    """
    draws, clients, flags = random.Random(kills), Clients("", 4, 100.0, asks=False), ["--snapshot-events", "7"]
    with closing(sqlite3.connect(tmp_path / LOG, isolation_level=None)) as reader:
        for number in range(kills):
            with ServerProcess(shop_run, tmp_path, *flags) as server:  # which is killed at the end of this block
                if number % 3 == 2:
                    time.sleep(draws.uniform(0.5, 2.5))
                    continue
                clients.url = server.wait().url
                enough = len(clients.acknowledged) + 10
                wait_for(lambda enough=enough: len(clients.acknowledged) > enough)
                if number == kills // 2:
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM events").fetchone()
                time.sleep(draws.uniform(0.0, 0.7))
        with ServerProcess(shop_run, tmp_path, *flags) as server:
            clients.url = server.wait().url
            clients.stop()
            assert server.end(signal.SIGINT) == 0
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


@pytest.mark.parametrize("limit", ["size of files", pytest.param("size of the disk", marks=pytest.mark.slow)])
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


def test_wrong_input_is_refused(command: Command, process: Command, shop_run: Path, tmp_path: Path) -> None:
    """The exit code is 2, with a line that says why, and the state folder is free afterwards."""
    occupied = socket.create_server(("127.0.0.1", 0))
    port, state, other = str(occupied.getsockname()[1]), tmp_path / "state", tmp_path / "other"
    for flags, fault in [
        (["--host", "0.0.0.0"], "host 0.0.0.0 is open to other machines, which needs a token"),
        (["--port", port], f"port {port} of 127.0.0.1 cannot be used: "),
        (["--port", "70000"], "--port"),
        (["--host", "no.such.host.invalid", "--token", "x"], "host no.such.host.invalid cannot be used: "),
        (["--token", "a b"], "the token is empty or has blanks"),
        (["--queue", "0"], "queue must be at least 1, not 0"),
        (["--follow", ""], "--follow is empty; give a value, or omit it"),
        (["--retrain", "soon"], "retrain is 'soon'"),
        (["--replayed"], "use it with --follow -"),
        (["--late", "drop"], "late is for --follow"),
        (["--timeout", "0"], "timeout must be above 0"),
        (["--follow", "missing.csv"], "missing.csv: cannot be followed: No such file"),
        (["--nonsense"], "--nonsense"),
        (["--state", str(shop_run / "config.toml")], "config.toml"),
    ]:
        assert fault in refusal(command("serve", str(shop_run), "--port", "0", "--state", str(state), *flags))
    with started(shop_run, state):
        assert "another service uses it" in refusal(command("serve", str(shop_run), "--state", str(state)))
    assert "missing: " in refusal(process("serve", str(other / "missing")))
    occupied.close()


def line(number: int) -> str:
    """A purchase in a line of JSON; each has its own second."""
    event = purchase((f"u{number % 9}", 100 + number % 7, number))
    features = event.pop("features")
    return json.dumps({"user": event["src"], "item": event["dst"], "when": event["t"], **features}) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["file", "pipe"])
def test_following_through_a_kill(source: str, shop_run: Path, tmp_path: Path) -> None:
    """Each line is taken in once, though the process is killed between two of them."""
    path, state, count, piped = tmp_path / "events.jsonl", tmp_path / "state", 400, source == "pipe"
    path.write_text("".join(map(line, range(150))), encoding="utf-8")
    flags = ["--follow", "-" if piped else str(path), "--snapshot-events", "60"]

    def observed(client: Client) -> int:
        return int(client.ask("/status")[1]["observed"])

    def feed(server: ServerProcess, numbers: range, each: float = 0.0) -> None:
        pipe = server.process.stdin
        with path.open("a", encoding="utf-8") if pipe is None else nullcontext(pipe) as file:
            for number in numbers:
                file.write(line(number))
                file.flush()
                time.sleep(each)

    with ServerProcess(shop_run, state, *flags, stdin=piped) as server:
        client = Client(server.wait().url)
        assert client.ask("/observe", purchase(("u1", 100, 10**6)))[0] == 409
        if piped:
            feed(server, range(150))
        feed(server, range(150, 220), 0.005)
        wait_for(lambda: observed(client) > 160)
        server.kill()
        before = len(rows(state, "SELECT * FROM events"))
        assert 160 < before <= 220
    with ServerProcess(shop_run, state, *flags, *(["--replayed"] if piped else []), stdin=piped) as server:
        client = Client(server.wait().url)
        feed(server, range(0 if piped else 220, count))
        wait_for(lambda: observed(client) == count)
        assert server.end() == 0
    start = int((APRIL - datetime(1970, 1, 1)).total_seconds())
    logged = rows(state, "SELECT src, dst, t FROM events ORDER BY number")
    assert logged == [(f"u{number % 9}", 100 + number % 7, start + number) for number in range(count)]
    assert rows(state, "SELECT count(*) FROM rejected") == [(0,)]
    check_last_snapshot(shop_run, state, digests(shop_run, state, snapshot=False))
