"""Training on edge features that are scaled as they are fetched: the same bits as on a table scaled in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.feature_files import load_edge_features
from mspipe_triton.data.head import first_events
from mspipe_triton.data.scaling import Scaling
from mspipe_triton.data.source import fingerprint
from mspipe_triton.errors import DataError
from mspipe_triton.iteration.session import Session
from mspipe_triton.placement import LazyTable, Placement
from mspipe_triton.training.trainer import train
from mspipe_triton.training.way import carry_out

SIZE = 100


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture
def streams(small_stream: EventStream, tmp_path: Path) -> tuple[EventStream, EventStream]:
    """A stream on a mapped file with a normal column, one with a long tail and one of large numbers; and on a table
    scaled in memory."""
    random, count = np.random.default_rng(0), len(small_stream)
    columns = random.normal(0, 1, count), random.lognormal(0, 3, count), 1.6e9 + np.arange(count)
    np.save(tmp_path / "edges.npy", np.stack(columns, 1))
    loaded = load_edge_features(tmp_path / "edges.npy", count, small_stream.split().train_end)
    assert loaded.scaling is not None
    assert loaded.scaling.log.tolist() == [False, True, False]
    table = loaded.scaling.apply(loaded.table)
    mapped = replace(small_stream, edge_features=loaded.table, edge_scaling=loaded.scaling)
    return mapped, replace(small_stream, edge_features=table)


def config(model: dict[str, Any], **settings: Any) -> RunConfig:
    settings = {"batch_size": SIZE, "threads": 1, "deterministic": True, "epochs": 1, "negatives": 3, **settings}
    return RunConfig(model=ModelConfig(dim=8, **model), train=TrainConfig(**settings))


@pytest.mark.sample(2)
@pytest.mark.parametrize("schedule", ["serial", "exact"])
@pytest.mark.parametrize(
    "model",
    [
        {"model": "tgn", "layers": 2, "fanout": 3},
        {"model": "tgn", "fanout": 4, "aggregator": "mean"},
        {"model": "tgn", "fanout": 4, "precision": "bf16"},
        {"model": "apan", "slots": 3},
        {"model": "apan", "slots": 3, "aggregator": "mean"},
        {"model": "jodie"},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_losses_and_scores_are_those_of_a_scaled_table(
    schedule: str, model: dict[str, Any], streams: tuple[EventStream, EventStream], tmp_path: Path
) -> None:
    results = [
        train(config(model, schedule=schedule), stream, out=str(tmp_path / name))
        for name, stream in zip(("mapped", "memory"), streams, strict=True)
    ]
    assert results[0]["losses"] == results[1]["losses"]
    assert results[0]["val"] == results[1]["val"]
    assert results[0]["test"] == results[1]["test"]


def test_stale_memory_is_blended_alike(streams: tuple[EventStream, EventStream], tmp_path: Path) -> None:
    settings = config({"fanout": 4}, schedule="fixed", staleness=1, mitigation="similarity")
    results = [train(settings, stream, out=str(tmp_path / str(k))) for k, stream in enumerate(streams)]
    assert results[0]["losses"] == results[1]["losses"]


def losses(stream: EventStream, **settings: Any) -> tuple[Session, torch.Tensor]:
    session = Session.create(config({"fanout": 4}, **settings), stream)
    return session, carry_out(session).train_epoch(1).losses


def test_a_resident_run_reads_a_scaled_table(streams: tuple[EventStream, EventStream]) -> None:
    (session, first), (_, second) = (losses(stream, placement="device") for stream in streams)
    assert session.settings.resident
    assert torch.equal(session.edge_table, streams[1].edge_features)  # type: ignore[arg-type]
    assert torch.equal(first, second)


def test_only_fetched_rows_are_scaled(
    streams: tuple[EventStream, EventStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    apply = Scaling.apply

    def counted(self: Scaling, x: torch.Tensor) -> torch.Tensor:
        rows.append(x.shape[0])
        return apply(self, x)

    monkeypatch.setattr(Scaling, "apply", counted)
    session, _ = losses(streams[0], schedule="serial")
    assert isinstance(session.edges, LazyTable)
    assert session.edges.stored.data_ptr() == streams[0].edge_features.data_ptr()  # type: ignore[union-attr]
    # Per batch: the slots of three roots per event, the events, and the mails of all roots and slots at most.
    most = (3 * SIZE * 4, SIZE, 3 * SIZE * 5)
    assert max(rows) <= max(most)
    assert len(rows) == 3 * -(-session.split.train_end // SIZE)


def test_kernels_of_another_device_read_a_scaled_table(
    streams: tuple[EventStream, EventStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda table: table)
    session = Session.create(config({"fanout": 4}), streams[0])
    apart = replace(session, state=replace(session.state, placement=Placement(torch.device("meta"))))
    for change in ({"features": "device"}, {"gather": "kernel"}):
        direct = apart.under(replace(session.settings, **change))
        assert direct.edge_table.is_meta == ("features" in change)
        assert direct.edge_table.dtype == torch.float32
        assert direct.edge_table.is_meta or torch.equal(direct.edge_table, streams[1].edge_features)  # type: ignore[arg-type]
        assert isinstance(direct.under(session.settings).edges, LazyTable)
    assert isinstance(apart.edges, LazyTable)


def test_everything_else_sees_scaled_rows(streams: tuple[EventStream, EventStream], tmp_path: Path) -> None:
    mapped, memory = streams
    assert torch.equal(mapped.edge_rows(), memory.edge_features)  # type: ignore[arg-type]
    assert torch.equal(mapped.edge_rows(5, 9), memory.edge_features[5:9])  # type: ignore[arg-type,index]
    head = first_events(mapped, 20)
    assert head.edge_scaling is None
    assert torch.equal(head.edge_features, memory.edge_features[:20])  # type: ignore[arg-type,index]


def test_a_change_of_the_file_or_the_scaling_changes_the_digest(streams: tuple[EventStream, EventStream]) -> None:
    stream = streams[0]
    assert stream.edge_features is not None
    assert stream.edge_scaling is not None
    before = fingerprint(stream)
    assert fingerprint(replace(stream)) == before
    assert fingerprint(replace(stream, edge_scaling=Scaling.identity(3))) != before
    stream.edge_features[700, 1] += 1
    assert fingerprint(stream) != before


def test_a_scaling_needs_as_many_columns(streams: tuple[EventStream, EventStream]) -> None:
    with pytest.raises(DataError, match=r"edge_features has shape \[1200, 3\]; edge_scaling needs 2 columns"):
        replace(streams[0], edge_scaling=Scaling.identity(2))
    with pytest.raises(DataError, match="edge_features has shape None"):
        replace(streams[0], edge_features=None)
