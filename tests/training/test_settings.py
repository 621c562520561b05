"""Settings of a run: the shipped ones, those of a profile, and those that the run folder stores."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.config_file import load_config
from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.settings import default_settings, process_settings, run_settings
from mspipe_triton.training.strategy import Fixed

CONFIG = RunConfig(
    model=ModelConfig(dim=8, fanout=3), train=TrainConfig(batch_size=100, epochs=1, negatives=3, schedule="auto")
)
OTHER = RunSettings("exact", prefetch=2, threads=1, host_threads=1, deduplicate="roots", fused=False)


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without fused loops, which are slow to compile and not tested here."""
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_the_shipped_settings_follow_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    torch.set_num_threads(2)
    shipped = default_settings(TrainConfig())
    assert (shipped.schedule, shipped.threads, shipped.host_threads) == ("serial", 2, 2)
    fewer = default_settings(TrainConfig(threads=1))
    assert (fewer.schedule, fewer.threads, fewer.host_threads) == ("exact", 1, 1)
    assert default_settings(TrainConfig(schedule="prefetch")).schedule == "prefetch"
    assert not shipped.fused
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert default_settings(TrainConfig()).fused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "residential"}, "not one of auto, serial"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"prefetch": -1}, "prefetch must be at least 0"),
        ({"deduplicate": "none"}, "not one of all, roots"),
        ({"gather": "magic"}, "not one of copy, kernel"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunSettings(**options)


def test_a_config_file_has_settings_only_if_the_config_has(tmp_path: Path) -> None:
    for config in (CONFIG, replace(CONFIG, settings=OTHER)):
        (tmp_path / "run.toml").write_text(config.to_toml())
        loaded = load_config(tmp_path / "run.toml")
        assert loaded.settings == config.settings
        assert loaded.train == config.train
        assert ("[settings]" in config.to_toml()) == (config.settings is not None)
    assert CONFIG.with_flags({"threads": 3}).settings is None
    flagged = replace(CONFIG, settings=OTHER).with_flags({"threads": 3, "schedule": "serial", "lr": 0.1})
    assert flagged.settings == replace(OTHER, threads=3, schedule="serial")


def test_settings_and_run_must_agree() -> None:
    with pytest.raises(ConfigError, match=r"\[settings\] schedule exact differs from the run's, fixed"):
        replace(CONFIG, settings=OTHER, train=replace(CONFIG.train, schedule="fixed", staleness=1))
    with pytest.raises(ConfigError, match=r"\[settings\] threads 1 differs from the run's, 2"):
        replace(CONFIG, settings=OTHER, train=replace(CONFIG.train, threads=2))
    with pytest.raises(ConfigError, match="mspipe differs from the run's, auto"):
        replace(CONFIG, settings=replace(OTHER, schedule="mspipe"))


@pytest.mark.parametrize(
    ("train", "schedule"),
    [
        ({}, "exact"), ({"schedule": "prefetch"}, "prefetch"), ({"placement": "device"}, "resident"),
        ({"device": "cuda", "placement": "host"}, "exact"),
    ],
)  # fmt: skip
def test_settings_without_a_schedule_use_the_runs(
    train: dict[str, Any], schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    settings = RunSettings(threads=1, prefetch=5)
    config = RunConfig(train=TrainConfig(**train), settings=settings)
    assert run_settings(config) == replace(settings, schedule=schedule)
    assert run_settings(replace(config, settings=None)) == default_settings(config.train)


def test_resident_settings_and_placement_must_agree() -> None:
    with pytest.raises(ConfigError, match="remove it from the file, or use --placement device"):
        RunConfig(train=TrainConfig(placement="host"), settings=RunSettings("resident"))
    with pytest.raises(ConfigError, match="remove it from the file, or use --placement host"):
        RunConfig(train=TrainConfig(placement="device"), settings=RunSettings("serial"))


@pytest.mark.parametrize("by", ["placement", "settings"])
def test_a_resident_run_is_trained_evaluated_and_resumed(by: str, small_stream: EventStream, tmp_path: Path) -> None:
    from mspipe_triton.data.writers import write_stream

    write_stream(small_stream, tmp_path / "events.csv")
    plain = CONFIG.with_flags({"path": str(tmp_path / "events.csv"), "dtype": "float64"})
    if by == "placement":
        config = plain.with_flags({"placement": "device"})
    else:
        config = replace(plain, settings=RunSettings("resident", fused=False))
    result = train(config, out=str(tmp_path / "run"))
    assert (result["schedule"], result["settings"]["schedule"], result["captured"]) == ("resident", "resident", False)
    assert list(result["stage_seconds"]) == ["iteration"]
    assert result["losses"] == pytest.approx(train(plain, out=str(tmp_path / "plain"))["losses"], rel=1e-9)
    metrics = evaluate_run(str(tmp_path / "run"), "test")
    assert metrics["ap"] == result["test"]["ap"]
    longer = replace(config, train=replace(config.train, epochs=2))
    assert train(longer, out=str(tmp_path / "run"), resume=True)["schedule"] == "resident"
    other = longer.with_flags({"seed": 7})
    with pytest.raises(RunFolderError, match=r"another --seed \(0 there, 7 here\); give the same, or another --out"):
        train(other, out=str(tmp_path / "run"), resume=True)


def test_a_tuned_run_computes_the_same_and_is_evaluated_as_it_was_trained(
    small_stream: EventStream, tmp_path: Path
) -> None:
    from mspipe_triton.data.writers import write_stream

    write_stream(small_stream, tmp_path / "events.csv")
    config = CONFIG.with_flags({"path": str(tmp_path / "events.csv"), "dtype": "float64"})
    stage_seconds = dict.fromkeys(stage_names("exact"), 2e-3)
    plain = train(config, out=str(tmp_path / "plain"))
    result = train(config, out=str(tmp_path / "tuned"), strategy=Fixed(OTHER, stage_seconds, "tgn-events.json"))
    assert result["losses"] == pytest.approx(plain["losses"], rel=1e-9)
    assert (plain["tuning"], plain["settings"]["deduplicate"]) == (None, "all")
    assert result["settings"] == asdict(OTHER)
    assert (result["schedule"], result["fused"]) == ("exact", False)
    assert (result["tuning"]["profile"], result["tuning"]["trials"]) == ("tgn-events.json", 0)
    for stage, seconds in result["stage_seconds"].items():
        assert result["tuning"]["stage_seconds_off"][stage] == pytest.approx(seconds / 2e-3 - 1)
    assert load_config(tmp_path / "tuned" / "config.toml").settings == OTHER
    metrics = evaluate_run(str(tmp_path / "tuned"), "test")
    assert metrics["ap"] == result["test"]["ap"]
    first = json.loads((tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["event"] == "plan"
    assert set(first["new"]["times"].values()) == {2e-3}, "the first plan uses the profile's times"


def test_a_resumed_run_keeps_its_settings(small_stream: EventStream, tmp_path: Path) -> None:
    train(CONFIG, small_stream, out=str(tmp_path / "run"), strategy=Fixed(OTHER))
    longer = replace(CONFIG, train=replace(CONFIG.train, epochs=2))
    result = train(longer, small_stream, out=str(tmp_path / "run"), resume=True)
    assert result["settings"] == asdict(OTHER)
    assert load_config(tmp_path / "run" / "config.toml").settings == OTHER


def test_a_session_continues_under_other_settings(small_stream: EventStream) -> None:
    with process_settings(CONFIG):
        session = Session.create(CONFIG, small_stream)
        other = session.under(OTHER)
    assert other.model is session.model
    assert other.state.tables is session.state.tables
    assert (other.settings, other.sampler.deduplicate) == (OTHER, "roots")
    assert (session.settings.deduplicate, session.sampler.deduplicate) == ("all", "all")


def test_process_settings_are_restored() -> None:
    torch.set_num_threads(1)
    with process_settings(replace(CONFIG, settings=replace(OTHER, threads=2))):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
