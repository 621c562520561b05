"""Node labels: those of the built-in stream, a decoder on frozen embeddings, and labels that cannot be learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.labels import check_labels
from mspipe_triton.data.origin import Origin, Source
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import DataError, RunFolderError
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.evaluation.node_task import NodeDecoder, evaluate_labels, label_metrics, train_decoder
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.trainer import train
from mspipe_triton.training.way import carry_out

USERS, ITEMS, TASTES = 60, 30, 10


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture(scope="module")
def stream() -> EventStream:
    return synthetic_stream(SyntheticConfig(events=3000, users=USERS, items=ITEMS, seed=1))


def config(model: str = "jodie", **options: Any) -> RunConfig:
    settings = {"task": "node", "epochs": 1, "batch_size": 50, "negatives": 1, "threads": 1, "schedule": "serial"}
    return RunConfig(
        model=ModelConfig(model=model, dim=16), train=TrainConfig(**{**settings, "deterministic": True, **options})
    )


def test_built_in_labels_are_changes_of_taste(stream: EventStream) -> None:
    assert stream.labels is not None
    tastes: dict[int, int] = {}
    expected = []
    for user, item in zip(stream.src.tolist(), stream.dst.tolist(), strict=True):
        taste = (item - USERS) // (ITEMS // TASTES)
        expected.append(int(tastes.get(user, taste) != taste))
        tastes[user] = taste
    assert stream.labels.tolist() == expected
    assert 0 < sum(expected) < len(expected) / 20


@pytest.mark.parametrize("model", ["tgn", "jodie", pytest.param("tgat", marks=pytest.mark.slow)])
def test_labels_are_learned(stream: EventStream, model: str, tmp_path: Path) -> None:
    result = train(config(model), stream, out=str(tmp_path / "run"))
    split = stream.split()
    for part, start, stop in (("val", split.train_end, split.val_end), ("test", split.val_end, len(stream))):
        metrics = result[part]["node"]
        assert set(metrics) == {"auc", "ap", "events", "positives"}
        assert (metrics["events"], metrics["positives"]) == (stop - start, int(stream.labels[start:stop].sum()))
        assert metrics["auc"] > 0.7
        assert metrics["ap"] > 2 * metrics["positives"] / metrics["events"]
    assert result["task"] == "node"
    assert (tmp_path / "run" / "decoder.pt").exists()


def test_the_link_task_reports_no_label_metrics(stream: EventStream, tmp_path: Path) -> None:
    result = train(config(task="link"), stream, out=str(tmp_path / "run"))
    assert "node" not in result["test"]
    assert not (tmp_path / "run" / "decoder.pt").exists()


@pytest.mark.slow
def test_evaluation_repeats_the_same_numbers(stream: EventStream, tmp_path: Path) -> None:
    write_stream(stream, tmp_path / "events.csv")
    settings = replace(config(), data=DataConfig(path=str(tmp_path / "events.csv")))
    run = tmp_path / "run"
    result = train(settings, out=str(run))
    for split in ("val", "test"):
        assert evaluate_run(str(run), split) == result[split]
    (run / "decoder.pt").unlink()
    assert evaluate_run(str(run), "test") == result["test"], "a missing decoder is trained again"
    (run / "decoder.pt").write_bytes(b"half a file")
    with pytest.raises(RunFolderError, match=r"decoder.pt: damaged or truncated") as caught:
        evaluate_run(str(run), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_resumed_run_trains_the_decoder_on_its_best_epoch(stream: EventStream, tmp_path: Path) -> None:
    whole = train(config(epochs=2), stream, out=str(tmp_path / "whole"))
    first = train(config(), stream, out=str(tmp_path / "parts"))
    resumed = train(config(epochs=2), stream, out=str(tmp_path / "parts"), resume=True)
    assert whole["best_epoch"] == 2
    assert first["test"]["node"] != whole["test"]["node"]
    assert (resumed["val"], resumed["test"]) == (whole["val"], whole["test"])


def test_only_the_decoder_is_trained(stream: EventStream, tmp_path: Path) -> None:
    run = Session.create(config("tgn"), stream)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    metrics = evaluate_labels(carry_out(run), tmp_path / "decoder.pt", ("test",))
    assert metrics.keys() == {"test"}
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert run.optimizer.state_dict()["state"] == {}
    decoder = torch.load(tmp_path / "decoder.pt", weights_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(run.config.train.seed)
        fresh = NodeDecoder(16, torch.float32).state_dict()
    assert decoder.keys() == fresh.keys()
    assert not torch.equal(decoder["hidden.weight"], fresh["hidden.weight"])


def test_embeddings_are_of_sources_before_their_events(stream: EventStream) -> None:
    seen = 120
    dst = torch.cat([stream.dst[: seen - 1], stream.dst[seen - 1 :].flip(0)])  # changed from a batch's last event on
    changed = replace(stream, dst=dst)
    ours, others = (carry_out(Session.create(config("tgn", batch_size=60), s)).embed(200) for s in (stream, changed))
    assert ours.shape == (200, 16)
    assert torch.equal(ours[:seen], others[:seen])
    assert not torch.equal(ours[seen:], others[seen:])
    again = carry_out(Session.create(config("tgn", batch_size=60), stream))
    again.embed(100)
    assert torch.equal(again.embed(200), ours), "embed starts at the stream's start"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "no label column for --task node; name it with --columns label=NAME"),
        ({7: 2}, "event 7: label is 2, neither 0 nor 1; use these, and leave an event without a label empty"),
        ({2000: 0}, "0 of 2100 labelled training events have label 1; a decoder needs both, so label more"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(
    stream: EventStream, labels: dict[int, int] | None, message: str, tmp_path: Path
) -> None:
    column = None
    if labels is not None:
        column = torch.zeros(len(stream), dtype=torch.int64)
        column[2500] = 1
        for event, label in labels.items():
            column[event] = label
    with pytest.raises(DataError, match=f"synthetic: {message}") as caught:
        train(config(), replace(stream, labels=column), out=str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_part_with_equal_labels_has_no_metrics(stream: EventStream) -> None:
    zeros = replace(stream, labels=torch.zeros(len(stream), dtype=torch.int64))
    decoder, embedded = NodeDecoder(4, torch.float64), torch.randn(len(stream), 4, dtype=torch.float64)
    assert label_metrics(decoder, embedded, zeros, 10, 30) == {"auc": None, "ap": None, "events": 20, "positives": 0}
    labels = zeros.labels.clone()
    labels[12] = 1
    embedded[:] = 0.0
    metrics = label_metrics(decoder, embedded, replace(zeros, labels=labels), 10, 30)
    assert metrics == {"auc": 0.5, "ap": pytest.approx(1 / 20), "events": 20, "positives": 1}


NAN = float("nan")


def partly_labelled(stream: EventStream, share: float = 0.5) -> EventStream:
    """The stream as float labels, of which a random share is NaN."""
    assert stream.labels is not None
    labels = stream.labels.double()
    labels[torch.rand(len(stream), generator=torch.Generator().manual_seed(0)) < share] = NAN
    return replace(stream, labels=labels)


def test_unlabelled_events_do_not_count(stream: EventStream, tmp_path: Path) -> None:
    partly, split = partly_labelled(stream), stream.split()
    result = train(config(), partly, out=str(tmp_path / "run"))
    for part, start, stop in (("val", split.train_end, split.val_end), ("test", split.val_end, len(stream))):
        labels = partly.labels[start:stop]
        metrics = result[part]["node"]
        assert metrics["events"] == int((labels == labels).sum()) < stop - start
        assert metrics["positives"] == int((labels == 1).sum())
        assert metrics["auc"] > 0.6


def test_labels_of_unlabelled_events_are_not_learned(stream: EventStream) -> None:
    """Embeddings of unlabelled events change nothing about the decoder."""
    partly = partly_labelled(stream)
    session = Session.create(config(), partly)
    embedded = torch.randn(len(stream), 16, generator=torch.Generator().manual_seed(1))
    expected = train_decoder(session, embedded).state_dict()
    assert all(torch.isfinite(value).all() for value in expected.values())
    noisy = torch.where(partly.labelled.unsqueeze(1), embedded, torch.full_like(embedded, 1e6))
    again = train_decoder(session, noisy).state_dict()
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_the_decoder_of_a_stream_whose_events_are_all_labelled_is_as_before(stream: EventStream) -> None:
    assert stream.labels is not None
    embedded = torch.randn(len(stream), 16, generator=torch.Generator().manual_seed(1))
    kinds = (stream.labels, stream.labels.double(), stream.labels.bool())
    decoders = [train_decoder(Session.create(config(), replace(stream, labels=each)), embedded) for each in kinds]
    weights = [decoder.hidden.weight for decoder in decoders]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_validation_without_labels_uses_the_last_epoch(stream: EventStream, tmp_path: Path) -> None:
    assert stream.labels is not None
    labels, split = stream.labels.double(), stream.split()
    labels[split.train_end : split.val_end] = NAN
    result = train(config(), replace(stream, labels=labels), out=str(tmp_path / "run"))
    assert result["val"]["node"] == {"auc": None, "ap": None, "events": 0, "positives": 0}
    assert result["test"]["node"]["auc"] > 0.6


def test_a_wrong_label_of_a_file_has_its_row_and_column(stream: EventStream) -> None:
    order = torch.arange(len(stream)).flip(0).numpy()
    roles = {"who": "src", "what": "dst", "churned": "label"}
    source = Source(Origin((("a.csv", 1000), ("b.csv", 2000))), order, roles=roles)
    labels = torch.zeros(len(stream), dtype=torch.float64)
    labels[:2], labels[2], labels[3] = 1, NAN, 0.5
    with pytest.raises(DataError, match=r"^b.csv: row 1997: churned is 0.5, neither 0 nor 1; use these"):
        check_labels(replace(stream, labels=labels, source=source))
    labels[3] = 2
    with pytest.raises(DataError, match=r"^b.csv: row 1997: churned is 2, neither 0 nor 1; use these"):
        check_labels(replace(stream, labels=labels, source=source))
    labels[3] = float("inf")
    with pytest.raises(DataError, match=r"^b.csv: row 1997: churned is inf, neither 0 nor 1"):
        check_labels(replace(stream, labels=labels, source=source))
    labels[3] = NAN
    check_labels(replace(stream, labels=labels, source=source))


def test_labels_that_cannot_be_read_stop_only_what_needs_them(stream: EventStream, tmp_path: Path) -> None:
    fault = "a.csv: row 3: churned is 'maybe', not a number; use 0, 1 or nothing"
    unread = replace(stream, labels=None, source=Source(Origin((("a.csv", 3000),)), label_fault=fault))
    with pytest.raises(DataError, match=f"^{fault}$"):
        train(config(), unread, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert "node" not in train(config(task="link"), unread, out=str(tmp_path / "run"))["test"]
    with pytest.raises(DataError, match="0 of 0 labelled training events"):
        check_labels(replace(stream, labels=torch.full((len(stream),), NAN)))


def test_a_run_that_learns_labels_is_evaluated_with_the_same_ones(stream: EventStream, tmp_path: Path) -> None:
    """A run on links alone is evaluated without them, or with others."""
    for task in ("link", "node"):
        train(config(task=task), stream, out=str(tmp_path / task))
    for labels, error, message in (
        (None, DataError, "no label column for --task node"),
        (1 - stream.labels, RunFolderError, "as many, but with other labels; pass the stream"),
    ):
        other = replace(stream, labels=labels)
        assert evaluate_run(str(tmp_path / "link"), "test", stream=other)["ap"] > 0.5
        with pytest.raises(error, match=message):
            evaluate_run(str(tmp_path / "node"), "test", stream=other)
