"""The search's record: what its file holds, how an interrupted or killed search goes on, and files that break."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from mspipe_triton.tuning.study.search import Cut, Search, Told
from mspipe_triton.tuning.study.space import Point, Space
from tests.tuning.study.search_case import SMALL, SPACE, Measured


def interrupting(measured: Measured, after: int) -> Callable[[Point, Cut], dict[str, float]]:
    def measure(point: Point, cut: Cut) -> dict[str, float]:
        if len(measured.points) == after:
            raise KeyboardInterrupt
        return measured(point, cut)

    return measure


def refuse_one(point: Point) -> str | None:
    """Refuse one in four."""
    return "spills" if point["threads"] == 2 else None


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    storage, measured, seen = tmp_path / "tuning.db", Measured(), list[Told]()
    whole = Search(SMALL, "whole", seed=1, refuse=refuse_one).run(Measured(), 1e9, trials=24)
    with pytest.raises(KeyboardInterrupt):
        Search(SMALL, "run", storage, 1, refuse_one).run(interrupting(measured, 20), 1e9, 24, seen.append)
    search = Search(SMALL, "run", storage, 1, refuse_one)
    assert search.notice is None
    assert search.told == seen
    assert {told.state for told in seen} == {"measured", "cut short", "refused"}
    assert search.run(measured, 1e9, trials=24) == whole
    assert len(measured.points) == 24


KILLED = """
import os, signal, sys
from pathlib import Path
from mspipe_triton.tuning.study.search import Search
from mspipe_triton.tuning.study.space import Space

space = Space({"threads": (1, 2, 3, 4)}, {"threads": 2})
seen = []

def measure(point, cut):
    cut(1.0)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"score": point["threads"]}

Search(space, "killed", Path(sys.argv[1])).run(measure, 1e9, observe=seen.append)
"""


def test_a_killed_search_is_resumed_and_its_last_point_tried_again(tmp_path: Path) -> None:
    storage, tried = tmp_path / "tuning.db", list[int]()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(storage)], check=False, timeout=120)
    assert killed.returncode == -9

    def measure(point: Point, cut: Cut) -> dict[str, float]:
        tried.append(int(point["threads"]))
        return {"score": float(point["threads"])}

    search = Search(Space({"threads": (1, 2, 3, 4)}, {"threads": 2}), "killed", storage)
    before = [told.point["threads"] for told in search.told]
    found = search.run(measure, 1e9)
    assert before[0] == 2
    assert sorted(before + tried) == [1, 2, 3, 4]
    assert len(tried) == 2
    assert found.score == 4
    study = optuna.load_study(study_name=search.study_name, storage=f"sqlite:///{storage}")
    states = [trial.state for trial in study.trials]
    assert states.count(optuna.trial.TrialState.FAIL) == 1
    assert states.count(optuna.trial.TrialState.COMPLETE) == 4


def test_the_file_shows_values_states_and_reasons(tmp_path: Path) -> None:
    storage = tmp_path / "tuning.db"
    search = Search(SMALL, "shown", storage, refuse=refuse_one)
    search.run(Measured(), 1e9, trials=10)
    study = optuna.load_study(study_name=search.study_name, storage=f"sqlite:///{storage}")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    states = {"measured": "COMPLETE", "cut short": "PRUNED", "refused": "PRUNED"}
    for trial, told in zip(study.trials, search.told, strict=True):
        assert trial.params == told.point
        assert trial.state.name == states[told.state]
        assert trial.value == told.score
        assert trial.user_attrs.get("reason", "") == told.reason
        assert trial.user_attrs.get("stalls") == told.facts.get("stalls")
        assert len(trial.intermediate_values) == {"measured": 4, "cut short": 2, "refused": 0}[told.state]


def test_a_space_that_has_changed_is_searched_anew(tmp_path: Path) -> None:
    storage = tmp_path / "tuning.db"
    Search(SMALL, "run", storage).run(Measured(), 1e9, trials=2)
    assert len(Search(SMALL, "run", storage).told) == 2
    assert Search(SPACE, "run", storage).told == []
    assert Search(SMALL, "other", storage).told == []


def test_a_file_that_cannot_be_used_is_done_without(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all, but long enough to be taken for one. " * 40)
    for storage in (garbage, garbage / "below.db", tmp_path / "missing" / "tuning.db"):
        search = Search(SMALL, "run", storage)
        assert search.run(Measured(), 1e9, trials=3).score >= 115
        assert search.notice is not None
        assert search.notice.startswith(f"{storage}: ")
        assert "\n" not in search.notice
    assert garbage.read_bytes().startswith(b"no database")


def test_a_file_that_breaks_on_the_way_loses_nothing(tmp_path: Path) -> None:
    storage, measured = tmp_path / "tuning.db", Measured()

    def breaking(point: Point, cut: Cut) -> dict[str, float]:
        if len(measured.points) == 3:
            with sqlite3.connect(storage) as database:
                database.execute("DROP TABLE trial_user_attributes")
        return measured(point, cut)

    search = Search(SMALL, "run", storage)
    found = search.run(breaking, 1e9, trials=8)
    assert found == Search(SMALL, "run").run(Measured(), 1e9, trials=8)
    assert search.notice is not None
    assert "trial_user_attributes" in search.notice


def test_optuna_is_silent_and_left_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        Search(SMALL, "quiet", tmp_path / "tuning.db", refuse=refuse_one).run(Measured(), 1e9, trials=14)
    finally:
        optuna.logging.disable_propagation()
    assert caplog.messages == []
    assert [str(warning.message) for warning in recwarn] == []
    assert optuna.logging.get_verbosity() == before
