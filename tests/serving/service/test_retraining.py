"""Retraining that leaves the old parameters: lower scores, few events, faults, an interrupt; seeds and its process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mspipe_triton import load
from mspipe_triton.data.events import EventStream
from mspipe_triton.serving.service import retraining
from mspipe_triton.serving.service.retraining import main, retrain
from tests.serving.served import columns, trained
from tests.serving.service.drifting import (
    NEW,
    OLD,
    SETTINGS,
    SIZE,
    changed,
    drifted,
    fed,
    first_events,
    saved,
)


@pytest.fixture(scope="module")
def stream() -> EventStream:
    return drifted()


@pytest.fixture(scope="module")
def run(stream: EventStream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of APAN on the events before tastes change."""
    return trained(tmp_path_factory.mktemp("run"), first_events(stream), "apan", **SETTINGS)


@pytest.fixture
def folders(run: Path, stream: EventStream, tmp_path: Path) -> tuple[Path, Path]:
    """Predictors saved before and after all new events."""
    return saved(tmp_path, run, first_events(stream), fed(stream), len(stream))


@pytest.fixture
def priorities(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Changes of priority that `main` asks for, and this process does not get."""
    changes: list[int] = []
    monkeypatch.setattr(retraining.os, "nice", changes.append)
    return changes


def test_old_parameters_stay_unless_new_ones_score_higher(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, now = folders
    changed(now, lr=1e-30)
    out = tmp_path / "out"
    out.mkdir()
    (out / "parameters.safetensors").write_bytes(b"of a former retraining")
    verdict = retrain(base, now, out)
    assert verdict.old == verdict.new
    assert (verdict.better, verdict.epoch) == (False, 1)
    assert verdict.old is not None
    ap = f"{verdict.old['ap']:.4f}"
    assert verdict.reason == f"ap {ap} after epoch 1 is not above {ap}"
    assert [path.name for path in out.iterdir()] == ["verdict.json"]
    assert json.loads((out / "verdict.json").read_text()) == asdict(verdict)


@contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A retraining in a process of its own, attached to this one."""
    command = [sys.executable, "-m", retraining.__name__, *map(str, arguments), "--attached"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bits(folders: tuple[Path, Path], tmp_path: Path) -> None:
    verdicts = [retrain(*folders, tmp_path / name, 1, seed) for name, seed in (("a", None), ("b", 3), ("c", 4))]
    first, same, other = (load_file(tmp_path / name / "parameters.safetensors") for name in "abc")
    assert replace(verdicts[0], seconds=0) == replace(verdicts[1], seconds=0)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    with started(*folders, tmp_path / "d", "--epochs", "1") as process:
        assert process.stdout is not None
        assert (process.stdout.read(), process.wait(60)) == (b"", 0)
    content = json.loads((tmp_path / "d" / "verdict.json").read_text())
    assert content | {"seconds": 0} == asdict(replace(verdicts[0], seconds=0))
    theirs = load_file(tmp_path / "d" / "parameters.safetensors")
    assert all(torch.equal(first[name], theirs[name]) for name in first)


def test_draws_differ_from_one_retraining_to_the_next(
    folders: tuple[Path, Path], stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, process_settings = [], retraining.process_settings

    def noted(config: Any) -> Any:
        seeds.append(config.train.seed)
        return process_settings(config)

    monkeypatch.setattr(retraining, "process_settings", noted)
    predictor = load(folders[0])
    predictor.observe(**columns(stream, OLD, OLD + 50))
    predictor.save(tmp_path / "later")
    for base in (folders[0], tmp_path / "later"):
        retrain(base, folders[1], tmp_path / "out", 1)
    assert seeds == [3 + OLD, 3 + OLD + 50]
    retrain(*folders, tmp_path / "out", 1, 2**32 - 1)
    assert seeds[2:] == [OLD - 1]


@pytest.mark.parametrize("new", [0, 1, 5 * SIZE - 5, 5 * SIZE - 4])
def test_too_few_events_are_a_verdict(new: int, run: Path, stream: EventStream, tmp_path: Path) -> None:
    base, now = saved(tmp_path, run, first_events(stream), fed(stream), OLD + new)
    verdict = retrain(base, now, tmp_path / "out", 1)
    assert verdict.train_events + verdict.validation_events == new
    if new == 5 * SIZE - 4:
        assert (verdict.validation_events, verdict.epoch) == (SIZE, 1)
        return
    assert not verdict.better
    assert (verdict.old, verdict.new, verdict.epoch) == (None, None, None)
    assert verdict.reason == (
        f"too few new events: {verdict.train_events} to train on and {verdict.validation_events} to validate; "
        f"it takes {2 * SIZE} and {SIZE}"
    )


def test_one_time_or_one_destination_is_a_verdict(run: Path, stream: EventStream, tmp_path: Path) -> None:
    predictor, start, new = load(run, stream=first_events(stream), at=int(stream.t[1])), int(stream.t[1]), 10 * SIZE
    predictor.save(tmp_path / "base")
    same = {"src": [0] * new, "dst": [int(stream.dst[0])] * new, "features": np.ones((new, 2))}
    reasons = []
    for t in (start, range(start + 1, start + 1 + new)):
        predictor.observe(**same, t=t)
        predictor.save(tmp_path / "now")
        verdict = retrain(tmp_path / "base", tmp_path / "now", tmp_path / "out")
        assert (verdict.better, verdict.old) == (False, None)
        reasons.append(verdict.reason)
    assert reasons == [
        "too few new events: 0 to train on and 200 to validate; it takes 40 and 20",
        "all 401 events have the same destination, so there are no negatives",
    ]


def test_validation_never_cuts_a_tie(run: Path, stream: EventStream, tmp_path: Path) -> None:
    t = stream.t.clone()
    border = OLD + NEW * 4 // 5
    t[border - 33 : border + 2] = t[border]
    tied = replace(stream, t=t)
    base, now = saved(tmp_path, run, first_events(stream), fed(tied), len(tied))
    verdict = retrain(base, now, tmp_path / "out", 1)
    assert (verdict.train_events, verdict.validation_events) == (NEW * 4 // 5 - 33, NEW // 5 + 33)
    assert verdict.epoch == 1


def test_faults_are_verdicts(folders: tuple[Path, Path], tmp_path: Path, priorities: list[int]) -> None:
    base, now = folders
    out = tmp_path / "out"
    reason = retrain(now, base, out).reason
    assert reason == (f"{base}: its 1,500 events do not begin with the 2,500 of {now}; save both from one predictor")
    assert retrain(base, now, out, epochs=0).reason == "epochs must be at least 1, not 0"
    changed(now, lr=1e30)
    verdict = retrain(base, now, out)
    assert verdict.reason.startswith("the loss is nan in epoch 1, iteration ")
    assert (verdict.better, verdict.new, verdict.first, verdict.train_events) == (False, None, OLD, 800)
    changed(now, lr=1e-2)
    (now / "README.md").unlink()
    assert (main([str(base), str(now), str(out)]), priorities) == (0, [10])
    assert json.loads((out / "verdict.json").read_text())["reason"] == (
        f"{now}: damaged or incomplete (FileNotFoundError); save it again"
    )


def test_parameters_that_score_no_number_lose(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = retraining.Way.train

    def spoilt(way: Any, epoch: int) -> dict[str, Any]:
        metrics = train(way, epoch)
        with torch.no_grad():
            next(way.session.model.parameters()).fill_(torch.nan)
        return metrics

    monkeypatch.setattr(retraining.Way, "train", spoilt)
    verdict = retrain(*folders, tmp_path / "out")
    assert (verdict.better, verdict.reason) == (False, "a score is not finite")


def test_without_a_verdict_the_process_fails(
    folders: tuple[Path, Path], tmp_path: Path, priorities: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([*map(str, folders), str(tmp_path / "file")]) != 0
    assert capsys.readouterr().err == f"{tmp_path / 'file'}: cannot be written: File exists\n"


def test_an_interrupt_leaves_no_traceback(
    folders: tuple[Path, Path], tmp_path: Path, priorities: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining.Way, "train", Mock(side_effect=KeyboardInterrupt))
    assert main([*map(str, folders), str(tmp_path / "out")]) == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_an_attached_process_ends_with_its_input(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with started(*folders, tmp_path / "out", "--epochs", "1000000") as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
    assert not (tmp_path / "out" / "verdict.json").exists()
