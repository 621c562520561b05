"""Learning rates, weight decay and clipping: torch's own as the oracle, the same in every way to run, and resumed."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.errors import ConfigError
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.learning_rate import LearningRate
from mspipe_triton.iteration.optimizer import Clipping, make_optimizer
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.checkpoint import load_checkpoint
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.staged import Staged
from mspipe_triton.training.stopping import halvings
from mspipe_triton.training.trainer import Observer, train
from mspipe_triton.tuning.runs.gate import RunGate
from tests.processes.pool import Pool

ALL: dict[str, Any] = {"lr_schedule": "cosine", "warmup": 4, "weight_decay": 0.1, "clip_norm": 0.5}


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def stream() -> EventStream:
    return synthetic_stream(SyntheticConfig(events=420, users=40, items=20, edge_features=2, seed=1))


def config(**settings: Any) -> RunConfig:
    values = {"epochs": 3, "batch_size": 100, "negatives": 5, "threads": 1, "device": "cpu", **ALL, **settings}
    return RunConfig(model=ModelConfig(dim=8, fanout=4, dtype="float64"), train=TrainConfig(**values))


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 2, 9])
def test_rates_are_those_of_torch(schedule: str, warmup: int) -> None:
    epochs, iterations, total = 3, 7, 21
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    main = (
        lr_scheduler.CosineAnnealingLR(optimizer, total - warmup)
        if schedule == "cosine"
        else lr_scheduler.ConstantLR(optimizer, 1.0, 0)
    )
    rates, expected = LearningRate(TrainConfig(lr=0.01, epochs=epochs, lr_schedule=schedule, warmup=warmup), 7), []
    if warmup:
        first = lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=max(1, warmup - 1))
        main = lr_scheduler.SequentialLR(optimizer, [first, main], [warmup])
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own sequence of schedulers
            main.step()
    actual = [rates.at(epoch, index) for epoch in range(1, epochs + 1) for index in range(iterations)]
    assert actual == (expected if not rates.changes else [float32(rate) for rate in expected])
    assert torch.cat([rates.of_epoch(epoch) for epoch in (1, 2, 3)]).tolist() == [float32(rate) for rate in actual]
    if warmup:
        assert actual[0] == float32(0.01 / warmup)
        assert actual[warmup - 1] == actual[warmup] == float32(0.01)
    if schedule == "cosine":
        assert 0 < actual[-1] < 0.01 / 50


def test_plateaus_are_those_of_torch() -> None:
    draw, counts = random.Random(0), set()
    for _ in range(50):
        scores = [round(0.9 + draw.random() / 50, 3) for _ in range(20)]
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=2)
        for count, score in enumerate(scores, 1):
            scheduler.step(score)
            assert 0.5 ** halvings(scores[:count]) == optimizer.param_groups[0]["lr"]
        counts.add(halvings(scores))
    assert len(counts) > 2
    rates = LearningRate(TrainConfig(lr=0.01, lr_schedule="plateau", warmup=2), 7)
    rates.halvings = 2
    assert [rates.at(4, 3), rates.at(1, 0)] == [float32(0.01 / 4), float32(0.01 / 8)]
    assert halvings([]) == 0


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_steps_are_those_of_torch(decay: float, clip: float) -> None:
    start, plain = torch.linspace(-1, 1, 12), torch.optim.AdamW if decay else torch.optim.Adam
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    clipping = Clipping([ours], clip) if clip else None
    optimizer = make_optimizer([ours], TrainConfig(weight_decay=decay), 0.01, clipping, capturable=False)
    expected = plain([theirs], lr=0.01, fused=True, **({"weight_decay": decay} if decay else {}))
    norms = []
    for step in range(5):
        for weight in (ours, theirs):
            weight.grad = (weight.detach() * (step + 1)).cos()
        if clip:
            norms.append(float(torch.nn.utils.clip_grad_norm_([theirs], clip)))
        optimizer.step()
        expected.step()
    assert torch.equal(ours, theirs)
    assert type(optimizer) is plain
    if clipping is not None:
        assert clipping.mean() == pytest.approx(sum(norms) / 5)
        assert clipping.mean() == 0


def test_schedules_learn_the_same_bits(tmp_path: Path) -> None:
    results = {
        schedule: train(config(schedule=schedule, deterministic=True), stream(), str(tmp_path / schedule))
        for schedule in ("serial", "prefetch", "exact")
    }
    assert results["serial"]["losses"] == results["prefetch"]["losses"] == results["exact"]["losses"]
    lines = epochs_of(tmp_path / "serial")
    assert [line["grad_norm"] for line in lines] == [line["grad_norm"] for line in epochs_of(tmp_path / "exact")]
    assert min(line["grad_norm"] for line in lines) > 0.5
    rates = LearningRate(config().train, 3)
    assert [line["lr"] for line in lines] == [rates.at(epoch, 2) for epoch in (1, 2, 3)]
    other = train(config(schedule="serial", deterministic=True, clip_norm=0.0), stream(), str(tmp_path / "unclipped"))
    assert other["losses"] != results["serial"]["losses"]
    assert "grad_norm" not in epochs_of(tmp_path / "unclipped")[0]


@pytest.mark.parametrize("branch", [True, False])
def test_a_resident_run_learns_as_one_in_stages(branch: bool) -> None:
    settings = RunSettings("resident", branch=branch, fused=False)
    resident = Resident(Session.create(replace(config(placement="device"), settings=settings), stream()))
    staged = Staged(Session.create(config(schedule="serial"), stream()))
    for epoch in (1, 2):
        ours, theirs = resident.train(epoch), staged.train(epoch)
        for name in ("loss", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9)
        assert ours["lr"] == theirs["lr"]
    for ours, theirs in zip(resident.session.model.parameters(), staged.session.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_an_epoch_that_starts_over_counts_its_norms_once() -> None:
    run = Session.create(config(placement="device"), stream())
    expected, way = Resident(Session.create(config(placement="device"), stream())).train(1), Resident(run)
    steps = way.training()
    full = steps.sampler.overflowed
    answers = iter([True, False])
    with pytest.MonkeyPatch.context() as changes:
        changes.setattr(steps.sampler, "overflowed", lambda: full() or next(answers))
        metrics = way.train(1)
    assert (metrics["grad_norm"], metrics["loss"]) == (expected["grad_norm"], expected["loss"])


class Interrupt(Observer):
    """Interrupt a run in the iterations of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.last = epoch

    def batch(self, epoch: int, events: int, loss: float) -> None:
        if epoch == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_resumed_run_learns_the_same_bits(
    placement: str, schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mspipe_triton.training.stopping.STALL", 1)
    monkeypatch.setattr("mspipe_triton.training.stopping._THRESHOLD", 0.1)  # no epoch is that much better
    settings = config(placement=placement, deterministic=True, lr_schedule=schedule, epochs=4, warmup=2)
    whole = train(settings, stream(), str(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(settings, stream(), str(tmp_path / "parts"), observer=Interrupt(4))
    resumed = train(settings, stream(), str(tmp_path / "parts"), resume=True)
    for name in ("losses", "val", "test", "best_epoch"):
        assert resumed[name] == whole[name]
    rates = [line["lr"] for line in epochs_of(tmp_path / "parts")]
    assert rates == [line["lr"] for line in epochs_of(tmp_path / "whole")]
    if schedule == "plateau":
        assert rates == [float32(0.001 * 0.5**count) for count in (0, 0, 1, 2)]


def shares(folder: str) -> list[Any]:
    """Train as one of two ranks, and return losses, norms and the parameters."""
    out = Path(folder) / "two"
    losses = train(config(), stream(), str(out))["losses"]
    session = Session.create(config(), stream())
    load_checkpoint(out / "last.pt", session)
    norms = [line["grad_norm"] for line in epochs_of(out)]
    return [losses, norms, [each.detach().tolist() for each in session.model.parameters()]]


def test_ranks_clip_the_gradients_of_the_whole_batch(processes: Pool, tmp_path: Path) -> None:
    first, second = processes(2, shares, str(tmp_path))
    assert first == second
    alone = train(config(), stream(), str(tmp_path / "alone"))
    assert first[0] == pytest.approx(alone["losses"], rel=1e-9)
    assert first[1] == pytest.approx([line["grad_norm"] for line in epochs_of(tmp_path / "alone")], rel=1e-9)
    content = torch.load(tmp_path / "alone" / "last.pt")["model"]
    session = Session.create(config(), stream())
    session.model.load_state_dict(content)
    for ours, theirs in zip(first[2], session.model.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), theirs, rtol=1e-9, atol=1e-11)


def test_the_gate_of_tuning_keeps_parameters_fixed() -> None:
    gate = RunGate(config(), stream())
    assert (gate.config.train.lr_schedule, gate.config.train.warmup, gate.config.train.clip_norm) == ("constant", 0, 0)
    assert gate.refusal(gate.default) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_decay": float("nan")}, "weight-decay must be finite, not nan"),
        ({"clip_norm": float("inf")}, "clip-norm must be finite, not inf"),
        ({"clip_norm": -1.0}, "clip-norm must be at least 0, not -1.0"),
        ({"warmup": 2.5}, "warmup must be a whole number, not 2.5"),
        ({"patience": True}, "patience must be a whole number, not True"),
        ({"lr": 0.5, "weight_decay": 2.0}, "weight-decay must be below 1 / lr, 2, not 2.0"),
    ],
    ids=["nan", "inf", "negative", "fraction", "boolean", "large"],
)
def test_values_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        config(**settings)


def test_a_warmup_ends_before_the_run(tmp_path: Path) -> None:
    message = r"^warmup 9 is not below the run's 9 iterations \(3 x 3\); use a smaller --warmup, or more --epochs$"
    with pytest.raises(ConfigError, match=message):
        train(config(warmup=9), stream(), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
