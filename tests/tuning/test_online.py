"""Tuning in a run, with scripted times of blocks: what is tried, what it may cost, and what is chosen and kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.settings import default_settings
from mspipe_triton.training.strategy import Block, BlockTimes, Fixed, Prospect
from mspipe_triton.tuning import OnlineTuning, ProfileStore, strategy_for
from mspipe_triton.tuning.online import FEWEST, SHARE
from mspipe_triton.tuning.profile.key import Key

CONFIG = RunConfig(model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=50, device="cpu"))
SECOND = 0.02  # of an iteration under the shipped settings


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set two cores and no compiler."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)


class Gate:
    """A gate that takes 0.1 s, and refuses settings that are not deduplicated."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def refusal(self, settings: RunSettings) -> str | None:
        self.clock.now += 0.1
        return "the loss is off" if settings.deduplicate == "roots" else None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run of blocks that take scripted times: `second` returns an iteration's seconds under settings."""

    def __init__(
        self, stream: EventStream, folder: Path, second: Callable[[RunSettings], float], iterations: int = 20_000
    ) -> None:
        config = replace(CONFIG, settings=default_settings(CONFIG.train))
        self.second, self.remaining, self.clock = second, iterations, Clock()
        self.notes, self.events, self.blocks = list[str](), list[dict[str, Any]](), list[Block]()
        self.busy: Iterator[bool] = itertools.repeat(False)
        self.session = Session.create(config, stream)
        self.store = ProfileStore(folder)
        self.tuning = OnlineTuning(
            CONFIG, stream, Key.of(CONFIG, stream), self.store, self.clock, lambda *_, **__: Gate(self.clock)
        )
        self.tuning.begin(Prospect(self.session, iterations, self.notes.append, self.events.append))

    def go(self) -> OnlineTuning:
        done, noise = 0, itertools.cycle((1.0, 1.01, 0.99))
        while self.remaining:
            busy = next(self.busy)
            block = self.tuning.block(not busy)
            second = self.second(block.settings) * next(noise) * (3 if busy else 1)
            count = min(
                block.iterations or 1000,
                self.remaining,
                1 + int(block.seconds / second) if block.seconds < 1e9 else 10**9,
            )
            stages = dict.fromkeys(stage_names(block.settings.schedule), [second / 5] * max(0, count - 2))
            self.blocks.append(block)
            self.remaining -= count
            self.tuning.ended(BlockTimes(
                block.settings, 1, done, count, count * second, count - 2, (count - 2) * second, stages, busy,
            ))  # fmt: skip
            done += count
        return self.tuning


def faster_with_prefetch(settings: RunSettings) -> float:
    return SECOND / 1.25 if settings.schedule == "prefetch" else SECOND


def test_the_fastest_settings_are_adopted_saved_and_used_by_the_next_run(
    small_stream: EventStream, tmp_path: Path
) -> None:
    run = Run(small_stream, tmp_path, faster_with_prefetch)
    tuning = run.go()
    assert tuning.settings is not None
    assert tuning.settings.schedule == "prefetch"
    assert run.blocks[-1] == Block(tuning.settings)
    assert all(block.settings.deduplicate == "all" for block in run.blocks), "settings that the gate refuses never run"
    result = tuning.result({})
    assert result["gain"] == pytest.approx(0.25, abs=0.03)
    assert 0 < result["noise"] < 0.05
    assert result["settings"] == asdict(tuning.settings)
    assert result["trials"] == len(run.events) >= FEWEST
    assert result["cost_seconds"] == pytest.approx(tuning.cost)
    assert 0 < result["share"] <= SHARE
    for event in run.events:
        assert event["event"] == "trial"
        assert {"settings", "ratio", "events_per_s", "epoch", "iteration"} <= event.keys()
        assert (event["state"] == "refused") == (event["settings"]["deduplicate"] == "roots")
    (line,) = run.notes
    assert line.startswith("Tuned while training: prefetch")
    lines: list[str] = []
    later = strategy_for(CONFIG, small_stream, ProfileStore(tmp_path), lines.append)
    assert isinstance(later, Fixed)
    assert later.settings == tuning.settings
    assert set(later.stage_seconds) == set(stage_names("prefetch"))
    assert lines[0].startswith(f"Settings from {result['profile']}: prefetch")


def test_shipped_settings_stay_if_nothing_is_faster(small_stream: EventStream, tmp_path: Path) -> None:
    run = Run(small_stream, tmp_path, lambda settings: SECOND)
    tuning = run.go()
    assert tuning.settings == default_settings(CONFIG.train)
    assert tuning.result({})["shipped_kept"]
    assert "nothing is faster than the shipped settings" in run.notes[0]
    later = strategy_for(CONFIG, small_stream, ProfileStore(tmp_path))
    assert isinstance(later, Fixed)


@pytest.mark.parametrize("iterations", [600, 5000])
def test_slow_settings_cost_no_more_than_the_share(small_stream: EventStream, tmp_path: Path, iterations: int) -> None:
    shipped = default_settings(CONFIG.train)
    run = Run(small_stream, tmp_path, lambda settings: SECOND * (1 if settings == shipped else 40), iterations)
    tuning = run.go()
    assert tuning.cost <= SHARE * SECOND * iterations * 1.3
    assert tuning.settings == shipped
    assert not [event for event in run.events if event["state"] == "measured"]


@pytest.mark.parametrize("iterations", [5, 500])
def test_a_short_run_is_not_tuned_and_says_so_once(small_stream: EventStream, tmp_path: Path, iterations: int) -> None:
    run = Run(small_stream, tmp_path, faster_with_prefetch, iterations)
    tuning = run.go()
    time = 1 if iterations == 5 else 10
    assert run.notes == [f"Training takes about {time} s, too short to gain from tuning."]
    assert {block.settings for block in run.blocks} == {default_settings(CONFIG.train)}
    assert (tuning.result({})["trials"], tuning.cost) == (0, 0.0)
    assert not list(tmp_path.glob("*.json"))


def test_a_strategy_that_declines_says_and_tries_nothing(small_stream: EventStream, tmp_path: Path) -> None:
    run = Run(small_stream, tmp_path, faster_with_prefetch, 5000)
    assert not run.tuning.declines(80.0)
    assert run.tuning.declines(70.0)
    assert (run.go().result({})["trials"], run.notes) == (0, [])


def test_nothing_is_tried_while_other_work_uses_the_machine(small_stream: EventStream, tmp_path: Path) -> None:
    run = Run(small_stream, tmp_path, faster_with_prefetch)
    shipped = default_settings(CONFIG.train)
    run.busy = itertools.cycle([False] * 9 + [True] * 4)
    blocks, ended = list[tuple[RunSettings, bool]](), run.tuning.ended

    def note(times: BlockTimes) -> None:
        if run.tuning.course is not None:
            blocks.append((times.settings, times.disturbed))
        ended(times)

    run.tuning.ended = note  # type: ignore[method-assign]
    tuning = run.go()
    assert {settings for settings, disturbed in blocks if disturbed} == {shipped}
    assert {settings for settings, disturbed in blocks if not disturbed} > {shipped}
    assert tuning.settings is not None
    assert tuning.settings.schedule == "prefetch"


def test_a_cache_that_cannot_be_written_is_told_and_the_choice_is_used(
    small_stream: EventStream, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    run = Run(small_stream, tmp_path / "file" / "profiles", faster_with_prefetch)
    tuning = run.go()
    assert tuning.settings is not None
    assert tuning.settings.schedule == "prefetch"
    assert tuning.result({})["profile"] == ""
    assert any("cannot be written, so the profile is not saved" in line for line in run.notes)
