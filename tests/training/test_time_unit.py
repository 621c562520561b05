"""Units of time: a run in days, years or nanoseconds is the run in seconds, for every model and way to run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.trainer import train

DAY, YEAR = 86_400, 365 * 86_400
UNITS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "days": lambda t: t.double() / DAY,
    "years": lambda t: t.double() / YEAR,
    "Unix days": lambda t: (t.double() + 1_600_000_000) / DAY,
    "milliseconds": lambda t: 1_000 * t,
    "Unix nanoseconds": lambda t: 10**9 * (t + 1_600_000_000),
}


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture(scope="module")
def seconds() -> EventStream:
    return replace(synthetic_stream(SyntheticConfig(events=4_000, users=300, items=100)), source=None)


def config(epochs: int, placement: str = "host", **model: Any) -> RunConfig:
    settings: dict[str, Any] = {} if placement == "device" else {"schedule": "serial", "deterministic": True}
    settings |= {"placement": placement, "threads": 1, "batch_size": 100, "negatives": 9}
    return RunConfig(model=ModelConfig(dim=32, **model), train=TrainConfig(epochs=epochs, **settings))


def results(config: RunConfig, stream: EventStream, out: Path) -> dict[str, Any]:
    """Losses and scores of a run, which do not depend on its speed."""
    result = train(config, stream, out=str(out))
    return {name: result[name] for name in ("losses", "val", "test")}


@pytest.mark.slow
@pytest.mark.parametrize("model", [{"model": "tgn"}, {"model": "tgat", "fanout": 4}], ids=["tgn", "tgat"])
def test_the_unit_does_not_change_a_run(model: dict[str, Any], seconds: EventStream, tmp_path: Path) -> None:
    """Whole seconds scale to the same numbers from every unit, so the results are the same bits."""
    settings = config(3, dtype="float64", **model)
    expected = results(settings, seconds, tmp_path / "seconds")
    assert expected["test"]["ap"] > 0.7
    for unit in ("days", "years", "milliseconds"):
        stream = replace(seconds, t=UNITS[unit](seconds.t))
        assert results(settings, stream, tmp_path / unit) == expected, unit


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "model",
    [{}, {"time_encoder": "learned"}, {"model": "jodie"}, {"model": "apan"}, {"layers": 2, "sampler": "uniform"}],
    ids=["tgn", "learned encoder", "jodie", "apan", "uniform"],
)
@pytest.mark.parametrize("placement", ["host", "device"])
def test_every_model_in_every_unit(model: dict[str, Any], placement: str, seconds: EventStream, tmp_path: Path) -> None:
    stream = EventStream(*(part[:600] for part in (seconds.src, seconds.dst, seconds.t)))
    settings = config(1, placement, **model)
    expected = results(settings, stream, tmp_path / "seconds")
    for unit, scale in UNITS.items():
        assert results(settings, replace(stream, t=scale(stream.t)), tmp_path / unit) == expected, unit


def test_the_run_keeps_its_scale(small_stream: EventStream, tmp_path: Path) -> None:
    stream, run = replace(small_stream, t=small_stream.t.double() / DAY), tmp_path / "run"
    result = train(config(1), stream, out=str(run))
    scale = json.loads((run / "data.json").read_text())["time_scale"]
    assert scale == torch.load(run / "checkpoint.pt", weights_only=True)["time"]
    assert scale["origin"] == stream.t[0]
    assert scale["gap"] == pytest.approx(1 / DAY, rel=1e-12)
    assert evaluate_run(str(run), "test", stream=stream) == result["test"]


def test_a_session_scales_times_alone(small_stream: EventStream) -> None:
    stream = replace(small_stream, t=60 * small_stream.t)
    session = Session.create(config(1), stream)
    assert torch.equal(session.stream.t, (small_stream.t - small_stream.t[0]).double())
    assert torch.equal(session.sampler.adjacency.times * 60 + stream.t[0], adjacent(stream))
    assert session.split == stream.split()
    assert all(getattr(session.stream, name) is getattr(stream, name) for name in ("src", "dst", "edge_features"))


def adjacent(stream: EventStream) -> torch.Tensor:
    """Times of every node's events, by node."""
    ends = torch.stack([stream.src, stream.dst], 1).view(-1)
    return stream.t.repeat_interleave(2)[ends.argsort(stable=True)].double()
