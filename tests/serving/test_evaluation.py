"""Predictors against evaluation: the same events in the same batches give the same scores, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton import load
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import RunFolderError
from mspipe_triton.evaluation.evaluate import evaluate_run, predict_split
from mspipe_triton.evaluation.metrics import Predictions, summarise
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.checkpoint import load_checkpoint
from mspipe_triton.training.run_data import run_config
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.way import carry_out
from tests.serving.served import NEGATIVES, SIZE, candidates, columns, trained, with_ties


def evaluated(run: Path, stream: EventStream, lagged: bool = False) -> dict[str, Predictions]:
    """Evaluation's scores of both splits."""
    folder = RunFolder(run)
    session = Session.create(run_config(folder), stream)
    load_checkpoint(folder.best, session)
    way = carry_out(session)
    return {split: predict_split(way, split, NEGATIVES, lagged=lagged)[0] for split in ("val", "test")}


def fed(predictor: Any, stream: EventStream, number: int, start: int, stop: int) -> torch.Tensor:
    """Scores [M, 1 + 1 + N] of events [start, stop), of their negatives and candidates, in evaluation's batches."""
    parts = []
    for place, rows in enumerate(candidates(stream, number, start, stop)):
        first = start + place * SIZE
        batch = columns(stream, first, min(first + SIZE, stop))
        parts.append(torch.from_numpy(predictor.predict(**batch, candidates=rows)))
    return torch.cat(parts)


@pytest.fixture(params=[False, True], ids=["distinct times", "ties"])
def stream(request: pytest.FixtureRequest, small_stream: EventStream) -> EventStream:
    """1,200 events, with and without ties."""
    return with_ties(small_stream) if request.param else small_stream


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("tgn", {}), ("tgn", {"layers": 2}), ("tgn", {"precision": "bf16"}), ("jodie", {}), ("apan", {}),
        ("tgat", {"sampler": "uniform"}),
    ],
)  # fmt: skip
def test_feeding_the_splits_gives_evaluation_s_scores_to_the_bit(
    model: str, settings: dict[str, Any], stream: EventStream, tmp_path: Path
) -> None:
    run = trained(tmp_path, stream, model, **settings)
    split, expected = stream.split(), evaluated(run, stream)
    predictor = load(run, stream=stream, at="training")
    spans = {"val": (0, split.train_end, split.val_end), "test": (1, split.val_end, len(stream))}
    for name, (number, start, stop) in spans.items():
        if number == 1:
            predictor = load(run, stream=stream, at=int(stream.t[start]))
        scores = fed(predictor, stream, number, start, stop)
        assert torch.equal(scores[:, 0], expected[name].positive)
        assert torch.equal(scores[:, 1], expected[name].negative)
        ahead = (scores[:, 2:] > scores[:, :1]).sum(1) + 0.5 * (scores[:, 2:] == scores[:, :1]).sum(1)
        ranks = 1 / (1 + ahead.double())
        assert torch.equal(ranks, expected[name].reciprocal_ranks)
        mine = summarise(Predictions(scores[:, 0], scores[:, 1], ranks, expected[name].batch_sizes))
        theirs = evaluate_run(str(run), name, stream=stream)
        assert mine["ap"] == theirs["ap"]
        assert mine["mrr"] == theirs["mrr"]


@pytest.mark.parametrize("model", ["tgn", "jodie", "apan"])
def test_event_by_event_is_evaluation_in_batches_of_one(model: str, small_stream: EventStream, tmp_path: Path) -> None:
    run = trained(tmp_path, small_stream, model, "float64")
    folder, split = RunFolder(run), small_stream.split()
    config = run_config(folder).with_flags({"batch_size": 1})
    session = Session.create(config, small_stream)
    load_checkpoint(folder.best, session)
    expected = predict_split(carry_out(session), "val")[0].positive[:60]
    predictor = load(run, stream=small_stream, at="training")
    scores = []
    for event in range(split.train_end, split.train_end + 60):
        each = {name: values[0] for name, values in columns(small_stream, event, event + 1).items()}
        scores.append(predictor.score(each["src"], each["dst"], each["t"]))
        predictor.observe(**each)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-9, atol=1e-9)


def test_score_before_observe_is_lagged_evaluation(small_stream: EventStream, tmp_path: Path) -> None:
    run = trained(tmp_path, small_stream, "tgn", "float64")
    split = small_stream.split()
    expected = evaluated(run, small_stream, lagged=True)["val"].positive
    predictor, scores = load(run, stream=small_stream, at="training"), []
    for first in range(split.train_end, split.val_end, SIZE):
        batch = columns(small_stream, first, min(first + SIZE, split.val_end))
        scores.append(predictor.score(batch["src"], batch["dst"], batch["t"]))
        predictor.observe(**batch)
    np.testing.assert_allclose(np.concatenate(scores), expected.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", ["tgn", "apan", "tgat"])
def test_observing_and_predicting_lead_to_the_state_after_all_events(
    model: str, small_stream: EventStream, tmp_path: Path
) -> None:
    run = trained(tmp_path, small_stream, model, "float64")
    end, split = load(run, stream=small_stream), small_stream.split()
    pairs = ([1, 2, 3], [70, 75, 80])
    for act in ("observe", "predict"):
        predictor = load(run, stream=small_stream, at="training")
        for start, stop in ((split.train_end, split.val_end), (split.val_end, len(small_stream))):
            getattr(predictor, act)(**columns(small_stream, start, stop))
        assert (len(predictor), predictor.time) == (len(end), end.time)
        np.testing.assert_allclose(predictor.score(*pairs), end.score(*pairs), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(predictor.embed(), end.embed(), rtol=1e-9, atol=1e-9)


def test_a_run_without_its_checkpoint_can_be_used(small_stream: EventStream, tmp_path: Path) -> None:
    run = trained(tmp_path, small_stream, "tgn")
    before = load(run, stream=small_stream).score([1, 2], [70, 75])
    for name in ("checkpoint.pt", "last.pt"):
        (run / name).unlink()
    np.testing.assert_array_equal(load(run, stream=small_stream).score([1, 2], [70, 75]), before)
    with pytest.raises(RunFolderError, match=r"an earlier state needs the checkpoint \(checkpoint.pt is missing\)"):
        load(run, stream=small_stream, at="training")
    with pytest.raises(RunFolderError, match="was trained on 1,200 events"):
        load(run, stream=with_ties(small_stream))


def test_loading_tells_the_events_that_the_state_moves_on_by(small_stream: EventStream, tmp_path: Path) -> None:
    run, split = trained(tmp_path, small_stream, "jodie"), small_stream.split()
    position = int(torch.searchsorted(small_stream.t, small_stream.t[split.val_end + 30]))
    seen: list[tuple[int, int]] = []
    load(run, stream=small_stream, at=int(small_stream.t[position]), progress=lambda *counts: seen.append(counts))
    total = position - split.train_end
    assert {each for _, each in seen} == {total}
    assert sum(events for events, _ in seen) == total
    assert max(events for events, _ in seen) == SIZE
    seen.clear()
    load(run, stream=small_stream, progress=lambda *counts: seen.append(counts))
    assert seen == [], "the state after all events is stored"
