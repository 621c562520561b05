"""EdgeBank and the split know only what is strictly earlier in time, whatever the batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.data.readers import read_stream
from mspipe_triton.evaluation.baselines import Baselines
from mspipe_triton.evaluation.evaluate import fit_baselines, predict_split
from mspipe_triton.evaluation.metrics import summarise
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.way import carry_out
from tests.evaluation import plain_evaluation as plain


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> EventStream:
    """20 snapshots of 200 random pairs, all twice: nothing earlier tells anything of an event."""
    random, lines = np.random.default_rng(0), ["src,dst,t"]
    for snapshot in range(20):
        src, dst = random.integers(0, 100, 200), 100 + random.integers(0, 100, 200)
        lines += [f"{s},{d},{86400 * snapshot}" for _ in range(2) for s, d in zip(src, dst, strict=True)]
    path: Path = tmp_path_factory.mktemp("snapshots") / "snapshots.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_stream(path, one_kind=True)


@pytest.mark.slow
def test_same_time_tells_nothing_at_any_batch_size(snapshots: EventStream) -> None:
    stream = snapshots
    pairs, t = list(zip(stream.src.tolist(), stream.dst.tolist(), strict=True)), stream.t.tolist()
    split = stream.split()
    assert split == plain.split(t) == (5600, 6800)
    assert t[split.train_end - 1] < t[split.train_end]
    first = {pair: time for pair, time in reversed(list(zip(pairs, t, strict=True)))}
    draw = np.random.default_rng(1)
    test = range(split.val_end, len(stream))
    other = [(pairs[event][0], 100 + int(draw.integers(0, 100))) for event in test]
    oracle = [[float(first.get(pair, 1e18) < t[e]) for pair, e in zip(side, test, strict=True)] for side in (
        pairs[split.val_end :], other)]  # fmt: skip
    expected = plain.auc(*oracle)
    assert round(expected, 3) == 0.494
    baselines = Baselines.fit(stream, PairIndex.build(stream.src, stream.dst, stream.t), split, 0)
    measured = []
    for size in (100, 400, 800):
        scores: list[list[float]] = [[], []]
        for start in range(split.val_end, len(stream), size):
            batch = slice(start, start + size)
            negatives = torch.tensor([dst for _, dst in other])[start - split.val_end : start - split.val_end + size]
            both = torch.stack([stream.dst[batch], negatives], 1)
            batch_scores = baselines.scores(stream.src[batch], both, stream.t[batch])["edgebank"]
            for side, column in zip(scores, batch_scores.unbind(1), strict=True):
                side += column.tolist()
        assert scores == oracle
        config = RunConfig(
            model=ModelConfig(dim=4, fanout=1, heads=1), train=TrainConfig(batch_size=size, negatives=1, threads=1)
        )
        way = carry_out(Session.create(config.with_flags({"device": "cpu", "schedule": "serial"}), stream))
        predictions = predict_split(way, "test", 1, fit_baselines(way.session))[1]["edgebank"]
        assert predictions.positive.tolist() == oracle[0]
        measured.append(summarise(predictions)["auc"])
    # Each batch size draws other negatives, all destinations alike; only the share of known ones among them varies.
    shares = [np.mean([first.get((pairs[e][0], dst), 1e18) < t[e] for dst in range(100, 200)]) for e in test]
    mean, error = float(np.mean(shares)), sum(share * (1 - share) for share in shares) ** 0.5 / len(shares)
    for auc in measured:
        assert abs(auc - (0.5 + (np.mean(oracle[0]) - mean) / 2)) < 4 * error / 2
