"""A model from outside the package: registration, discovery, refusals, and training under every schedule."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mspipe_triton.config import MODELS, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError
from mspipe_triton.iteration.session import Session
from mspipe_triton.models import REGISTRY, Recipe, register
from mspipe_triton.models.tgn import TGAT, TGN
from mspipe_triton.training.trainer import train

ROOT = Path(__file__).resolve().parent.parent.parent
AVERAGING = {"model": "averaging", "dim": 8, "fanout": 4}


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture
def registry() -> Iterator[dict[str, Any]]:
    """The registry, restored after the test."""
    before = dict(REGISTRY), dict(MODELS)
    yield REGISTRY
    for registry, copy in zip((REGISTRY, MODELS), before, strict=True):
        registry.clear()
        registry.update(copy)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The module examples/own_model.py."""
    spec = importlib.util.spec_from_file_location("own_model", ROOT / "examples" / "own_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def averaging(registry: dict[str, Any], example: ModuleType) -> ModuleType:
    """The example, with its model registered."""
    register("averaging", example.AVERAGING, fanout=10)
    return example


@pytest.mark.usefixtures("averaging")
def test_it_trains_under_every_schedule(small_stream: EventStream, tmp_path: Path) -> None:
    losses = {}
    for schedule in ("serial", "prefetch", "exact", "fixed", "mspipe"):
        settings = TrainConfig(
            epochs=2, batch_size=100, negatives=1, threads=1, schedule=schedule,
            deterministic=schedule != "mspipe", staleness=1 if schedule == "fixed" else -1,
        )  # fmt: skip
        config = RunConfig(model=ModelConfig(**AVERAGING, dtype="float64"), train=settings)
        losses[schedule] = train(config, small_stream, out=str(tmp_path / schedule))["losses"]
        assert losses[schedule][-1] < losses[schedule][0]
    assert losses["prefetch"] == losses["serial"]
    assert losses["exact"] == losses["serial"]
    assert losses["fixed"] != losses["serial"]


@pytest.mark.usefixtures("averaging")
def test_all_its_parts_are_used(small_stream: EventStream) -> None:
    features = torch.ones(small_stream.num_nodes, 2)
    config = RunConfig(model=ModelConfig(**AVERAGING), train=TrainConfig(batch_size=100))
    run = Session.create(config, replace(small_stream, node_features=features))
    names = {name.rsplit(".", 1)[0] for name, _ in run.model.named_parameters()}
    assert {"updater", "updater.message.linear", "embedding.linear", "node_projection", "predictor.out"} <= names
    assert run.model.layers == 1
    assert run.sampler.fanout == 4


def test_the_example_runs(registry: dict[str, Any], example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    example.main(["--events", "600", "--epochs", "1", "--schedule", "exact"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["averaging", "tgn"]
    assert all("test AP 0." in line for line in lines)
    assert "averaging" in registry


@pytest.mark.usefixtures("averaging")
def test_it_has_its_own_settings() -> None:
    assert ModelConfig(model="averaging").setting("fanout") == 10
    with pytest.raises(ConfigError, match="heads 2: model averaging has none"):
        ModelConfig(model="averaging", heads=2)
    with pytest.raises(ConfigError, match=r"dropout 0\.1: model averaging has none"):
        ModelConfig(model="averaging", dropout=0.1)


def test_an_existing_name_and_an_unknown_setting_are_refused(registry: dict[str, Any]) -> None:
    before = dict(registry), dict(MODELS)
    with pytest.raises(ConfigError, match="there is already a model 'tgn'; choose another name"):
        register("tgn", TGN)
    with pytest.raises(ConfigError, match="'hops' is not one of fanout, heads, layers, slots; omit it"):
        register("other", TGN, fanout=5, hops=2)
    assert (dict(registry), dict(MODELS)) == before


def test_sampling_without_a_fanout_is_refused(registry: dict[str, Any], small_stream: EventStream) -> None:
    register("other", TGN, heads=2, layers=1)
    config = RunConfig(model=ModelConfig(model="other", dim=8), train=TrainConfig(batch_size=100))
    with pytest.raises(ConfigError, match="model other samples neighbours and has no fanout; register it with one"):
        Session.create(config, small_stream)
    assert "other" in registry


def test_an_embedding_without_layers_is_refused(registry: dict[str, Any], small_stream: EventStream) -> None:
    register("other", Recipe(lambda config, facts: torch.nn.Identity(), None, None, TGAT.mailbox))
    config = RunConfig(model=ModelConfig(model="other", dim=8), train=TrainConfig(batch_size=100))
    with pytest.raises(ConfigError, match="model other: its embedding Identity has no `layers`; set it to the number"):
        Session.create(config, small_stream)
    assert "other" in registry


def test_a_model_of_an_installed_package_is_found_by_name(
    registry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "plugged-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[mspipe_triton.models]\nplugged = plugged_model\n")
    (tmp_path / "plugged_model.py").write_text(
        "from mspipe_triton.models import register\n"
        "from mspipe_triton.models.tgn import TGN\n"
        "register('plugged', TGN, fanout=3, heads=1, layers=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "plugged" not in registry
    assert ModelConfig(model="plugged").setting("fanout") == 3
    assert "plugged" in registry
