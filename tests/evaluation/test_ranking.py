"""Candidates are ranked a few columns at a time: however they are cut, the scores are the same."""

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


def ranked(stream: EventStream, model: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(scene, "_RANKED_ROOTS", columns * BATCH)
    run = session(stream, BATCH, {"model": model, "dim": 8, "dtype": "float64"})
    items = batches(0, 3 * BATCH, BATCH, run.negatives, Purpose.EVAL_NEGATIVES, 0, CANDIDATES)
    return torch.cat([done.outcome.ranked for done in in_turn(Stages(run).scoring(), items)])


@pytest.mark.parametrize("model", ["tgn", "jodie", "apan", "tgat"])
def test_a_last_column_alone_scores_like_all_at_once(
    small_stream: EventStream, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ranked(small_stream, model, CANDIDATES, monkeypatch)
    assert whole.shape == (3 * BATCH, CANDIDATES)
    for columns in (1, 2, 3):
        torch.testing.assert_close(ranked(small_stream, model, columns, monkeypatch), whole, rtol=0, atol=1e-12)
