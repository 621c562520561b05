"""Runs of several seeds: their folders and summary, events that are read once, and runs that resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from mspipe_triton import continuation
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.training import continuation as module
from mspipe_triton.training.observer import Observer
from mspipe_triton.training.seeds import summarise, train_seeds
from mspipe_triton.training.trainer import train
from tests.training.later_events import table, write_parts


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def stream() -> EventStream:
    return synthetic_stream(SyntheticConfig(events=300, users=40, items=20, seed=1))


def config(**settings: Any) -> RunConfig:
    values = {"epochs": 2, "batch_size": 100, "negatives": 5, "threads": 1, "deterministic": True, **settings}
    return RunConfig(model=ModelConfig(dim=8, fanout=4), train=TrainConfig(**values))


def scores(result: dict[str, Any]) -> list[Any]:
    return [result[name] for name in ("seed", "losses", "val", "test")]


class Interrupt(Observer):
    """Interrupt the second run in its last epoch."""

    def start(self, session: Any, folder: Any) -> None:
        self.seed = session.seed

    def batch(self, epoch: int, events: int, loss: float) -> None:
        if (self.seed, epoch) == (8, 2):
            raise KeyboardInterrupt


def test_runs_are_those_of_train_and_their_scores_are_summarised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stream(stream(), tmp_path / "events.csv")
    settings = replace(config(seed=7), data=DataConfig(path=str(tmp_path / "events.csv")))
    reads, load = [], module.load_stream
    monkeypatch.setattr(module, "load_stream", lambda data: (reads.append(1), load(data))[1])
    summary = train_seeds(settings, 3, out=str(tmp_path / "all"))
    assert len(reads) == 1
    assert sorted(each.name for each in (tmp_path / "all").iterdir()) == ["seed-7", "seed-8", "seed-9", "seeds.json"]
    assert json.loads((tmp_path / "all" / "seeds.json").read_text()) == summary
    for number, result in enumerate(summary["seeds"]):
        folder = tmp_path / "all" / f"seed-{7 + number}"
        assert json.loads((folder / "result.json").read_text()) == result
        assert load_config(folder / "config.toml").train.seed == 7 + number
    alone = train(replace(settings, train=replace(settings.train, seed=8)), out=str(tmp_path / "alone"))
    assert scores(summary["seeds"][1]) == scores(alone)
    mean, deviation = summary["mean"], summary["deviation"]
    places = [("val", "ap"), ("test", "mrr"), ("test", "inductive", "auc"), ("test", "edgebank", "ap")]
    for place in [*places, ("train_events_per_s",)]:
        values = [at(result, place) for result in summary["seeds"]]
        assert len(set(values)) > 1
        assert (at(mean, place), at(deviation, place)) == (fmean(values), stdev(values))
    assert "events" not in mean["test"]["inductive"]


def at(content: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        content = content[name]
    return content


def test_a_score_that_a_run_lacks_is_left_out() -> None:
    parts = {"val": {"ap": 0.5}, "train_events_per_s": 10.0}
    results = [{**parts, "test": {"ap": value, "node": {"auc": 0.5}, "mrr": value or None}} for value in (0.0, 1.0)]
    results[1]["test"].pop("node")
    summary = summarise(results)
    assert summary["mean"] == {**parts, "test": {"ap": 0.5}}
    assert summary["deviation"] == {"val": {"ap": 0.0}, "test": {"ap": 0.5**0.5}, "train_events_per_s": 0.0}


def test_resuming_trains_what_is_missing(tmp_path: Path) -> None:
    whole, out = train_seeds(config(seed=7), 3, stream(), str(tmp_path / "whole")), str(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train_seeds(config(seed=7), 3, stream(), out, observer=Interrupt())
    first = tmp_path / "parts" / "seed-7" / "result.json"
    written = first.stat().st_mtime_ns
    (tmp_path / "parts" / "seed-9").mkdir()  # the run has not begun
    resumed = train_seeds(None, 3, stream(), out, resume=True)
    assert first.stat().st_mtime_ns == written
    assert [scores(each) for each in resumed["seeds"]] == [scores(each) for each in whole["seeds"]]
    more = train_seeds(config(seed=7, epochs=3), 2, stream(), out, resume=True)
    assert [each["epochs"] for each in more["seeds"]] == [3, 3]
    with pytest.raises(RunFolderError, match=r"the run to resume has another --lr \(0.001 there, 0.5 here\)"):
        train_seeds(config(seed=7, lr=0.5), 3, stream(), out, resume=True)


def test_runs_may_continue_a_run(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, table())
    settings = replace(config(epochs=1, batch_size=50), data=DataConfig(str(paths[0])))
    train(settings, out=str(tmp_path / "first"))
    later = continuation(tmp_path / "first", paths[1], epochs=1)
    summary = train_seeds(later, 2, out=str(tmp_path / "all"))
    assert [each["history"] for each in summary["seeds"]] == [300, 300]
    assert scores(summary["seeds"][0]) == scores(train(later, out=str(tmp_path / "alone")))
    (tmp_path / "all" / "seed-1" / "result.json").unlink()
    assert train_seeds(None, 2, out=str(tmp_path / "all"), resume=True)["mean"]["test"] == summary["mean"]["test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 1}, "^seeds must be a whole number of at least 2, not 1; omit it for one run$"),
        ({"seeds": True}, "^seeds must be a whole number of at least 2, not True; omit it for one run$"),
        ({"resume": True}, "^--resume needs --out OUT, the folder of the runs to continue$"),
        ({"resume": True, "out": "none"}, "^none: has no run of a seed to resume, as in none/seed-0; give the first"),
        ({"config": config(seed=2**32 - 1)}, r"^seed must be below 2\*\*32, not 4294967296$"),
    ],
    ids=["one", "boolean", "no folder", "no runs", "large seed"],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, RunFolderError), match=message):
        train_seeds(**{"config": config(), "seeds": 2, "stream": stream(), **arguments})
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="all: holds another run or other files"):
        train_seeds(config(), 2, stream(), str(tmp_path / "all"))
    monkeypatch.chdir(tmp_path)
    train_seeds(config(epochs=1), 2, stream())
    assert sorted(each.name for each in Path("runs/synthetic-tgn-1").iterdir()) == ["seed-0", "seed-1", "seeds.json"]
