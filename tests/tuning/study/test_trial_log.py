"""The log of a search's trials: the content of its file, resuming an interrupted or killed search, and broken files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from mspipe_triton.tuning.study.search import Cutoff, Search, Trial
from mspipe_triton.tuning.study.space import Point, Space
from tests.tuning.study.search_case import SMALL, SPACE, Measurement


def interrupting(measurement: Measurement, after: int) -> Callable[[Point, Cutoff], dict[str, float]]:
    def measure(point: Point, cutoff: Cutoff) -> dict[str, float]:
        if len(measurement.points) == after:
            raise KeyboardInterrupt
        return measurement(point, cutoff)

    return measure


def refuse_one(point: Point) -> str | None:
    """Refuse a quarter of the points."""
    return "spills" if point["threads"] == 2 else None


def test_an_interrupted_search_resumes_as_if_never_interrupted(tmp_path: Path) -> None:
    storage, measurement, trials = tmp_path / "tuning.db", Measurement(), list[Trial]()
    whole = Search(SMALL, "whole", seed=1, refuse=refuse_one).run(Measurement(), 1e9, trials=24)
    with pytest.raises(KeyboardInterrupt):
        Search(SMALL, "run", storage, 1, refuse_one).run(interrupting(measurement, 20), 1e9, 24, trials.append)
    search = Search(SMALL, "run", storage, 1, refuse_one)
    assert search.notice is None
    assert search.trials == trials
    assert {trial.state for trial in trials} == {"measured", "cut short", "refused"}
    assert search.run(measurement, 1e9, trials=24) == whole
    assert len(measurement.points) == 24


KILLED = """
import os, signal, sys
from pathlib import Path
from mspipe_triton.tuning.study.search import Search
from mspipe_triton.tuning.study.space import Space

space = Space({"threads": (1, 2, 3, 4)}, {"threads": 2})
trials = []

def measure(point, cutoff):
    cutoff(1.0)
    if len(trials) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"score": point["threads"]}

Search(space, "killed", Path(sys.argv[1])).run(measure, 1e9, observe=trials.append)
"""


def test_a_killed_search_resumes_and_retries_its_last_point(tmp_path: Path) -> None:
    storage, threads = tmp_path / "tuning.db", list[int]()
    process = subprocess.run([sys.executable, "-c", KILLED, str(storage)], check=False, timeout=120)
    assert process.returncode == -9

    def measure(point: Point, cutoff: Cutoff) -> dict[str, float]:
        threads.append(int(point["threads"]))
        return {"score": float(point["threads"])}

    search = Search(Space({"threads": (1, 2, 3, 4)}, {"threads": 2}), "killed", storage)
    before = [trial.point["threads"] for trial in search.trials]
    result = search.run(measure, 1e9)
    assert before[0] == 2
    assert sorted(before + threads) == [1, 2, 3, 4]
    assert len(threads) == 2
    assert result.score == 4
    study = optuna.load_study(study_name=search.study_name, storage=f"sqlite:///{storage}")
    states = [trial.state for trial in study.trials]
    assert states.count(optuna.trial.TrialState.FAIL) == 1
    assert states.count(optuna.trial.TrialState.COMPLETE) == 4


def test_the_file_has_values_states_and_reasons(tmp_path: Path) -> None:
    storage = tmp_path / "tuning.db"
    search = Search(SMALL, "shown", storage, refuse=refuse_one)
    search.run(Measurement(), 1e9, trials=10)
    study = optuna.load_study(study_name=search.study_name, storage=f"sqlite:///{storage}")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    states = {"measured": "COMPLETE", "cut short": "PRUNED", "refused": "PRUNED"}
    for entry, trial in zip(study.trials, search.trials, strict=True):
        assert entry.params == trial.point
        assert entry.state.name == states[trial.state]
        assert entry.value == trial.score
        assert entry.user_attrs.get("reason", "") == trial.reason
        assert entry.user_attrs.get("stalls") == trial.facts.get("stalls")
        assert len(entry.intermediate_values) == {"measured": 4, "cut short": 2, "refused": 0}[trial.state]


def test_a_changed_space_starts_a_new_search(tmp_path: Path) -> None:
    storage = tmp_path / "tuning.db"
    Search(SMALL, "run", storage).run(Measurement(), 1e9, trials=2)
    assert len(Search(SMALL, "run", storage).trials) == 2
    assert Search(SPACE, "run", storage).trials == []
    assert Search(SMALL, "other", storage).trials == []


def test_a_search_runs_without_an_unusable_file(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all, but long enough to look like one. " * 40)
    for storage in (garbage, garbage / "below.db", tmp_path / "missing" / "tuning.db"):
        search = Search(SMALL, "run", storage)
        assert search.run(Measurement(), 1e9, trials=3).score >= 115
        assert search.notice is not None
        assert search.notice.startswith(f"{storage}: ")
        assert "\n" not in search.notice
    assert garbage.read_bytes().startswith(b"no database")


def test_a_file_that_breaks_during_a_search_loses_nothing(tmp_path: Path) -> None:
    storage, measurement = tmp_path / "tuning.db", Measurement()

    def breaking(point: Point, cutoff: Cutoff) -> dict[str, float]:
        if len(measurement.points) == 3:
            with sqlite3.connect(storage) as database:
                database.execute("DROP TABLE trial_user_attributes")
        return measurement(point, cutoff)

    search = Search(SMALL, "run", storage)
    result = search.run(breaking, 1e9, trials=8)
    assert result == Search(SMALL, "run").run(Measurement(), 1e9, trials=8)
    assert search.notice is not None
    assert "trial_user_attributes" in search.notice


def test_optuna_is_silent_and_keeps_its_verbosity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        Search(SMALL, "quiet", tmp_path / "tuning.db", refuse=refuse_one).run(Measurement(), 1e9, trials=14)
    finally:
        optuna.logging.disable_propagation()
    assert caplog.messages == []
    assert [str(warning.message) for warning in recwarn] == []
    assert optuna.logging.get_verbosity() == before
