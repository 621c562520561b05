"""The tuner: its choice, its profile, and its behaviour without time, without disk space and after an interrupt."""

from __future__ import annotations

import random
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.execution import RunSettings
from mspipe_triton.settings import default_settings
from mspipe_triton.training.strategy import Fixed
from mspipe_triton.tuning import strategy_for
from mspipe_triton.tuning.profile.describe import describe_settings
from mspipe_triton.tuning.profile.key import Key
from mspipe_triton.tuning.profile.store import ProfileStore
from mspipe_triton.tuning.runs.gate import RunGate
from mspipe_triton.tuning.runs.measure import RunMeasurer
from mspipe_triton.tuning.runs.space import settings_at
from mspipe_triton.tuning.study.search import Trial
from mspipe_triton.tuning.tuner import BudgetError, TuningObserver, autotune

CONFIG = RunConfig(model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=50))
STAGES = ("sample", "features", "memory", "patch", "train", "update")


class Notes(TuningObserver):
    """Collects trials and notes."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.notes: list[str] = []

    def trial(self, trial: Trial) -> None:
        self.trials.append(trial)

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set two cores and no compiler: no test here needs fused loops, and compiling them is slow."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.fixture
def block_counts(monkeypatch: pytest.MonkeyPatch) -> dict[RunSettings, int]:
    """Replace blocks by ones that run nothing: prefetch is twice as fast as the rest, and 10 % faster with 4 ahead."""
    counts: dict[RunSettings, int] = {}

    def block(self: RunMeasurer, settings: RunSettings, place: int) -> float:
        if time.perf_counter() > self.until:
            raise KeyboardInterrupt("blocks that run nothing must not use up a budget of one minute")
        counts[settings] = counts.get(settings, 0) + 1
        stages = [name for name in STAGES if name != "patch" or settings.schedule == "exact"]
        for number, stage in enumerate(stages, 1):
            self.stages.setdefault(settings, {}).setdefault(stage, []).append(number * 1e-3)
        noise = 1 + 0.01 * (counts[settings] % 3)
        return 1000.0 * noise * (2.0 + 0.2 * (settings.prefetch == 4) if settings.schedule == "prefetch" else 1.0)

    monkeypatch.setattr(RunMeasurer, "block", block)
    monkeypatch.setattr(RunGate, "refusal", lambda self, settings: None)
    return counts


def tune(
    stream: EventStream, folder: Path, budget: float = 60.0, trials: int = 12, seed: int = 0, **flags: Any
) -> tuple[Any, Notes]:
    observer, config = Notes(), CONFIG.with_flags({"seed": seed, **flags})
    profile = autotune(config, stream, budget, ProfileStore(folder), observer, trials=trials)
    return profile.to_json(), observer


@pytest.mark.usefixtures("block_counts")
def test_the_fastest_settings_are_found_confirmed_planned_and_saved(small_stream: EventStream, tmp_path: Path) -> None:
    profile, observer = tune(small_stream, tmp_path, trials=40)
    settings = RunSettings(**profile["settings"])
    assert (settings.schedule, settings.prefetch) == ("prefetch", 4)
    assert observer.trials[0].point.items() <= asdict(default_settings(CONFIG.train)).items(), "the shipped ones first"
    facts = profile["search"]
    assert facts["gain"] == pytest.approx(1.2, abs=0.05)
    assert 0 < facts["noise"] < 0.05
    assert not facts["shipped_kept"]
    assert set(profile["stage_seconds"]) == set(STAGES) - {"patch"}
    plan = profile["plan"]
    assert (plan["schedule"], plan["lower_bound"]) == ("prefetch", pytest.approx(5e-3))
    stored = ProfileStore(tmp_path).find(Key.of(CONFIG, small_stream))
    assert stored is not None
    assert stored.to_json() == profile
    lines: list[str] = []
    strategy = strategy_for(CONFIG, small_stream, ProfileStore(tmp_path), lines.append)
    assert isinstance(strategy, Fixed)
    assert strategy.settings == settings
    assert strategy.stage_seconds["train"] == pytest.approx(4e-3)
    (line,) = lines
    assert line.startswith(f"Settings from {strategy.profile}: {describe_settings(settings)}, 12")
    assert line.endswith("% faster than the shipped settings (40 trials).")
    other = replace(CONFIG, train=replace(CONFIG.train, batch_size=60))
    assert ProfileStore(tmp_path).find(Key.of(other, small_stream)) is None


def test_the_same_seed_tries_the_same_points_and_another_seed_does_not(
    small_stream: EventStream, tmp_path: Path, block_counts: dict[RunSettings, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        block_counts.clear()
        _, observer = tune(small_stream, tmp_path / name, seed=seed)
        points.append([trial.point for trial in observer.trials])
    assert points[0] == points[1]
    assert points[0] != points[2]


@pytest.mark.usefixtures("block_counts")
def test_a_gain_within_the_noise_keeps_the_shipped_settings(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, chance = RunMeasurer.block, random.Random(3)

    def block(self: RunMeasurer, settings: RunSettings, place: int) -> float:
        return real(self, settings, place) * 0 + chance.gauss(1000, 50)

    monkeypatch.setattr(RunMeasurer, "block", block)
    profile, _ = tune(small_stream, tmp_path)
    assert profile["settings"] == profile["search"]["shipped"] == asdict(default_settings(CONFIG.train))
    assert profile["search"]["shipped_kept"]
    assert profile["search"]["best"] != profile["settings"], "other settings led by chance, and lost the comparison"
    assert profile["search"]["noise"] > 0.005


def test_an_interrupted_tuner_resumes_where_it_stopped(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_counts: dict[RunSettings, int]
) -> None:
    real, interrupted = RunMeasurer.block, list[RunSettings]()

    def block(self: RunMeasurer, settings: RunSettings, place: int) -> float:
        if len(block_counts) == 4 and settings not in block_counts:
            interrupted.append(settings)
            raise KeyboardInterrupt
        return real(self, settings, place)

    with monkeypatch.context() as context:
        context.setattr(RunMeasurer, "block", block)
        with pytest.raises(KeyboardInterrupt):
            tune(small_stream, tmp_path)
    shipped, *measured = block_counts
    assert shipped == default_settings(CONFIG.train)
    block_counts.clear()
    profile, observer = tune(small_stream, tmp_path)
    resumed = [settings_at(shipped, trial.point) for trial in observer.trials]
    assert resumed[:1] == interrupted, "the interrupted trial runs again first"
    assert not set(resumed) & {shipped, *measured}
    assert (len(resumed), profile["search"]["trials"]) == (12 - 4, 12)


@pytest.mark.parametrize(
    "flags",
    [{}, pytest.param({"recipe": "ranking", "batch_size": 50}, marks=pytest.mark.slow)],
    ids=["", "ranking"],
)
def test_a_real_tuning_ends_in_time_and_trains(
    small_stream: EventStream, tmp_path: Path, flags: dict[str, Any]
) -> None:
    start = time.perf_counter()
    profile, observer = tune(small_stream, tmp_path, budget=6.0, **flags)
    assert time.perf_counter() - start < 6.0 * 1.1 + 15
    assert observer.trials[0].state == "measured"
    assert observer.trials[0].score == 1.0
    assert not [trial for trial in observer.trials if trial.state == "failed" and "results are wrong" in trial.reason]
    assert set(profile["stage_seconds"]) >= {"sample", "train"}


def test_a_budget_that_is_too_small_is_an_error(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mspipe_triton.tuning.tuner._GRACE", 0.0)
    with pytest.raises(BudgetError, match=r"the budget of 0\.001 s ran out before the shipped settings had run"):
        tune(small_stream, tmp_path, budget=0.001)


@pytest.mark.usefixtures("block_counts")
def test_an_unwritable_cache_gives_a_note_and_no_failure(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    profile, observer = tune(small_stream, tmp_path / "file" / "profiles")
    assert profile["settings"]["schedule"] == "prefetch"
    assert any("cannot be written, so the profile is not saved" in line for line in observer.notes)


def test_settings_in_words() -> None:
    assert describe_settings(RunSettings("serial", threads=2, host_threads=2)) == "serial, 2 threads"
    other = RunSettings("exact", 2, 1, 2, "roots", fused=False, features="device", gather="kernel")
    assert describe_settings(other) == (
        "exact 2 ahead, 1 thread (2 beside), neighbours not deduplicated, unfused, features on the device, "
        "rows gathered by kernel"
    )
