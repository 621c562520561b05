"""Every model trained on several negatives, by either loss, with and without pair features, against its oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages
from tests.models import test_apan, test_jodie, test_tgn
from tests.models.beside_oracle import compare, irregular, session
from tests.models.plain_model import PlainModel

ORACLES: dict[str, Callable[[Session], PlainModel]] = {
    "tgn": test_tgn.oracle, "jodie": test_jodie.oracle, "apan": test_apan.oracle, "tgat": test_tgn.oracle,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "tgn": {"dim": 4, "fanout": 3}, "jodie": {"dim": 6}, "apan": {"dim": 4, "fanout": 3, "slots": 3, "heads": 2},
    "tgat": {"dim": 4, "fanout": 2, "layers": 1},
}  # fmt: skip


@pytest.mark.sample(3)
@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("kind", ["random", "historical", "mixed"])
@pytest.mark.parametrize("model", ORACLES)
def test_losses_and_gradients(small_stream: EventStream, model: str, kind: str, loss: str) -> None:
    train = {"loss": loss, "train_negatives": 3, "negative_kind": kind}
    run = session(irregular(small_stream), 10, train, model=model, pair_features=kind != "random", **SIZES[model])
    compare(run, ORACLES[model](run), 12)


@pytest.mark.parametrize("kind", ["random", "historical", "mixed"])
def test_kinds_of_negatives(small_stream: EventStream, kind: str) -> None:
    """Of mixed negatives, the last half is historical: met before, unless there is none or it is met now."""
    run = session(irregular(small_stream), 10, {"train_negatives": 4, "negative_kind": kind}, model="jodie", dim=2)
    historical = {"random": 0, "historical": 4, "mixed": 2}[kind]
    assert run.config.train.historical == historical
    assert (run.meetings is None) == (kind == "random")
    events = list(zip(run.stream.src.tolist(), run.stream.dst.tolist(), run.stream.t.tolist(), strict=True))
    replaced = 0
    for batch in batches(0, 200, 10, run.negatives, Purpose.TRAIN_NEGATIVES, 1, each=4):
        rows = Stages(run).sample_training(batch).batch.negatives.tolist()
        for number, row, random in zip(range(batch.start, batch.stop), rows, batch.negatives.tolist(), strict=True):
            src, dst, t = events[number]
            met = {node for source, node, time in events if source == src and time < t} - {dst}
            now = {node for source, node, time in events if source == src and time == t}
            assert dst not in row
            assert row[: 4 - historical] == random[: 4 - historical]
            for node, plain in zip(row[4 - historical :], random[4 - historical :], strict=True):
                assert node in met - now or (node == plain and (not met or met & now))
                replaced += node != plain
    assert (replaced > 100) == (kind != "random")


def test_a_predictor_starts_as_the_linear_function_of_the_features(small_stream: EventStream) -> None:
    run = session(small_stream, 10, dim=6, fanout=3)
    predictor = run.model.predictor
    assert predictor.pair is not None
    weights, pairs = predictor.pair.weight[0].detach(), torch.randn(5, 1, 36, dtype=torch.float64)
    with torch.no_grad():
        predictor.out.weight[:, 2:] = 0
        predictor.out.bias.fill_(-1)
        ends = torch.randn(5, 6, dtype=torch.float64)
        scores = predictor(ends, ends, torch.arange(5).view(5, 1), pairs)
    torch.testing.assert_close(scores.squeeze(1), pairs.squeeze(1) @ weights, rtol=1e-12, atol=1e-12)
    assert weights.abs().max() > 0.1
