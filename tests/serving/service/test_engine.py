"""The engine of a service: groups of requests, repeated ones, faults, limits, snapshots and restarts."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

from mspipe_triton import load
from mspipe_triton.errors import DataError, InputError, RunFolderError
from mspipe_triton.serving.service.engine import Service
from mspipe_triton.serving.service.state import SNAPSHOTS
from mspipe_triton.serving.service.work import (
    Batch,
    BusyError,
    KeyReusedError,
    LogError,
    Observed,
    Question,
    StartingError,
)
from tests.serving.served import copied
from tests.serving.service.services import PATIENCE, Gate, logged, outcome, purchase, same_bits, started, wait_for


def test_a_restart_gives_the_same_bits(shop_run: Path, tmp_path: Path) -> None:
    """Eight threads observe and ask; the state is that of a serial replay, from the run and from snapshots."""
    with started(shop_run, tmp_path, events=60) as parts:
        failures: list[BaseException] = []

        def work(thread: int) -> None:
            draws = random.Random(thread)
            try:
                for number in range(12):
                    parts.service.observe(purchase(number, late="drop")).result(PATIENCE)
                    parts.service.rank(Question(f"u{draws.randrange(20)}", mode=draws.choice(["exact", "cached"])))
                    parts.service.ask(lambda predictor: predictor.embed()).result(PATIENCE)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not failures
        wait_for(lambda: parts.service.status().snapshot > 0)
    assert parts.service.failure is None
    entries = logged(shop_run, tmp_path)
    assert sum(entry.count for entry in entries) == len(parts.predictor) - 400 > 60
    replayed = load(shop_run)
    for entry in entries:
        replayed.take(entry.events)
    same_bits(replayed, parts.predictor)
    assert list((tmp_path / SNAPSHOTS).iterdir())
    with started(shop_run, tmp_path) as again:
        assert (again.service.status().replayed, again.service.status().observed) == (0, len(replayed) - 400)
        same_bits(again.predictor, replayed)
    shutil.rmtree(tmp_path / SNAPSHOTS)
    with started(shop_run, tmp_path) as again:
        assert again.service.status().replayed == len(entries)
        same_bits(again.predictor, replayed)


def test_a_service_that_says_it_is_ready_takes_requests(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[str] = []

    def note(service: Service, name: str, value: Any) -> None:
        object.__setattr__(service, name, value)
        if name == "_status" and value.ready:
            states.append(service._state)

    monkeypatch.setattr(Service, "__setattr__", note)
    with started(shop_run, tmp_path):
        assert states[0] == ""


def test_requests_of_a_group_are_checked_one_after_the_other(shop_run: Path, tmp_path: Path) -> None:
    with started(shop_run, tmp_path) as parts:
        gate = Gate(parts)
        batches = [
            purchase(5), purchase(3), purchase(6, late="drop"), purchase(2, late="drop"),
            Batch("u1", "x", "2024-04-02", {"amount": 1, "channel": "web"}), purchase(7),
        ]  # fmt: skip
        futures = [parts.service.observe(batch) for batch in batches]
        ranking = parts.service.rank(Question("new3"))
        gate.open()
        results = [outcome(future) for future in futures]
        assert results[0] == Observed(2, 0, 402)
        assert isinstance(results[1], DataError)
        assert "event 0 is late" in str(results[1])
        assert results[2:4] == [Observed(2, 0, 404), Observed(0, 2, 404)]
        assert isinstance(results[4], DataError)
        assert "dst is 'x', not an integer" in str(results[4])
        assert results[5] == Observed(2, 0, 406)
        assert len(parts.log) == 3, "neither refused batches nor empty ones are logged"
        assert outcome(ranking), "new3 is of the last batch of the group"
        other = load(shop_run)
        for batch in (purchase(5), purchase(6), purchase(7)):
            other.observe(batch.src, batch.dst, batch.t, batch.features)
        same_bits(parts.predictor, other)
        newest = parts.service.latest(3)
        assert [each["src"] for each in newest] == ["new3", "u7", "new2"]
        assert (newest[0]["dst"], newest[0]["t"]) == (201, "2024-04-01T00:07:00")


def test_features_that_the_run_does_not_have_are_refused(shop_run: Path, tmp_path: Path) -> None:
    with started(shop_run, tmp_path) as parts:
        features = {"amount": 1.5, "channel": "web", "chanel": "web"}
        for each in (features, pa.table({name: [value] for name, value in features.items()})):
            error = outcome(parts.service.observe(Batch(["u1"], [100], "2024-04-01", each)))
            assert isinstance(error, DataError)
            assert "features have 'chanel', and the run's are amount, channel; omit it" in str(error)
        assert len(parts.log) == 0


def test_a_repeated_request_changes_nothing(shop_run: Path, tmp_path: Path) -> None:
    with started(shop_run, tmp_path) as parts:
        gate = Gate(parts)
        first = [parts.service.observe(purchase(1, key="a", digest=b"1")) for _ in range(3)]
        other = parts.service.observe(purchase(2, key="a", digest=b"2"))
        gate.open()
        assert [outcome(each) for each in first] == [
            Observed(2, 0, 402), Observed(2, 0, 402, repeated=True), Observed(2, 0, 402, repeated=True),
        ]  # fmt: skip
        assert isinstance(outcome(other), KeyReusedError)
        parts.service.observe(purchase(3)).result(PATIENCE)
        late = purchase(1, key="late", digest=b"3", late="drop")
        assert parts.service.observe(late).result(PATIENCE) == Observed(0, 2, 404)
    with started(shop_run, tmp_path) as parts:
        again = parts.service.observe(purchase(1, key="a", digest=b"1"))
        assert outcome(again) == Observed(2, 0, 402, repeated=True)
        assert outcome(parts.service.observe(late)) == Observed(0, 2, 404, repeated=True)
        assert isinstance(outcome(parts.service.observe(purchase(9, key="a", digest=b"9"))), KeyReusedError)
        assert len(parts.predictor) == 404


def test_a_full_disk_stops_events_alone(shop_run: Path, tmp_path: Path) -> None:
    with started(shop_run, tmp_path) as parts:
        pages = parts.log._database.execute("PRAGMA page_count").fetchone()[0]
        parts.log._database.execute(f"PRAGMA max_page_count = {pages}")
        done = 0
        for number in range(200):
            result = outcome(parts.service.observe(purchase(number, key=f"k{number}")))
            if isinstance(result, LogError):
                break
            done += 1
        assert isinstance(result, LogError)
        assert "database or disk is full" in str(result)
        assert (len(parts.predictor), parts.service.status().writable) == (400 + 2 * done, False)
        nodes = parts.predictor.nodes
        assert parts.service.rank(Question("u1")).result(PATIENCE)
        assert isinstance(outcome(parts.service.observe(purchase(201))), LogError)
        assert parts.predictor.nodes == nodes, "ids of refused events are not numbered"
        parts.log._database.execute("PRAGMA max_page_count = 100000")
        assert outcome(parts.service.observe(purchase(300))).observed == 2
        assert parts.service.status().writable
    with started(shop_run, tmp_path) as again:
        same_bits(again.predictor, parts.predictor)


def test_a_queue_has_a_limit(shop_run: Path, tmp_path: Path) -> None:
    with started(shop_run, tmp_path, queue=3) as parts:
        gate = Gate(parts)
        futures = [parts.service.rank(Question("u1")) for _ in range(3)]
        assert parts.service.status().waiting == 3
        with pytest.raises(BusyError, match="3 requests wait, as many as are allowed"):
            parts.service.observe(purchase(1))
        assert futures[0].cancel(), "a client that goes away is not waited for"
        gate.open()
        assert outcome(futures[1]) == outcome(futures[2])
        assert outcome(parts.service.observe(purchase(1))) == Observed(2, 0, 402)
    with pytest.raises(StartingError, match="the service stops"):
        parts.service.rank(Question("u1"))


def test_rankings_that_wait_are_answered_together(shop_run: Path, tmp_path: Path) -> None:
    with started(shop_run, tmp_path) as parts:
        alone = {name: parts.predictor.rank(name) for name in ("u1", "u2", "u3")}
        later = parts.predictor.rank("u1", "2024-05-01", 3, mode="cached")
        gate = Gate(parts)
        questions = [Question("u1"), Question("nobody"), Question("u2"), Question("u3"), Question("u1")]
        futures = [parts.service.rank(question) for question in questions]
        others = [parts.service.rank(Question("u1", "2024-05-01", 3, mode="cached")) for _ in range(2)]
        few = parts.service.rank(Question("u2", candidates=[100, 104]))
        gate.open()
        answers = [outcome(future) for future in futures]
        assert isinstance(answers[1], InputError)
        for question, answer in zip(questions, answers, strict=True):
            if question.src != "nobody":
                close(answer, alone[question.src])
        for future in others:
            close(outcome(future), later)
        assert {pair[0] for pair in outcome(few)} == {100, 104}


def close(answer: list[tuple[Any, float]], expected: list[tuple[Any, float]]) -> None:
    """Check that two rankings are the same but for rounding."""
    assert [each for each, _ in answer] == [each for each, _ in expected]
    np.testing.assert_allclose([score for _, score in answer], [score for _, score in expected], rtol=1e-5, atol=1e-5)


def test_new_parameters_are_logged_and_used(shop_run: Path, tmp_path: Path) -> None:
    with started(shop_run, tmp_path) as parts:
        parts.service.observe(purchase(1)).result(PATIENCE)
        before = parts.service.rank(Question("u1", mode="cached")).result(PATIENCE)
        model = parts.predictor._live.model
        parameters = {name: each + 0.25 for name, each in model.state_dict().items()}
        assert outcome(parts.service.swap(save(parameters), '{"better": true}')) == Observed(0, 0, 402)
        after = parts.service.rank(Question("u1", mode="cached")).result(PATIENCE)
        assert abs(after[0][1] - before[0][1]) > 1e-3
        close(after, parts.predictor.rank("u1"))
        parts.service.observe(purchase(2)).result(PATIENCE)
        wrong = {name: each[:0] for name, each in parameters.items()}
        assert isinstance(outcome(parts.service.swap(save(wrong), "{}")), RunFolderError)
        assert (parts.service.status().swaps, len(parts.log)) == (1, 3)
    with started(shop_run, tmp_path) as again:
        assert again.service.status().swaps == 1
        same_bits(again.predictor, parts.predictor)
    shutil.rmtree(tmp_path / SNAPSHOTS)
    with started(shop_run, tmp_path) as again:
        same_bits(again.predictor, parts.predictor)
        assert torch.equal(again.predictor._live.model.state_dict()[name := next(iter(parameters))], parameters[name])


def test_an_error_after_the_log_ends_the_service(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(shop_run, tmp_path) as parts:
        with monkeypatch.context() as patch:
            patch.setattr(parts.predictor, "take", lambda events: 1 / 0)
            error = outcome(parts.service.observe(purchase(1)))
            assert isinstance(error, StartingError)
            assert "has failed (division by zero)" in str(error)
        assert parts.service.stopped.wait(PATIENCE)
        assert isinstance(parts.service.failure, ZeroDivisionError)
        with pytest.raises(StartingError, match="has failed"):
            parts.service.rank(Question("u1"))
    with started(shop_run, tmp_path) as again:
        assert len(again.predictor) == 402, "the logged events are there after a restart"


def test_a_damaged_snapshot_is_passed_over(shop_run: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with started(shop_run, tmp_path) as parts:
            parts.service.observe(purchase(number)).result(PATIENCE)
    folders = sorted((tmp_path / SNAPSHOTS).iterdir())
    assert [each.name for each in folders] == ["000000000002", "000000000003"]
    tensors = folders[1] / "model.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-7] ^= 1  # of a row of memory, which is as good as any other
    tensors.write_bytes(content)
    with started(shop_run, tmp_path) as again:
        assert again.service.status().replayed == 1
        assert len(again.notes) == 1
        assert again.notes[0].endswith("an earlier state is used")
        same_bits(again.predictor, parts.predictor)
    (folders[0] / "nodes.parquet").unlink(missing_ok=True)
    (folders[1] / "events.safetensors").write_bytes(b"")
    with started(shop_run, tmp_path) as again:
        same_bits(again.predictor, parts.predictor)


def test_a_state_of_another_run_or_service_is_refused(shop_run: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with started(shop_run, state) as parts:
        with pytest.raises(RunFolderError, match="another service uses it"), started(shop_run, state):
            pass
        parts.service.observe(purchase(1)).result(PATIENCE)
    other = tmp_path / "other"
    changed = load(shop_run)
    changed.observe("zoe", 100, "2024-04-01", {"amount": 1.5, "channel": "web"})
    changed.save(other)
    with pytest.raises(RunFolderError, match="it is the log of another run"), started(other, state):
        pass
    (state / "events.db").unlink()
    with pytest.raises(RunFolderError, match="has 0 entries, and the last snapshot has 1"), started(shop_run, state):
        pass
    (state / "events.db").write_bytes(b"no database, but a file of some length" * 100)
    with pytest.raises(RunFolderError, match="is no log that can be read"), started(shop_run, state):
        pass
    run = copied(shop_run, tmp_path)
    (run / "model.json").unlink()
    with pytest.raises(RunFolderError, match="no model there"), started(run, tmp_path / "new"):
        pass
