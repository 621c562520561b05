"""Retraining beside a service: its process, the swap of better parameters, and outcomes that change nothing."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.models.stored import SETTINGS
from mspipe_triton.serving.files import Saved, is_saved
from mspipe_triton.serving.service.retrainer import BASE, NOW, OUT, Retraining
from mspipe_triton.serving.service.retraining import PARAMETERS, VERDICT
from mspipe_triton.serving.service.settings import Every
from mspipe_triton.serving.service.work import Batch, Question
from tests.serving.served import shop
from tests.serving.service.services import PATIENCE, Started, same_bits, started, wait_for


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns in few steps."""
    return shop(tmp_path_factory.mktemp("shop"), lr=0.02)


@contextmanager
def retraining(run: Path, folder: Path, every: Every) -> Iterator[Started]:
    """A service that retrains."""
    with started(run, folder) as parts:
        task = Retraining(folder / "retraining", every, parts.service, parts.predictor, parts.notes.append)
        parts.service.tasks.append(task)
        yield parts


def observe(parts: Started, count: int, first: int = 0) -> None:
    """Observe purchases of users who have come to like one item each, so that new parameters are better."""
    draws = random.Random(first)
    for number in range(first, first + count):
        user = draws.randrange(20)
        item, features = 100 + (user + 3) % 12, {"amount": 2.5, "channel": "web"}
        date = f"2024-05-{1 + number // 24:02}T{number % 24:02}:00:00"
        parts.service.observe(Batch(f"u{user}", item, date, features)).result(PATIENCE)


def events_of(folder: Path) -> int:
    """Number of events of a saved predictor."""
    return int(json.loads((folder / SETTINGS).read_text())["events"])


@pytest.mark.slow
def test_better_parameters_are_swapped_in_and_kept(quick_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "retraining"
    with retraining(quick_run, tmp_path, Every(events=400)) as parts:
        assert events_of(folder / BASE) == 400
        before = parts.service.rank(Question("u1")).result(PATIENCE)
        observe(parts, 450)
        wait_for(lambda: parts.notes)
        verdict = json.loads((folder / OUT / VERDICT).read_text())
        assert (verdict["first"], verdict["better"]) == (400, True), verdict
        assert parts.notes[0].startswith("Retraining after 8"), parts.notes
        assert "new parameters are in use: ap " in parts.notes[0]
        status = parts.service.status()
        assert (status.swaps, parts.notes[0].endswith(f"{status.retrained}.")) == (1, True)
        after = parts.service.rank(Question("u1")).result(PATIENCE)
        assert dict(before) != dict(after)
        assert (events_of(folder / BASE) >= 800, (folder / NOW).exists()) == (True, False)
        logged = [entry for entry in parts.log.read() if entry.parameters is not None]
        assert json.loads(logged[0].verdict or "") == verdict
        observe(parts, 20, 450)
    with started(quick_run, tmp_path) as again:
        same_bits(again.predictor, parts.predictor)


@pytest.mark.slow
def test_a_few_events_stay_for_the_next_time(shop_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "retraining"
    with retraining(shop_run, tmp_path, Every(events=10)) as parts:
        observe(parts, 12)
        wait_for(lambda: parts.notes)
        assert "the parameters stay: too few new events" in parts.notes[0]
        assert (events_of(folder / BASE), parts.service.status().swaps) == (400, 0)
    with retraining(shop_run, tmp_path, Every(events=10**6)):
        assert events_of(folder / BASE) == 400, "a restart goes on from there"


def test_a_service_that_stops_ends_the_process(shop_run: Path, tmp_path: Path) -> None:
    with retraining(shop_run, tmp_path, Every(events=300)) as parts:
        observe(parts, 300)
        task = parts.service.tasks[1]
        assert isinstance(task, Retraining)
        wait_for(lambda: task._process is not None)
        process = task._process
    assert process is not None
    assert process.returncode not in (None, 0)
    assert parts.notes == []
    assert is_saved(tmp_path / "retraining" / BASE)
    assert events_of(tmp_path / "retraining" / BASE) == 400


def test_a_service_stops_before_the_process_starts(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for the other, and nothing of the retraining is used or passed over."""
    write, entered = Saved.write, threading.Event()

    def slow(image: Saved, folder: Path) -> None:
        write(image, folder)
        if folder.name == NOW:
            entered.set()
            wait_for(lambda: parts.service._state == "stops" or stopping.is_set())

    monkeypatch.setattr(Saved, "write", slow)
    with retraining(shop_run, tmp_path, Every(events=300)) as parts:
        task = parts.service.tasks[1]
        assert isinstance(task, Retraining)
        stopping = task._stopping
        observe(parts, 300)
        assert entered.wait(PATIENCE)
        start = time.monotonic()
    assert time.monotonic() - start < 2, "no process trains to its end"
    assert events_of(tmp_path / "retraining" / BASE) == 400


def test_better_parameters_at_the_end_are_left_for_the_next_start(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(task: Retraining, base: Path, now: Path, out: Path) -> dict[str, Any]:
        out.mkdir()
        (out / PARAMETERS).write_bytes(b"")
        assert task._stopping.wait(PATIENCE)
        return {"better": True, "new": {}, "reason": "they are better"}

    monkeypatch.setattr(Retraining, "_run", run)
    with retraining(shop_run, tmp_path, Every(events=5)) as parts:
        observe(parts, 6)
    assert parts.notes == []
    assert events_of(tmp_path / "retraining" / BASE) == 400


def test_a_failure_is_told_and_leaves_the_service_alone(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false" if os.path.exists("/bin/false") else "/usr/bin/false")
    with retraining(shop_run, tmp_path, Every(events=5)) as parts:
        observe(parts, 6)
        wait_for(lambda: parts.notes)
        assert "failed: the process ended with 1" in parts.notes[0]
        assert parts.service.rank(Question("u1")).result(PATIENCE)
        assert parts.service.status().retrained.startswith("failed: ")
