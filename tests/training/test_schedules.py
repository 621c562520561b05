"""Every schedule on the real stages: its results, the staleness that its training sees, and its overlap."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.source import Contents, load_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages
from mspipe_triton.settings import choose_schedule
from mspipe_triton.training import trainer
from mspipe_triton.training.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.training.trainer import train
from tests.models.beside_oracle import events_of, oracle
from tests.training.schedule_run import BATCHES, Run, session

STAGES = ("sample", "features", "memory", "patch", "train", "update")


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@functools.cache
def few_nodes() -> EventStream:
    """Few nodes, so that batches in flight share most of their rows; with repeats, ties and self-loops."""
    stream = synthetic_stream(SyntheticConfig(events=1000, users=20, items=10, edge_features=2, seed=3))
    dst, t = stream.dst.clone(), stream.t // 3600
    dst[::19] = stream.src[::19]
    return replace(stream, dst=dst, t=t)


@pytest.fixture
def busy() -> EventStream:
    return few_nodes()


MODEL = {"dim": 8, "fanout": 4, "dtype": "float64"}
MODELS = {
    "tgn": MODEL,
    "tgn mean": {**MODEL, "aggregator": "mean"},
    "tgn of two layers": {**MODEL, "layers": 2, "fanout": 3},
    "tgat": {**MODEL, "model": "tgat", "fanout": 3},
    "jodie": {"model": "jodie", "dim": 8, "dtype": "float64"},
    "apan": {**MODEL, "model": "apan", "slots": 3},
    "apan mean": {**MODEL, "model": "apan", "slots": 3, "aggregator": "mean", "dropout": 0.2},
    "tgn, softmax": MODEL,
}
TRAIN: dict[str, dict[str, Any]] = {"tgn, softmax": {"loss": "softmax", "train_negatives": 4, "negative_kind": "mixed"}}


@contextmanager
def deterministic(threads: int = 1) -> Iterator[None]:
    """Compute as under `--deterministic --threads N`."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(1)


@functools.cache
def serial_run(model: str, threads: int) -> Run:
    with deterministic(threads):
        return Run(session(few_nodes(), 40, MODELS[model], schedule="serial", **TRAIN.get(model, {})))


@pytest.mark.parametrize(("model", "threads"), [*((model, 1) for model in MODELS), ("tgn", 2)])
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.generate],  # shrinking would not work, since no run repeats another's timing
)  # fmt: skip
@given(
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.003, 0.006]), min_size=6, max_size=6),
)
def test_exact_is_serial_to_the_bit_for_any_stage_times(model: str, threads: int, delays: list[float]) -> None:
    expected = serial_run(model, threads)
    for schedule in ("prefetch", "exact"):
        with deterministic(threads):
            slow = dict(zip(STAGES, delays, strict=True))
            train_settings = {"schedule": schedule, **TRAIN.get(model, {})}
            run = Run(session(few_nodes(), 40, MODELS[model], **train_settings), delays=slow)
        assert run.losses == expected.losses
        assert set(run.staleness) == {0}
        assert run.state.keys() == expected.state.keys()
        assert all(torch.equal(table, expected.state[name]) for name, table in run.state.items())


@pytest.mark.parametrize("schedule", ["prefetch", "exact"])
@pytest.mark.parametrize(
    "model", [{}, {"sampler": "uniform", "dropout": 0.3}, {"aggregator": "mean"}, {"time_encoder": "learned"}]
)
def test_overlapping_schedules_give_the_same_bits_as_serial(
    small_stream: EventStream, schedule: str, model: dict[str, Any]
) -> None:
    settings = {"dim": 8, "fanout": 4, **model}
    serial = Run(session(small_stream, 60, settings, schedule="serial", deterministic=True))
    other = Run(session(small_stream, 60, settings, schedule=schedule, deterministic=True), delays={"update": 0.002})
    assert other.losses == serial.losses
    assert all(torch.equal(table, serial.state[name]) for name, table in other.state.items())


@pytest.mark.parametrize(
    ("model", "staleness"),
    [
        ("tgn", 0),
        ("tgn", 1),
        ("tgn", 5),
        ("tgn", 20),
        *((name, s) for name in ("jodie", "apan", "apan mean") for s in (1, 3)),
    ],
)
def test_fixed_misses_exactly_its_staleness(busy: EventStream, model: str, staleness: int) -> None:
    run = session(busy, 15, {**MODELS[model], "dropout": 0.0}, schedule="fixed", staleness=staleness)
    plain, events = oracle(run, staleness=staleness), events_of(busy)
    items = list(batches(0, 15 * BATCHES, 15, run.negatives, Purpose.TRAIN_NEGATIVES, 1))
    ours = Run(run, delays={"train": 0.002})
    theirs = [plain.train_batch(events[b.start : b.stop], b.negatives.tolist(), events) for b in items]
    assert ours.losses == pytest.approx(theirs, rel=1e-8)
    assert ours.staleness == [min(i, staleness) for i in range(BATCHES)]


@pytest.mark.parametrize("model", ["apan", "apan mean", "tgn mean"])
def test_training_continues_from_a_checkpoint_as_if_it_had_not_stopped(
    busy: EventStream, model: str, tmp_path: Path
) -> None:
    """Save and load in the middle of an epoch, where the node state matters."""

    def second_half(run: Session) -> Run:
        run.state.settle()
        with deterministic():
            return Run(run, count=BATCHES // 2, first=20 * BATCHES // 2)

    def fresh() -> Session:
        return session(busy, 20, MODELS[model], schedule="exact")

    whole = fresh()
    with deterministic():
        Run(whole, count=BATCHES // 2)
    save_checkpoint(tmp_path / "half.pt", whole, {"epoch": 1}, Contents.of(whole.stream))
    again = fresh()
    assert load_checkpoint(tmp_path / "half.pt", again) == {"epoch": 1}
    expected, resumed = second_half(whole), second_half(again)
    assert resumed.losses == expected.losses
    assert all(torch.equal(table, expected.state[name]) for name, table in resumed.state.items())
    assert torch.equal(whole.state.sent, again.state.sent)


UNEVEN = {"memory": 0.002, "train": 0.003, "update": 0.004}


@pytest.mark.parametrize(
    ("model", "delays"),
    [("tgn", {}), ("tgn", {"train": 0.004}), *((name, UNEVEN) for name in ("tgn", "tgat", "jodie", "apan mean"))],
)
def test_mspipe_is_never_staler_than_planned(busy: EventStream, model: str, delays: dict[str, float]) -> None:
    run = Run(session(busy, 30, MODELS[model], schedule="mspipe"), count=23, delays=delays)
    assert run.plans
    assert max(run.staleness) <= max(plan.staleness for plan in run.plans)
    assert Counter(run.staleness)[0] < 23


@pytest.mark.parametrize("schedule", ["mspipe", "exact"])
def test_the_fetch_overlaps_the_previous_update(busy: EventStream, schedule: str) -> None:
    """Long delays make the result nearly independent of the machine's load."""
    delays = {"sample": 0.01, "features": 0.01, "memory": 0.02, "train": 0.06, "update": 0.04}
    run = Run(session(busy, 30, MODEL, schedule=schedule), count=23, delays=delays)
    early = [run.spans["memory", i].start < run.spans["update", i - 1].end for i in range(1, 23)]
    assert sum(early) > 11
    late_samples = [run.spans["train", i].start < run.spans["sample", i + 2].end for i in range(20)]
    assert not all(late_samples), "sampling runs ahead"
    if schedule == "exact":
        serial = Run(session(busy, 30, MODEL, schedule="serial"), count=23)
        assert run.losses == pytest.approx(serial.losses, rel=1e-9)


def test_mitigation_changes_stale_training() -> None:
    stream = synthetic_stream(SyntheticConfig(events=4000, users=200, items=80, seed=5))
    stale = {"schedule": "fixed", "staleness": 2}
    plain = Run(session(stream, 100, MODEL, **stale), count=25)
    mitigated, again = (Run(session(stream, 100, MODEL, **stale, mitigation="similarity"), count=25) for _ in range(2))
    assert mitigated.losses == again.losses
    assert mitigated.losses[:2] == plain.losses[:2]
    assert mitigated.losses != plain.losses


def test_auto_overlaps_if_a_core_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert choose_schedule("auto", "cpu", 3) == "exact"
    assert choose_schedule("auto", "cpu", 4) == "serial"
    assert choose_schedule("auto", "cuda", 4) == "exact"
    assert choose_schedule("mspipe", "cpu", 4) == "mspipe"


def test_a_stage_that_raises_ends_the_run(small_stream: EventStream, tmp_path: Path, monkeypatch: Any) -> None:
    def memory(self: Stages, work: Any) -> Any:
        if work.batch.index == 3:
            raise ArithmeticError("on purpose")
        return plain(self, work)

    plain = Stages.memory
    monkeypatch.setattr(Stages, "memory", memory)
    config = RunConfig(model=ModelConfig(dim=8), train=TrainConfig(batch_size=100, schedule="exact", epochs=1))
    with pytest.raises(ArithmeticError, match="on purpose") as caught:
        train(config, small_stream, out=str(tmp_path / "run"))
    assert "In stage memory of iteration 3." in caught.value.__notes__


def losses_of(real_data: Path, out: Path, schedule: str, model: ModelConfig) -> list[float]:
    config = RunConfig(
        data=DataConfig(path=str(real_data / "uci.csv")), model=model,
        train=TrainConfig(epochs=3, schedule=schedule, deterministic=True, negatives=1),
    )  # fmt: skip
    losses: list[float] = []

    class Losses(trainer.Observer):
        def batch(self, epoch: int, events: int, loss: float) -> None:
            losses.append(loss)

    train(config, load_stream(config.data), out=str(out / schedule), observer=Losses())
    return losses


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("model", [ModelConfig(dim=16, fanout=3), ModelConfig()], ids=["small", "full"])
def test_three_epochs_of_a_real_stream_to_the_bit(real_data: Path, tmp_path: Path, model: ModelConfig) -> None:
    serial, prefetch, exact = (losses_of(real_data, tmp_path, name, model) for name in ("serial", "prefetch", "exact"))
    assert len(serial) == 3 * 70
    assert prefetch == serial
    assert exact == serial
