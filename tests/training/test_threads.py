"""Runs whose number of threads follows the use of the machine: scripted readings, real training."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError
from mspipe_triton.execution import RunSettings
from mspipe_triton.machine import SHARED_THREADS, Usage
from mspipe_triton.pipeline import contention
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.pipeline.trace import read_spans
from mspipe_triton.settings import default_settings
from mspipe_triton.training import threads, trainer
from mspipe_triton.training.staged import Until
from mspipe_triton.training.strategy import Block, BlockTimes, Fixed, Prospect, Strategy
from mspipe_triton.training.threads import check_threads, thread_notes
from mspipe_triton.training.trainer import Observer, train
from mspipe_triton.tuning import autotune

SERIAL = RunSettings("serial", threads=2, host_threads=2, fused=False)
EXACT = RunSettings("exact", threads=2, host_threads=1, fused=False)
ITERATIONS = 9  # per epoch
EPOCHS = 3


class Script:
    """A machine of two cores whose clock moves with each look of a run, and on which others may use a core."""

    def __init__(self, others: Callable[[int], float]) -> None:
        self.others, self.now, self.readings, self.busy = others, 0.0, 0, 0.0

    def clock(self) -> float:
        """Return the time, an eighth of a second after the last."""
        self.now += 0.125
        return self.now

    def usage(self) -> Usage:
        """Read the use, of which the others' is by the number of the reading."""
        self.busy += self.others(self.readings) * 0.25
        self.readings += 1
        return Usage(self.now, self.now + self.busy, 0.0, self.now, 0.0, 0.0, 0)


class Screen(Observer):
    """Lines of a run, and torch's number of threads after each batch."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.threads: list[int] = []

    def note(self, message: str) -> None:
        """Keep a line on threads."""
        if "thread" in message:
            self.notes.append(message)

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """Keep the number of threads in training."""
        self.threads.append(torch.get_num_threads())

    def evaluation(self, split: str, events: int, total: int) -> None:
        """Keep the number of threads in evaluation."""
        self.threads.append(torch.get_num_threads())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], float]], Script]:
    """Install a script as the machine, with two cores, and no number of threads in the environment."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", SHARED_THREADS, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(contention, "_COST", 0)  # the script's clock also moves in a reading
    torch.set_num_threads(2)

    def install(others: Callable[[int], float]) -> Script:
        script = Script(others)
        monkeypatch.setattr(threads, "Contention", partial(contention.Contention, clock=script.clock))
        for module in (threads, trainer):
            monkeypatch.setattr(module, "usage", script.usage)
        return script

    return install


def run(
    stream: EventStream, out: Path, screen: Screen, settings: RunSettings | Strategy | None, trace: bool = False,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train in float64, under fixed settings or as a strategy says."""
    strategy = Fixed(settings) if isinstance(settings, RunSettings) else settings
    model = ModelConfig(dim=8, fanout=4, dtype="float64")
    config = RunConfig(
        model=model, train=TrainConfig(**{"epochs": EPOCHS, "batch_size": 100, "negatives": 3, **options})
    )
    return train(config, stream, out=str(out), observer=screen, trace=trace, strategy=strategy)


def lines_of(out: Path, event: str) -> list[dict[str, Any]]:
    """The events of a kind in a run's metrics."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.get("event") == event]


def crowd(reading: int) -> float:
    """Others use a core for some time in the first epoch."""
    return 1.0 if 5 <= reading < 10 else 0.0


@pytest.mark.parametrize("way", ["serial", "exact", "resident"])
def test_threads_change_in_a_run_that_computes_the_same(
    small_stream: EventStream, tmp_path: Path, machine: Callable[..., Script], way: str
) -> None:
    settings = {"serial": SERIAL, "exact": EXACT}.get(way)
    placement = "device" if way == "resident" else "host"
    alone, crowded = Screen(), Screen()
    script = machine(lambda _: 0.0)
    expected = run(small_stream, tmp_path / "alone", alone, settings, placement=placement)
    assert script.readings > EPOCHS * ITERATIONS
    assert (set(alone.threads), alone.notes, lines_of(tmp_path / "alone", "threads")) == ({2}, [], [])
    machine(crowd)
    result = run(small_stream, tmp_path / "crowded", crowded, settings, placement=placement)
    assert result["losses"] == pytest.approx(expected["losses"], rel=1e-9)
    assert result["test"]["ap"] == pytest.approx(expected["test"]["ap"], abs=1e-6)
    fewer, more = lines_of(tmp_path / "crowded", "threads")
    assert (fewer["threads"], fewer["others"], fewer["epoch"]) == (1, 1.0, 1)
    assert 2 <= fewer["iteration"] <= 5
    assert (more["threads"], more["others"]) == (2, 0.0)
    assert crowded.notes == [
        "Other processes use 1.0 of 2 cores: this run uses 1 thread, and 2 again when the cores are free.",
        "The cores are free again: this run uses 2 threads.",
    ]
    if placement == "host":  # a resident run reports its training batches at the epoch's end
        first = crowded.threads.index(1)
        assert fewer["iteration"] <= first <= fewer["iteration"] + 1
    assert {1, 2} == set(crowded.threads)
    assert crowded.threads[-1] == 2
    assert torch.get_num_threads() == 2


def test_a_serial_run_overlaps_its_stages_while_it_has_one_thread(
    small_stream: EventStream, tmp_path: Path, machine: Callable[..., Script]
) -> None:
    machine(crowd)
    out = tmp_path / "run"
    result = run(small_stream, out, Screen(), SERIAL, trace=True)
    fewer, more = lines_of(out, "threads")
    plans = lines_of(out, "plan")
    assert [plan["old"] for plan in plans] == [None, *(plan["new"] for plan in plans[:-1])]
    changes = [plan for plan in plans if plan["old"] is None or plan["old"]["schedule"] != plan["new"]["schedule"]]
    assert [plan["new"]["schedule"] for plan in changes] == ["serial", "prefetch", "serial"]
    _, there, back = ((plan["epoch"], plan["iteration"]) for plan in changes)
    assert there == (1, fewer["iteration"] + 1)
    assert back > (more["epoch"], more["iteration"])
    assert (result["schedule"], result["staleness_measured"]) == ("serial", {"0": EPOCHS * ITERATIONS})
    for spans in read_spans(out / "trace.json").values():
        numbers = [(span.iteration, span.stage) for span in spans]
        assert sorted(numbers) == sorted(product(range(ITERATIONS), stage_names("serial")))


class Blocks(Strategy):
    """Blocks of three iterations, after two of which other settings are chosen."""

    in_blocks = True

    def __init__(self, chosen: RunSettings | None) -> None:
        self.chosen, self.count = chosen, 0
        self.disturbed: list[bool] = []

    def begin(self, prospect: Prospect) -> None:
        """Keep the run's settings at first."""
        self.settings = prospect.session.settings

    def block(self, quiet: bool) -> Block:
        """Return three iterations under the settings in force."""
        assert self.settings is not None
        return Block(self.settings, 3)

    def ended(self, times: BlockTimes) -> None:
        """Choose the other settings after two blocks."""
        self.disturbed.append(times.disturbed)
        if len(self.disturbed) == 2 and self.chosen is not None:
            self.settings = self.chosen


def test_threads_change_in_a_run_in_blocks(
    small_stream: EventStream, tmp_path: Path, machine: Callable[..., Script]
) -> None:
    screen, blocks = Screen(), Blocks(None)
    machine(crowd)
    run(small_stream, tmp_path / "run", screen, blocks, trace=True)
    fewer, more = lines_of(tmp_path / "run", "threads")
    assert ((fewer["threads"], fewer["epoch"]), more["threads"]) == ((1, 1), 2)
    assert screen.threads[-1] == 2
    assert any(blocks.disturbed)
    assert not all(blocks.disturbed)
    for spans in read_spans(tmp_path / "run" / "trace.json").values():
        numbers = [(span.iteration, span.stage) for span in spans]
        assert sorted(numbers) == sorted(product(range(ITERATIONS), stage_names("serial")))


def test_settings_chosen_in_a_run_decide_how_many_threads_it_uses_beside_others(
    small_stream: EventStream, tmp_path: Path, machine: Callable[..., Script]
) -> None:
    machine(lambda reading: 1.0 if reading > 40 else 0.0)
    screen, chosen = Screen(), RunSettings("prefetch", threads=1, host_threads=1, fused=False)
    result = run(small_stream, tmp_path / "run", screen, Blocks(chosen))
    assert (result["settings"]["schedule"], screen.threads[-1]) == ("prefetch", 1)
    assert (lines_of(tmp_path / "run", "threads"), screen.notes) == ([], []), "one thread leaves nothing to change"


def test_a_gate_stops_before_the_next_item_and_leaves_the_others() -> None:
    source, opened = iter(range(5)), [True]
    gate = Until(source, lambda: opened[-1])
    assert [next(gate), next(gate)] == [0, 1]
    opened.append(False)
    assert (list(gate), gate.count, gate.ended) == ([], 2, False)
    rest = Until(source, lambda: True)
    assert (list(rest), rest.count, rest.ended) == ([2, 3, 4], 3, True)


def test_a_run_on_a_crowded_machine_starts_with_fewer_threads(
    small_stream: EventStream, tmp_path: Path, machine: Callable[..., Script]
) -> None:
    machine(lambda _: 1.0)
    screen = Screen()
    run(small_stream, tmp_path / "run", screen, None, epochs=1)
    assert set(screen.threads) == {1}
    (event,) = lines_of(tmp_path / "run", "threads")
    assert (event["threads"], event["epoch"], event["iteration"]) == (1, 1, 0)
    assert len(screen.notes) == 1


@pytest.mark.parametrize("setting", ["--threads 2", "OMP_NUM_THREADS=2", "--deterministic"])
def test_the_users_setting_fixes_the_number_of_threads(
    small_stream: EventStream, tmp_path: Path, machine: Callable[..., Script], monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:  # fmt: skip
    machine(crowd)
    if setting.startswith("OMP"):
        monkeypatch.setenv(*setting.split("="))
    flags: dict[str, dict[str, Any]] = {"--threads 2": {"threads": 2}, "--deterministic": {"deterministic": True}}
    screen = Screen()
    run(small_stream, tmp_path / "run", screen, None, **flags.get(setting, {}))
    assert (set(screen.threads), lines_of(tmp_path / "run", "threads")) == ({2}, [])
    assert screen.notes == [
        f"Other processes use 1.0 of 2 cores, and {setting} fixes the number of threads at 2; "
        "without it, a run uses fewer meanwhile."
    ]


def test_shipped_settings_have_at_most_as_many_threads_as_cores_unless_the_user_sets_more(
    machine: Callable[..., Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(crowd)
    torch.set_num_threads(5)  # those of the machine, of which this process may use two cores
    assert default_settings(TrainConfig()).threads == 2
    assert default_settings(TrainConfig(threads=4)).threads == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert default_settings(TrainConfig()).threads == 5


def test_more_threads_than_cores_get_a_note(
    machine: Callable[..., Script], small_stream: EventStream, tmp_path: Path
) -> None:
    machine(lambda _: 0.0)
    assert thread_notes(TrainConfig()) == thread_notes(TrainConfig(threads=2)) == []
    screen = Screen()
    run(small_stream, tmp_path / "run", screen, None, threads=3, epochs=1)
    assert (
        screen.notes
        == thread_notes(TrainConfig(threads=3))
        == [
            "--threads 3 is more than the 2 cores that this process may use, so threads wait for cores; "
            "omit it to use as many as there are."
        ]
    )


def test_far_more_threads_than_cores_are_refused(
    machine: Callable[..., Script], small_stream: EventStream, tmp_path: Path
) -> None:
    machine(lambda _: 0.0)
    check_threads(TrainConfig(threads=8))
    line = "--threads 9 is far above the 2 cores that this process may use; use at most 2, or omit it"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        run(small_stream, tmp_path / "run", Screen(), None, threads=9)
    with pytest.raises(ConfigError, match=f"^{line}$"):
        autotune(RunConfig(train=TrainConfig(threads=9)), small_stream)
    assert not (tmp_path / "run").exists()
