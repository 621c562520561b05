"""The data of a run: moved, changed, missing, or passed from Python; the folder holds facts of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.origin import Origin, Source
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import ConfigError, DataError, RunFolderError, TrainingError
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.trainer import Observer, train

SMALL = RunConfig(
    model=ModelConfig(dim=8, fanout=4),
    train=TrainConfig(epochs=1, batch_size=100, negatives=5, threads=1, deterministic=True, schedule="serial"),
)
LONGER = SMALL.with_flags({"epochs": 2})


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture(scope="module")
def stream() -> EventStream:
    """600 events without features, whose 40 nodes all have events, as in a file of them."""
    events = synthetic_stream(SyntheticConfig(events=600, users=20, items=20, seed=1))
    nodes, numbers = torch.unique(torch.cat([events.src, events.dst]), return_inverse=True)
    return replace(events, src=numbers[:600], dst=numbers[600:], num_nodes=nodes.numel())


@pytest.fixture
def file(stream: EventStream, tmp_path: Path) -> Path:
    write_stream(stream, tmp_path / "events.csv")
    return tmp_path / "events.csv"


def on(file: Path, config: RunConfig = SMALL) -> RunConfig:
    return replace(config, data=DataConfig(path=str(file)))


def saved_data(run: str) -> DataConfig:
    return load_config(Path(run) / "config.toml").data


def test_data_that_have_moved_are_named(file: Path, tmp_path: Path) -> None:
    run, moved = str(tmp_path / "run"), tmp_path / "elsewhere.csv"
    result = train(on(file), out=run)
    file.rename(moved)
    message = f"{file}: no such file; restore it, or name the one that {run} was trained on with --data FILE"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        evaluate_run(run, "test")
    assert evaluate_run(run, "test", data=str(moved)) == result["test"]
    assert saved_data(run).path == str(file), "evaluating changes nothing"
    with pytest.raises(
        DataError, match=f"was trained on as in `mspipe-triton train FILE --out {re.escape(run)} --resume`"
    ):
        train(on(file, LONGER), out=run, resume=True)
    assert train(on(moved, LONGER), out=run, resume=True)["epochs"] == 2
    assert saved_data(run).path == str(moved)
    assert evaluate_run(run, "val")["candidates"] == 5


def test_a_link_or_a_relative_path_names_the_same_data(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    train(on(Path("events.csv")), out=run)
    assert saved_data(run).path == str(file), "config.toml does not depend on the working folder"
    (tmp_path / "link.csv").symlink_to(file)
    assert train(on(Path("link.csv"), LONGER), out=run, resume=True)["epochs"] == 2
    assert saved_data(run).path == str(tmp_path / "link.csv")


@pytest.mark.parametrize("change", ["fewer events", "other times"])
def test_data_that_have_changed_are_described(change: str, stream: EventStream, file: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    train(on(file), out=run)
    before = (Path(run) / "config.toml").read_bytes()
    changed, state = replace(stream, t=stream.t + 1), "as many, but with other times"
    if change == "fewer events":
        columns = {name: getattr(stream, name)[:599] for name in ("src", "dst", "t", "labels")}
        changed, state = replace(stream, **columns), f"599 events, {stream.num_nodes} nodes and no edge features"
    write_stream(changed, file, force=True)
    start = f"{run}: was trained on 600 events, {stream.num_nodes} nodes and no edge features, and {file} now holds "
    fix = "restore the file, or name the one that the run was trained on"
    with pytest.raises(RunFolderError, match=f"^{re.escape(f'{start}{state}; {fix} with --data')}$"):
        evaluate_run(run, "test")
    with pytest.raises(
        RunFolderError, match=f"^{re.escape(f'{start}{state}; {fix}, as in `mspipe-triton train FILE --out')}"
    ):
        train(on(file, LONGER), out=run, resume=True)
    assert (Path(run) / "config.toml").read_bytes() == before


def test_events_from_python_need_the_stream_or_a_file(stream: EventStream, tmp_path: Path) -> None:
    run, file = str(tmp_path / "run"), tmp_path / "events.parquet"
    result = train(SMALL, stream, out=run)
    assert saved_data(run).path == ""
    message = f"{run}: its events were passed from Python; name a file that holds them with --data FILE"
    with pytest.raises(RunFolderError, match=f"^{re.escape(message)}$"):
        evaluate_run(run, "test")
    with pytest.raises(RunFolderError, match="its events were passed from Python; name a file that holds them as in"):
        train(load_config(Path(run) / "config.toml"), out=run, resume=True)
    write_stream(stream, file)
    assert evaluate_run(run, "test", data=str(file)) == result["test"]
    assert evaluate_run(run, "test", stream=stream) == result["test"]
    other = replace(stream, t=stream.t + 1, name="other")
    with pytest.raises(RunFolderError, match=r"and stream other now holds as many, .*; pass the stream"):
        evaluate_run(run, "test", stream=other)
    with pytest.raises(ConfigError, match="data and stream"):
        evaluate_run(run, "test", data=str(file), stream=stream)
    assert train(LONGER, stream, out=run, resume=True)["epochs"] == 2
    longest = SMALL.with_flags({"epochs": 3, "path": str(file)})
    assert train(longest, out=run, resume=True)["epochs"] == 3
    assert saved_data(run).path == str(file)
    assert train(None, stream, out=run, resume=True)["epochs"] == 3
    assert saved_data(run).path == str(file), "a stream without a file leaves the run its file"


def test_a_stream_with_a_source_names_its_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, source = str(tmp_path / "run"), Source(Origin((("events.csv", 600),)), data=DataConfig("events.csv"))
    result = train(SMALL, replace(read_stream(file), source=source), out=run)
    assert saved_data(run) == DataConfig(str(file))
    assert evaluate_run(run, "test") == result["test"]


def test_a_config_that_names_the_file_of_a_stream_is_stored(file: Path, tmp_path: Path) -> None:
    result = train(on(file), read_stream(file), out=str(tmp_path / "run"))
    assert evaluate_run(str(tmp_path / "run"), "val") == result["val"]


def test_the_built_in_stream_from_python_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: EventStream
) -> None:
    built_in = synthetic_stream()
    assert built_in.source is not None
    assert synthetic_stream(SyntheticConfig(events=5)).source is None
    source = replace(built_in.source, origin=Origin((("synthetic", 600),)))
    monkeypatch.setattr("mspipe_triton.data.source.synthetic_stream", lambda: replace(stream, source=source))
    result = train(SMALL, replace(stream, source=source), out=str(tmp_path / "run"))
    assert saved_data(str(tmp_path / "run")).path == "synthetic"
    assert evaluate_run(str(tmp_path / "run"), "test") == result["test"]


def test_the_folder_holds_what_reading_did(stream: EventStream, tmp_path: Path) -> None:
    ids = NodeIds((pa.array([f"n{number:02}" for number in range(stream.num_nodes)]),))
    source = Source(Origin((("events.csv", 600),)), np.arange(600), notes=("A note.",), time="Unix seconds")
    run = tmp_path / "run"
    train(SMALL, replace(stream, ids=ids, source=source), out=str(run))
    facts = json.loads((run / "data.json").read_text())
    saved = torch.load(run / "last.pt", weights_only=True)["data"]
    assert {name: facts[name] for name in ("fingerprint", "events", "nodes")} == {
        name: saved[name] for name in ("fingerprint", "events", "nodes")
    }
    assert (facts["notes"], facts["time"], facts["features"]) == (["A note."], "Unix seconds", None)
    restored = NodeIds.load(run / "nodes.parquet")
    assert restored.ids[0].equals(ids.ids[0])
    assert restored.kinds == ()
    before = {name: (run / name).stat().st_mtime_ns for name in ("data.json", "nodes.parquet")}
    train(LONGER, replace(stream, ids=ids, source=source), out=str(run), resume=True)
    assert {name: (run / name).stat().st_mtime_ns for name in before} == before, "written once"
    with pytest.raises(RunFolderError, match="other ids"):
        train(LONGER, replace(stream, source=source), out=str(run), resume=True)


class Failing(Observer):
    """Makes the first iteration's loss infinite."""

    def start(self, session: Session, folder: object) -> None:
        with torch.no_grad():
            next(session.model.parameters()).fill_(float("nan"))


def fail(stream: EventStream, run: Path, **more: Any) -> None:
    with pytest.raises(TrainingError, match="no epoch was finished"):
        train(SMALL, stream, out=str(run), observer=Failing(), **more)


def test_leftovers_of_a_failed_run_are_overwritten(stream: EventStream, tmp_path: Path) -> None:
    run, ids = tmp_path / "run", NodeIds((pa.array([f"n{number:02}" for number in range(stream.num_nodes)]),))
    fail(replace(stream, ids=ids), run)
    assert {path.name for path in run.iterdir()} <= {"config.toml", "data.json", "metrics.jsonl", "nodes.parquet"}
    assert (run / "nodes.parquet").exists()
    (run / "report.html").touch()
    assert train(SMALL, stream, out=str(run))["epochs"] == 1
    assert not (run / "nodes.parquet").exists(), "the new run has no ids"
    assert not (run / "report.html").exists(), "it was about the run that failed"


@pytest.mark.parametrize("whose", ["a new file", "a run's, edited", "a run's, without its mark"])
def test_a_config_of_the_user_is_not_overwritten(whose: str, stream: EventStream, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fail(stream, run)
    text = (run / "config.toml").read_text()
    changed = {
        "a new file": "[train]\nepochs = 1\n",
        "a run's, edited": text.replace("epochs = 1", "epochs = 5"),
        "a run's, without its mark": text.partition("\n")[2],
    }[whose]
    for path in run.iterdir():
        path.unlink()
    (run / "config.toml").write_text(changed)
    with pytest.raises(RunFolderError, match="holds another run or other files; choose an empty folder"):
        train(SMALL, stream, out=str(run))
    assert [(path.name, path.read_text()) for path in run.iterdir()] == [("config.toml", changed)]


def test_fewer_epochs_than_are_trained_stay_out_of_the_config(stream: EventStream, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    train(LONGER, stream, out=run)
    assert train(SMALL, stream, out=run, resume=True)["epochs"] == 2
    assert load_config(Path(run) / "config.toml").train.epochs == 2
    train(SMALL.with_flags({"epochs": 3}), stream, out=run, resume=True)
    assert load_config(Path(run) / "config.toml").train.epochs == 3


def test_arguments_of_another_kind_are_refused(stream: EventStream, file: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    wrong: Any = "events.csv"
    with pytest.raises(ConfigError, match="stream must be an EventStream, not str; make one with"):
        train(on(file), wrong, out=run)
    with pytest.raises(ConfigError, match="config must be a RunConfig, not EventStream"):
        train(stream)  # type: ignore[arg-type]
    train(on(file), out=run)
    for arguments, message in (
        (("train",), "split must be val or test, not 'train'"),
        (("test", 0), "negatives must be at least 1, not 0"),
        (("test", None, None, wrong), "stream must be an EventStream, not str"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate_run(run, *arguments)  # type: ignore[arg-type]
