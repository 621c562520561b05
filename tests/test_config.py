"""Settings: defaults of each model, recipes and protocols, and one line for a setting that does not fit."""

from __future__ import annotations

from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from mspipe_triton.cli.options import RUN_FLAGS
from mspipe_triton.config import MODELS, DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.errors import ConfigError, InputError
from mspipe_triton.execution import RunSettings
from mspipe_triton.recipes import set_flags


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "dim 100 is not a multiple of heads, 3; use 99 or 102, or other heads"),
        ({"model": "apan", "dim": 15}, "dim 15 is not a multiple of heads, 2; use 14 or 16, or other heads"),
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


RANKING = {
    "loss": "softmax", "train_negatives": 10, "negative_kind": "mixed", "batch_size": 200, "lr": 3e-4, "epochs": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"recipe": "ranking"}, RANKING),
        ({"recipe": "ranking", "lr": 0.01, "loss": "bce", "epochs": None}, {**RANKING, "lr": 0.01, "loss": "bce"}),
        ({"protocol": "tgb"}, {"protocol": "tgb", "batch_size": 200, "split_at": "tgb"}),
        (
            {"protocol": "tgb", "recipe": "ranking", "seed": 3},
            {**RANKING, "protocol": "tgb", "split_at": "tgb", "seed": 3},
        ),
        ({"protocol": "default", "seed": None}, {"protocol": "default"}),
        ({"recipe": None, "dim": 8}, {"dim": 8}),
    ],
    ids=str,
)
def test_flags_override_recipes_and_protocols(flags: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set_flags(flags) == expected
    config = RunConfig().with_flags(flags)
    values = {**vars(config.data), **vars(config.model), **vars(config.train)}
    defaults = {**vars(DataConfig()), **vars(ModelConfig()), **vars(TrainConfig())}
    assert values == {**defaults, **expected}


def test_a_recipe_overrides_a_config_and_flags_override_both() -> None:
    config = RunConfig(train=TrainConfig(batch_size=50, lr=0.5, seed=4))
    train = config.with_flags({"recipe": "ranking", "train_negatives": 6}).train
    assert (train.batch_size, train.lr, train.train_negatives, train.seed) == (200, 3e-4, 6, 4)


@pytest.mark.parametrize("flags", [{"recipe": "ranking"}, {"protocol": "tgb"}, {"pair_features": False}], ids=str)
def test_recipes_and_protocols_are_saved_as_their_settings(flags: dict[str, Any], tmp_path: Path) -> None:
    config = RunConfig().with_flags(flags)
    (tmp_path / "config.toml").write_text(config.to_toml())
    assert load_config(tmp_path / "config.toml") == replace(config, model=config.model.resolved())
    assert "recipe" not in config.to_toml()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recipe": "fast"}, "there is no recipe 'fast'; use ranking"),
        ({"protocol": "ogb"}, "protocol 'ogb' is not one of default, tgb"),
        ({"negative_kind": "mixed"}, "negative-kind mixed needs 2 negatives or more, as in --train-negatives 10"),
        ({"recipe": "ranking", "train_negatives": 1}, "negative-kind mixed needs 2 negatives or more"),
        (
            {"protocol": "tgb", "batch_size": 100},
            "protocol tgb needs batch-size 200, not 100; use 200 (the flag --protocol sets it if --batch-size is",
        ),
        (
            {"protocol": "tgb", "split_at": "0.7,0.8"},
            "protocol tgb needs split-at tgb, not '0.7,0.8'; omit --split-at",
        ),
        (
            {"protocol": "tgb", "negatives": 10},
            "protocol tgb ranks among its own candidates, not among 10 random ones; omit --negatives",
        ),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_get_one_line(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig().with_flags(flags)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_protocol_in_a_file_needs_its_batch_size_there(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[train]\nprotocol = "tgb"\n')
    with pytest.raises(ConfigError, match=r"run\.toml: protocol tgb needs batch-size 200, not 600; use 200"):
        load_config(file)
    file.write_text('[train]\nprotocol = "tgb"\nbatch_size = 200\n')
    config = load_config(file)
    assert (config.train.protocol, config.data.split_at) == ("tgb", "tgb")
    assert RunConfig(train=TrainConfig(protocol="tgb", batch_size=200)).data.split_at == "tgb"


@pytest.mark.parametrize(
    ("kind", "number", "historical"), [("random", 9, 0), ("historical", 9, 9), ("mixed", 2, 1), ("mixed", 9, 4)]
)
def test_of_mixed_negatives_the_greater_half_is_random(kind: str, number: int, historical: int) -> None:
    assert TrainConfig(negative_kind=kind, train_negatives=number).historical == historical
