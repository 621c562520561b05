"""Candidates to rank among: all destinations, or a table with gaps, from scores of every destination by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import ConfigError
from mspipe_triton.evaluation.evaluate import evaluate_run, predict_split
from mspipe_triton.evaluation.metrics import Predictions
from mspipe_triton.iteration.scene import ALL, Candidates, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.training.trainer import train
from mspipe_triton.training.way import carry_out
from tests.models.beside_oracle import irregular
from tests.training.schedule_run import session
from tests.training.test_resident import agree, config

BATCH, EVENTS = 40, 100  # the last batch is partial
MODELS = ("tgn", "jodie", "apan", "tgat")


def rank(run: Session, candidates: Candidates) -> tuple[torch.Tensor, ...]:
    """Return scores of the first events [M], those of their candidates [M, N], and reciprocal ranks [M]."""
    run.state.reset()
    items = batches(0, EVENTS, BATCH, run.negatives, Purpose.EVAL_NEGATIVES, 0, candidates)
    parts = [work.outcome for work in in_turn(Stages(run).scoring(), items)]
    columns = zip(*((part.logits[0], part.ranked, part.ranks) for part in parts), strict=True)
    return tuple(torch.cat(column) for column in columns)


def reciprocal_rank(score: float, others: list[float]) -> float:
    """Return 1 / rank of a score, where equal scores share their mean rank."""
    return 1 / (1 + sum(other > score for other in others) + sum(other == score for other in others) / 2)


@pytest.mark.parametrize("model", MODELS)
def test_ranks_are_those_of_every_destination_scored_by_itself(small_stream: EventStream, model: str) -> None:
    run = session(small_stream, BATCH, {"model": model, "dim": 8, "dtype": "float64"})
    destinations = torch.unique(small_stream.dst).tolist()
    scores: dict[int, list[float]] = {}
    for node in destinations:
        positive, column, _ = rank(run, torch.full((EVENTS, 1), node))
        scores[node] = column[:, 0].tolist()
    of_own = positive.tolist()

    def expected(rows: list[list[int]]) -> list[float]:
        each = zip(of_own, rows, strict=True)
        return [reciprocal_rank(score, [scores[node][e] for node in row]) for e, (score, row) in enumerate(each)]

    every = rank(run, ALL)
    assert every[1].shape == (EVENTS, len(destinations) - 1)
    others = [[node for node in destinations if node != dst] for dst in small_stream.dst[:EVENTS].tolist()]
    assert every[2].tolist() == expected(others)
    draw = torch.Generator().manual_seed(0)
    table = torch.tensor(destinations)[torch.randint(len(destinations), (EVENTS, 9), generator=draw)]
    table[torch.rand(table.shape, generator=draw) < 0.3] = -1
    table[:3], table[3, 1:] = -1, -1
    gaps = rank(run, table)
    assert gaps[2].tolist() == expected([[node for node in row if node >= 0] for row in table.tolist()])
    assert gaps[2][:3].tolist() == [1, 1, 1]
    assert every[2].unique().numel() > 10


def ranked_by(placement: str, stream: EventStream, model: str, lagged: bool, table: bool) -> list[Predictions]:
    """Return predictions of both splits after an epoch of training."""
    options = {"fanout": 3} if model in ("tgn", "tgat") else {}
    way, parts = carry_out(Session.create(config(placement, model=model, **options), stream)), []
    way.train_epoch(1)
    destinations, draw = torch.unique(stream.dst), torch.Generator().manual_seed(0)
    for split, (first, stop, _) in way.spans().items():
        candidates: Candidates = ALL
        if table:
            candidates = destinations[torch.randint(len(destinations), (stop - first, 6), generator=draw)]
            candidates[torch.rand(candidates.shape, generator=draw) < 0.3] = -1
        parts.append(predict_split(way, split, candidates, lagged=lagged)[0])
    return parts


@pytest.mark.parametrize("lagged", [False, True], ids=["", "lagged"])
@pytest.mark.parametrize("table", [False, True], ids=["all", "table"])
@pytest.mark.parametrize("model", MODELS)
def test_resident_runs_rank_as_stages_do(model: str, table: bool, lagged: bool) -> None:
    stream = irregular(synthetic_stream(SyntheticConfig(events=300, users=25, items=12, edge_features=3, seed=1)))
    ours, expected = (ranked_by(placement, stream, model, lagged, table) for placement in ("device", "host"))
    for one, other in zip(ours, expected, strict=True):
        assert one.reciprocal_ranks is not None
        assert other.reciprocal_ranks is not None
        assert one.batch_sizes == other.batch_sizes
        for name in ("positive", "negative", "reciprocal_ranks"):
            agree(getattr(one, name), getattr(other, name), name)
        assert one.reciprocal_ranks.unique().numel() > 3


@pytest.fixture
def run(small_stream: EventStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    """The folder of a small run, and its result."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    write_stream(small_stream, tmp_path / "events.csv")
    settings = RunConfig(
        data=DataConfig(path=str(tmp_path / "events.csv")), model=ModelConfig(dim=8, fanout=3),
        train=TrainConfig(batch_size=100, epochs=1, negatives=5, threads=1, deterministic=True),
    )  # fmt: skip
    return str(tmp_path / "run"), train(settings, out=str(tmp_path / "run"))


def test_a_run_is_ranked_among_all_destinations(run: tuple[str, dict[str, Any]], small_stream: EventStream) -> None:
    folder, result = run
    number = torch.unique(small_stream.dst).numel() - 1
    for split in ("val", "test"):
        metrics = evaluate_run(folder, split, candidates="all")
        assert metrics["candidates"] == number
        assert evaluate_run(folder, split, candidates="random") == result[split]
        for name in ("ap", "auc"):
            assert metrics[name] == result[split][name]
        assert 1 / (1 + number) < metrics["mrr"] < result[split]["mrr"]
    assert metrics["edgebank"]["mrr"] < result["test"]["edgebank"]["mrr"]
    # EdgeBank's score is 1 for pairs that have met, so ranks among all destinations follow from the events alone.
    src, dst, t = small_stream.src, small_stream.dst, small_stream.t
    ranks, events = list[float](), list(zip(src.tolist(), dst.tolist(), t.tolist(), strict=True))
    for source, end, time in events[small_stream.split().val_end :]:
        met = {node for other, node, moment in events if other == source and moment < time}
        others = [float(node in met) for node in dst.unique().tolist() if node != end]
        ranks.append(reciprocal_rank(float(end in met), others))
    assert metrics["edgebank"]["mrr"] == pytest.approx(sum(ranks) / len(ranks))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": "some"}, "candidates must be random or all, not 'some'"),
        ({"candidates": "all", "negatives": 9}, "negatives 9 is a number of random candidates; omit it with"),
    ],
)
def test_wrong_candidates_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        evaluate_run("nowhere", "test", **options)
