"""Ranking a few columns of candidates at a time: the scores do not depend on the number of columns."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration import scene
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.staged import Stages, in_turn
from tests.training.schedule_run import session

BATCH, CANDIDATES = 40, 7


def rank(stream: EventStream, model: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(scene, "_RANKED_ROOTS", columns * BATCH)
    run = session(stream, BATCH, {"model": model, "dim": 8, "dtype": "float64"})
    items = batches(0, 3 * BATCH, BATCH, run.negatives, Purpose.EVAL_NEGATIVES, 0, CANDIDATES)
    return torch.cat([work.outcome.ranked for work in in_turn(Stages(run).scoring(), items)])


@pytest.mark.parametrize("model", ["tgn", "jodie", "apan", "tgat"])
def test_columns_one_by_one_score_like_all_at_once(
    small_stream: EventStream, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rank(small_stream, model, CANDIDATES, monkeypatch)
    assert whole.shape == (3 * BATCH, CANDIDATES)
    for columns in (1, 2, 3):
        torch.testing.assert_close(rank(small_stream, model, columns, monkeypatch), whole, rtol=0, atol=1e-12)
