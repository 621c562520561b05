"""Model settings: each model's own settings and defaults, and one line for a setting that the model does not have."""

from __future__ import annotations

from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from mspipe_triton.cli.options import RUN_FLAGS
from mspipe_triton.config import MODELS, DataConfig, ModelConfig, RunConfig, RunSettings, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.errors import ConfigError, InputError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "dim 100 is not a multiple of heads, 3; change either"),
        ({"model": "apan", "dim": 15}, "dim 15 is not a multiple of heads, 2; change either"),
        ({"model": "apan", "slots": 0}, "slots must be at least 1, not 0"),
        ({"slots": 5}, "slots 5: model tgn has none; omit --slots, or use one of apan"),
        ({"model": "jodie", "fanout": 5}, "fanout 5: model jodie has none; omit --fanout, or use one of"),
        ({"model": "jodie", "heads": 2}, "heads 2: model jodie has none; omit --heads"),
        ({"model": "jodie", "sampler": "uniform"}, "sampler uniform: model jodie has none; omit --sampler"),
        ({"model": "jodie", "dropout": 0.1}, "dropout 0.1: model jodie has none; omit --dropout"),
        ({"model": "apan", "layers": 1}, "layers 1: model apan has none; omit --layers, or use one of tgn, tgat"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"model": "tgat", "layers": -3}, "layers must be at least 1, not -3"),
        ({"fanout": 0}, "fanout must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"model": "dyrep"}, "model 'dyrep' is not one of tgn, jodie, apan, tgat"),
        ({"aggregator": "sum"}, "aggregator 'sum' is not one of last, mean"),
    ],
)
def test_a_wrong_setting_of_a_model_gets_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(**settings)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, InputError)


@pytest.mark.parametrize(
    ("model", "defaults"),
    [
        ("tgn", {"fanout": 10, "heads": 2, "layers": 1, "slots": 0}),
        ("jodie", {"fanout": 0, "heads": 0, "layers": 0, "slots": 0}),
        ("apan", {"fanout": 10, "heads": 2, "layers": 0, "slots": 10}),
        ("tgat", {"fanout": 10, "heads": 2, "layers": 2, "slots": 0}),
    ],
)
def test_a_setting_defaults_to_that_of_the_model(model: str, defaults: dict[str, int]) -> None:
    config = ModelConfig(model=model)
    assert {name: config.setting(name) for name in defaults} == defaults
    for name in MODELS[model]:
        assert ModelConfig(model=model, **{name: 4}).setting(name) == 4


@pytest.mark.parametrize("model", ["tgn", "jodie", "apan", "tgat"])
def test_a_saved_config_is_read_unchanged(model: str, tmp_path: Path) -> None:
    config = RunConfig(model=ModelConfig(model=model, dim=8), train=TrainConfig(task="node", epochs=2))
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "config.toml") == replace(config, model=config.model.resolved())


def test_a_saved_config_has_the_defaults_of_the_model(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(RunConfig(model=ModelConfig(model="apan")).to_toml(), encoding="utf-8")
    saved = load_config(file).model
    assert (saved.slots, saved.fanout, saved.heads, saved.layers) == (10, 10, 2, -1)
    assert saved == ModelConfig(model="apan").resolved() == ModelConfig(model="apan", slots=10).resolved()


SETTINGS = [(kind, each) for kind in (ModelConfig, TrainConfig, RunSettings) for each in fields(kind) if each.metadata]


@pytest.mark.parametrize(("kind", "each"), SETTINGS, ids=lambda value: getattr(value, "name", value.__class__.__name__))
def test_a_setting_outside_its_choices_or_below_its_minimum_is_refused(kind: type[Any], each: Field[Any]) -> None:
    name, choices, minimum = each.name.replace("_", "-"), each.metadata["choices"], each.metadata["minimum"]
    if choices:
        assert each.default in choices
        with pytest.raises(ConfigError, match=f"^{name} 'else' is not one of {', '.join(choices)}$"):
            kind(**{each.name: "else"})
    if minimum is not None:
        with pytest.raises(ConfigError, match=f"^{name} must be at least {minimum}, not {minimum - 1}$"):
            kind(**{each.name: minimum - 1})


def test_every_setting_of_model_and_training_is_a_flag_with_help_and_default() -> None:
    for kind in (ModelConfig, TrainConfig):
        for each in fields(kind):
            flag = get_args(RUN_FLAGS[each.name])
            assert flag[0] == type(each.default) | None
            assert (flag[1].help or "") == each.metadata["help"]
    shown = {name: get_args(RUN_FLAGS[name])[1].show_default for name in ("heads", "layers", "slots", "lr", "schedule")}
    assert shown == {"heads": "2", "layers": "tgn 1, tgat 2", "slots": "10", "lr": "0.001", "schedule": "auto"}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ModelConfig, {"dim": "16"}, "dim must be a whole number, not '16'"),
        (ModelConfig, {"dim": 16.0}, "dim must be a whole number, not 16.0"),
        (ModelConfig, {"dropout": "a"}, "dropout must be a number, not 'a'"),
        (TrainConfig, {"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
        (TrainConfig, {"seed": None}, "seed must be a whole number, not None"),
        (TrainConfig, {"deterministic": 1}, "deterministic must be true or false, not 1"),
        (DataConfig, {"columns": "src=u"}, "columns must map roles to names, not 'src=u'"),
        (DataConfig, {"columns": {"feature": "x"}}, "the roles are src, dst, t, label, features"),
        (RunConfig, {"model": {"dim": 16}}, "model must be a ModelConfig, not {'dim': 16}"),
        (RunConfig, {"data": ModelConfig()}, "data must be a DataConfig, not ModelConfig"),
        (RunConfig, {"settings": {}}, "settings must be RunSettings, not {}"),
    ],
)
def test_a_setting_of_another_type_is_refused(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**settings)
    assert message in str(caught.value)


def test_whole_numbers_serve_as_numbers() -> None:
    assert TrainConfig(lr=1).lr == 1
