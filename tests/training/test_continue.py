"""Continuing a run: epochs start from its node state and learn from later events alone, in every way to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from mspipe_triton import DataConfig, ModelConfig, RunConfig, TrainConfig, continuation, evaluate_run, load, train
from mspipe_triton.data.readers import read_stream
from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.iteration.session import Session
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.training.entry import enter
from mspipe_triton.training.staged import Staged
from mspipe_triton.training.way import Way, carry_out
from tests.training.later_events import table, write_parts

SIZE = 50
TRAIN = {"epochs": 2, "batch_size": SIZE, "negatives": 5, "threads": 1, "device": "cpu", "schedule": "serial"}
MODELS: dict[str, dict[str, Any]] = {
    "tgn": {"fanout": 4}, "apan": {"model": "apan", "fanout": 4, "slots": 3},
    "tgn in bfloat16": {"fanout": 4, "precision": "bf16", "dtype": "float32"}, "jodie": {"model": "jodie"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _without_fusion() -> Any:
    with pytest.MonkeyPatch.context() as changes:
        changes.setenv("TORCHDYNAMO_DISABLE", "1")
        yield


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_parts(tmp_path_factory.mktemp("parts"), table())


def first_run(out: Path, file: Path, **model: Any) -> Path:
    config = RunConfig(
        DataConfig(str(file), {"features": "amount,sort"}), ModelConfig(**{"dim": 8, "dtype": "float64"} | model),
        TrainConfig(**TRAIN, deterministic=True),
    )  # fmt: skip
    train(config, out=str(out))
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, parts: list[Path]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: first_run(folder / name, parts[0], **model) for name, model in MODELS.items()}


def continued(run: Path, file: Path, **settings: Any) -> Session:
    """The session of a run that continues another."""
    entry = enter(continuation(run, file, **settings))
    return Session.create(entry.resolved()[0], entry.stream, past=entry.past)


def rows_by_id(run: Path) -> dict[Any, dict[str, torch.Tensor]]:
    """Rows of the node state that a run stored, by the user's id."""
    nodes = pyarrow.parquet.read_table(run / "nodes.parquet").to_pylist()
    tables = load_file(run / "model.safetensors").items()
    state = {name.removeprefix("state."): values for name, values in tables if name.startswith("state.")}
    return {
        (node["kind"], node["id"]): {name: values[row] for name, values in state.items()}
        for row, node in enumerate(nodes)
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("placement", ["host", "device"])
def test_every_epoch_starts_from_the_state_of_the_run(
    name: str, placement: str, runs: dict[str, Path], parts: list[Path]
) -> None:
    schedule = {"host": "serial", "device": "auto"}[placement]
    session = continued(runs[name], parts[1], placement=placement, schedule=schedule)
    expected, stream = rows_by_id(runs[name]), session.stream
    assert stream.ids is not None
    ids = stream.ids.of(range(stream.num_nodes))
    assert len(ids) == len(expected) + 4
    assert ids[0] not in expected, "a new node comes first"
    way = carry_out(session)
    for _ in range(2):
        session.state.reset()
        for name, values in session.state.tables.items():
            for node, row in zip(ids, values, strict=True):
                if node in expected:
                    assert torch.equal(row, expected[node][name].to(row.dtype))
                elif name in ("memory", "received"):
                    assert not row.any(), "a new node has met nobody"
        if "received" in session.state.tables:
            assert torch.equal(session.state.sent, session.state.tables["received"])
        way.train_epoch(1)


@pytest.mark.parametrize("placement", ["host", "device"])
def test_epochs_without_learning_repeat_their_losses(placement: str, runs: dict[str, Path], parts: list[Path]) -> None:
    schedule = {"host": "serial", "device": "auto"}[placement]
    session = continued(runs["tgn"], parts[1], placement=placement, schedule=schedule, lr=1e-300)
    way = carry_out(session)
    losses = way.train_epoch(1).losses
    assert torch.equal(way.train_epoch(1).losses, losses)
    session.state.base = None
    assert not torch.equal(carry_out(session).train_epoch(1).losses, losses)


def test_parameters_time_scale_and_facts_are_those_of_the_run(runs: dict[str, Path], parts: list[Path]) -> None:
    session, facts = continued(runs["tgn"], parts[1]), json.loads((runs["tgn"] / "model.json").read_text())
    tensors = load_file(runs["tgn"] / "model.safetensors")
    for name, value in session.model.state_dict().items():
        assert torch.equal(value, tensors[f"model.{name}"])
    assert not session.optimizer.state
    assert session.time.gap == facts["time_scale"]["gap"] == 60
    assert session.time.origin == facts["time_scale"]["origin"] == 1000
    assert vars(session.model.facts) == facts["facts"]
    assert session.stream.t[[0, 300]].tolist() == [0, 150], "scaled to minutes from the run's first event"


def losses_of(way: Way) -> torch.Tensor:
    return torch.stack([way.train_epoch(epoch).losses for epoch in (1, 2)])


@pytest.mark.parametrize("name", ["tgn", "apan"])
def test_all_ways_compute_the_same(name: str, runs: dict[str, Path], parts: list[Path]) -> None:
    serial = losses_of(carry_out(continued(runs[name], parts[1])))
    exact = losses_of(carry_out(continued(runs[name], parts[1], schedule="exact")))
    resident = losses_of(carry_out(continued(runs[name], parts[1], schedule="auto", placement="device")))
    torch.testing.assert_close(exact, serial, rtol=1e-12, atol=0)
    torch.testing.assert_close(resident, serial, rtol=1e-9, atol=0)


def test_history_is_not_trained_on(runs: dict[str, Path], parts: list[Path]) -> None:
    session = continued(runs["tgn"], parts[1])
    assert session.split == (440, 470)
    way = Staged(session)
    batches = list(way.training_batches(1))
    assert [(batch.start, batch.stop) for batch in batches] == [(300, 350), (350, 400), (400, 440)]
    metrics = way.train(1)
    assert metrics["iterations"] == 3
    losses = way.train_epoch(1).losses
    assert way.train_epoch(1, stop=60).losses.numel() == 2
    assert losses.numel() == 3
    stretch = list(way.stretch(1, 4))[:4]
    assert [batch.start for batch in stretch] == [350, 300, 350, 300], "whole batches, in turn"
    for batch in stretch:
        destinations = session.stream.dst[batch.start : batch.stop]
        assert not bool((batch.negatives == destinations.unsqueeze(1)).any()), "they belong to other events"


def test_a_resident_stretch_stays_among_the_training_events(runs: dict[str, Path], parts: list[Path]) -> None:
    way: Any = carry_out(continued(runs["tgn"], parts[1], schedule="auto", placement="device"))
    spans, start = [], way.training().start
    way.training().start = lambda *span: spans.append(span) or start(*span)
    assert sum(1 for _ in way.train_stretch(1, 3, StageTimes())) == 3
    assert spans == [(300, 400, 1), (300, 400, 1)]


def test_a_later_test_event_changes_neither_losses_nor_validation(
    runs: dict[str, Path], parts: list[Path], tmp_path: Path
) -> None:
    events = pd.read_csv(parts[1])
    test = events.index >= 170
    other = events.copy()
    other.loc[test, "time"] += 600_000
    other.loc[test, "user"] = other.loc[test, "user"].to_numpy()[::-1]
    other.loc[test, "amount"] = 99.0
    other.to_csv(tmp_path / "other.csv", index=False)
    results = [
        train(continuation(runs["tgn"], file), out=str(tmp_path / file.stem))
        for file in (parts[1], tmp_path / "other.csv")
    ]
    assert results[0]["losses"] == results[1]["losses"]
    assert results[0]["val"] == results[1]["val"]
    assert results[0]["test"]["ap"] != results[1]["test"]["ap"]


def test_a_run_is_continued_twice_and_evaluates_to_its_result(
    runs: dict[str, Path], parts: list[Path], tmp_path: Path
) -> None:
    second, third = tmp_path / "second", tmp_path / "third"
    result = train(continuation(runs["tgn"], parts[1], epochs=1), out=str(second))
    assert (result["events"], result["history"], result["epochs"]) == (500, 300, 1)
    assert result["split_events"] == {"train": 140, "val": 30, "test": 30}
    result = train(continuation(second, parts[2], split_at="0.5,0.75"), out=str(third))
    assert (result["events"], result["history"], result["epochs"]) == (660, 500, 1)
    assert result["split_events"] == {"train": 80, "val": 40, "test": 40}
    assert evaluate_run(str(second), "val")["ap"] == json.loads((second / "result.json").read_text())["val"]["ap"]
    for split in ("val", "test"):
        assert evaluate_run(str(third), split) == result[split]
    state, expected = rows_by_id(third), rows_by_id(second)
    assert state.keys() > expected.keys()
    moved = tmp_path / "moved.csv"
    parts[2].rename(moved)
    try:
        assert evaluate_run(str(third), "test", data=str(moved)) == result["test"]
    finally:
        moved.rename(parts[2])


def test_a_continued_run_resumes(runs: dict[str, Path], parts: list[Path], tmp_path: Path) -> None:
    config = continuation(runs["tgn"], parts[1])
    whole = train(config, out=str(tmp_path / "whole"))
    train(config.with_flags({"epochs": 1}), out=str(tmp_path / "half"))
    rest = train(config, out=str(tmp_path / "half"), resume=True)
    assert rest["losses"] == whole["losses"]
    assert rest["test"] == whole["test"]


def test_a_run_whose_past_has_another_model_does_not_resume(parts: list[Path], tmp_path: Path) -> None:
    past, later = first_run(tmp_path / "past", parts[0]), str(tmp_path / "later")
    result = train(continuation(past, parts[1]), out=later)
    tensors = load_file(past / "model.safetensors")
    tensors["state.memory"] += 1
    save_file(tensors, past / "model.safetensors")
    with pytest.raises(RunFolderError, match=r"later: continues .*past, whose model has changed since; continue that"):
        train(out=later, resume=True)
    assert evaluate_run(later, "test") == result["test"], "its own checkpoint has parameters and node state"


def test_events_in_memory_do_not_continue_a_run(runs: dict[str, Path], parts: list[Path], tmp_path: Path) -> None:
    config, stream = continuation(runs["tgn"], parts[1]), read_stream(parts[1])
    with pytest.raises(ConfigError, match=r"stream second: the events after those of .*tgn are read from a file"):
        train(config, stream, out=str(tmp_path / "run"))
    train(config, out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"stream second: .*run continues another run; name its own events with data"):
        evaluate_run(str(tmp_path / "run"), "test", stream=stream)


def test_features_are_scaled_as_the_runs(runs: dict[str, Path], parts: list[Path]) -> None:
    rows = continued(runs["tgn"], parts[1]).stream.edge_rows()
    first, new = (pd.read_csv(part)["amount"].to_numpy() for part in parts[:2])
    expected = (np.concatenate([first, new]) - first[:210].mean()) / first[:210].std()
    assert rows is not None
    torch.testing.assert_close(rows[:, 0].double(), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_nodes_keep_their_features_and_new_ones_have_none(parts: list[Path], tmp_path: Path) -> None:
    nodes = pd.DataFrame({"user": sorted(set(pd.read_csv(parts[0])["user"]))}).assign(age=range(20))
    nodes.to_csv(tmp_path / "users.csv", index=False)
    data = DataConfig(str(parts[0]), raw_features=True, node_features=str(tmp_path / "users.csv"))
    train(RunConfig(data, ModelConfig(dim=8), TrainConfig(**TRAIN)), out=str(tmp_path / "run"))
    stream: Any = continued(tmp_path / "run", parts[1]).stream
    ages = {("user", user): float(age) for user, age in nodes.itertuples(index=False)}
    values = dict(zip(stream.ids.of(range(stream.num_nodes)), stream.node_features[:, 0].tolist(), strict=True))
    assert values == {node: ages.get(node, 0.0) for node in values}
    assert ("user", "n096") in values


def test_a_predictor_of_a_continued_run_knows_history(runs: dict[str, Path], parts: list[Path], tmp_path: Path) -> None:
    second = tmp_path / "second"
    result = train(continuation(runs["tgn"], parts[1]), out=str(second))
    expected = rows_by_id(runs["tgn"])
    predictor = load(second, at=int(pd.read_csv(parts[1])["time"][0]))
    live: Any = predictor._live
    for node, id in enumerate(predictor._ids.of(range(live.nodes))):
        memory = live.session.state.tables["memory"][node]
        assert torch.equal(memory, expected[id]["memory"]) if id in expected else not memory.any()
    assert "300 of the run that was continued, then 140 for training" in " ".join(
        (second / "README.md").read_text().split()
    )
    loaded: Any = load(second)
    assert len(loaded._live.session.stream) == result["events"] == 500
    test = pd.read_csv(parts[1])[170:]
    trained = load(second, at=int(test["time"].iloc[0]))
    features = pd.DataFrame({"amount": test["amount"], "sort": test["sort"]})
    scores = trained.predict(list(test["user"]), list(test["item"]), list(test["time"]), features)
    assert np.isfinite(scores).all()


def test_settings_of_no_name_are_refused(tmp_path: Path) -> None:
    for name, fix in (("epoch", "do you mean epochs?"), ("xyzzy", "omit it")):
        with pytest.raises(ConfigError, match=f"there is no setting '{name}'; {fix}".replace("?", r"\?")):
            continuation(tmp_path, tmp_path / "later.csv", **{name: 1})
