"""Runs in blocks under changing settings: the same results, iterations and staleness as in one piece."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.config_file import load_config
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.execution import RunSettings
from mspipe_triton.machine import Usage
from mspipe_triton.settings import default_settings
from mspipe_triton.training.strategy import Block, BlockTimes, Prospect, Strategy
from mspipe_triton.training.trainer import Observer

CONFIG = RunConfig(
    model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=50, epochs=2, negatives=3, threads=1)
)
SERIAL = RunSettings("serial", threads=1, host_threads=1, fused=False)
EXACT = replace(SERIAL, schedule="exact", prefetch=2)
ROOTS = replace(EXACT, schedule="prefetch", deduplicate="roots")


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set no compiler, and no other process that uses the machine."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    for module in ("threads", "trainer"):
        monkeypatch.setattr(f"mspipe_triton.training.{module}.usage", alone)


def alone() -> Usage:
    """Read the use of a machine whose only process is this one."""
    seconds = time.process_time()
    return Usage(time.perf_counter(), seconds, 0.0, seconds, 0.0, 0.0, 0)


class Script(Strategy):
    """Blocks in this order, over and over; the run takes over settings `chosen` after some blocks."""

    in_blocks = True

    def __init__(self, blocks: list[Block], chosen: RunSettings | None = None, after: int = 3) -> None:
        self.blocks, self.chosen, self.after = blocks, chosen, after
        self.times: list[BlockTimes] = []
        self.prospect: Prospect | None = None

    def begin(self, prospect: Prospect) -> None:
        self.prospect, self.settings = prospect, prospect.session.settings

    def block(self, quiet: bool) -> Block:
        assert quiet
        return self.blocks[len(self.times) % len(self.blocks)]

    def ended(self, times: BlockTimes) -> None:
        self.times.append(times)
        if len(self.times) == self.after and self.chosen is not None:
            self.settings = self.chosen

    def result(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        return {"blocks": len(self.times)}


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("model", ["tgn", "apan"])
def test_blocks_compute_what_one_piece_computes(small_stream: EventStream, tmp_path: Path, model: str) -> None:
    config = CONFIG.with_flags({"model": model})
    plain = train(config, small_stream, out=str(tmp_path / "plain"))
    shipped = default_settings(config.train)
    script = Script([Block(shipped, 3), Block(EXACT, 4), Block(replace(EXACT, prefetch=1), 1), Block(SERIAL, 5)])
    result = train(config, small_stream, out=str(tmp_path / "run"), strategy=script)
    assert result["losses"] == plain["losses"]  # one thread and the same rows: bit for bit
    assert result["test"]["ap"] == plain["test"]["ap"]
    assert result["staleness_measured"] == {"0": 2 * 17}
    first, second = ([each for each in script.times if each.epoch == epoch] for epoch in (1, 2))
    for times in (first, second):
        assert sum(each.iterations for each in times) == 17
        assert [each.iteration for each in times] == [sum(t.iterations for t in times[:i]) for i in range(len(times))]
    assert [each.iterations for each in first] == [3, 4, 1, 5, 3, 1]
    for each in script.times:
        assert (each.timed, each.disturbed) == (max(0, each.iterations - 2), False)
        assert each.wall >= each.seconds >= 0
        assert all(len(seconds) == each.timed for seconds in each.stages.values())
        assert ("patch" in each.stages) == (each.settings.schedule == "exact")
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    plans = [event for event in events if event.get("event") == "plan" and event["old"] is None]
    assert len(plans) == 1, "plans of trials are no changes of the run's plan"
    assert result["tuning"] == {"blocks": len(script.times)}
    assert result["settings"] == asdict(default_settings(CONFIG.train))


def test_chosen_settings_remain_for_evaluation_and_later(small_stream: EventStream, tmp_path: Path) -> None:
    from mspipe_triton.data.writers import write_stream

    write_stream(small_stream, tmp_path / "events.csv")
    config = CONFIG.with_flags({"path": str(tmp_path / "events.csv"), "dtype": "float64"})
    plain = train(config, out=str(tmp_path / "plain"))
    script = Script([Block(SERIAL, 3), Block(ROOTS, 4)], chosen=ROOTS, after=2)
    result = train(config, out=str(tmp_path / "run"), strategy=script)
    assert result["losses"] == pytest.approx(plain["losses"], rel=1e-9)
    assert (result["settings"], result["schedule"]) == (asdict(ROOTS), "prefetch")
    assert result["plan"]["schedule"] == "prefetch"
    assert load_config(tmp_path / "run" / "config.toml").settings == ROOTS
    assert load_config(tmp_path / "run" / "config.toml").train == config.train
    assert evaluate_run(str(tmp_path / "run"), "test")["ap"] == result["test"]["ap"]


def test_the_block_ends_early_after_its_seconds(small_stream: EventStream, tmp_path: Path) -> None:
    script = Script([Block(SERIAL, 10, seconds=0.0), Block(SERIAL)])
    train(CONFIG, small_stream, out=str(tmp_path / "run"), strategy=script)
    assert [each.iterations for each in script.times] == [1, 16, 1, 16]


def test_seconds_of_the_strategy_are_not_training(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("mspipe_triton.training.blocks.running_clock", lambda: now[0])
    monkeypatch.setattr("mspipe_triton.training.staged.running_clock", lambda: now[0])

    class Slow(Script):
        def block(self, quiet: bool) -> Block:
            now[0] += 100.0
            return super().block(quiet)

        def ended(self, times: BlockTimes) -> None:
            assert times.wall == times.iterations
            now[0] += 7.0
            super().ended(times)

    class Ticking(Observer):
        def batch(self, epoch: int, events: int, loss: float) -> None:
            now[0] += 1.0

    slow = Slow([Block(SERIAL, 9)])
    result = train(CONFIG, small_stream, out=str(tmp_path / "run"), observer=Ticking(), strategy=slow)
    assert result["epoch_seconds"] == [17.0, 17.0]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"schedule": "mspipe"}, "Schedule mspipe is not tuned while it trains"),
        ({"placement": "device"}, "A resident run is not tuned while it trains"),
    ],
)
def test_other_runs_keep_their_settings(
    small_stream: EventStream, tmp_path: Path, flags: dict[str, Any], line: str
) -> None:
    script, notes = Script([Block(SERIAL, 3), Block(EXACT, 4)]), Notes()
    config = CONFIG.with_flags({**flags, "epochs": 1})
    train(config, small_stream, out=str(tmp_path / "run"), observer=notes, strategy=script)
    assert (script.prospect, script.times) == (None, [])
    assert sum(note.startswith(line) for note in notes.notes) == 1


def test_an_error_in_a_trial_ends_the_run_and_restores_the_process(
    small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()

    class Interrupted(Script):
        def ended(self, times: BlockTimes) -> None:
            if times.settings == EXACT:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, small_stream, out=str(tmp_path / "run"), strategy=Interrupted([Block(EXACT, 3)]))
    assert torch.get_num_threads() == threads
