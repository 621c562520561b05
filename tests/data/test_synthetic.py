"""The generator: sizes, seeds, order, and a stream that a memoriser cannot solve."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.describe import describe
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.errors import ConfigError
from mspipe_triton.training.trainer import train


@pytest.mark.parametrize("events", [1, 7, 999, 20_000])
def test_exact_number_of_events(events: int) -> None:
    stream = synthetic_stream(SyntheticConfig(events=events, users=50, items=20, edge_features=3))
    assert (len(stream), stream.num_nodes, stream.dim_edge) == (events, 70, 3)
    assert int(stream.src.max()) < 50 <= int(stream.dst.min())


def test_the_seed_determines_the_stream() -> None:
    first, again, other = (synthetic_stream(SyntheticConfig(events=500, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first.dst, again.dst)
    assert not torch.equal(first.dst, other.dst)


def test_description() -> None:
    facts = describe(synthetic_stream())
    assert facts["bipartite"]
    assert 0.2 < facts["repeat_ratio"] < 0.8
    assert 0 < facts["tie_share"] < 0.2
    assert facts["train_events"] + facts["val_events"] + facts["test_events"] == facts["events"] == 60_000


def test_bad_sizes() -> None:
    with pytest.raises(ConfigError, match="items must be at least 10, not 3"):
        SyntheticConfig(items=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tgn_beats_memorising_by_five_points(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # compilation takes longer than three epochs
    stream = synthetic_stream(SyntheticConfig(events=15_000, users=400, items=200, seed=seed))
    config = RunConfig(
        model=ModelConfig(dim=32, fanout=5), train=TrainConfig(epochs=3, batch_size=200, lr=3e-3, negatives=1)
    )
    test = train(config, stream, out=str(tmp_path / "run"))["test"]
    assert test["ap"] >= test["edgebank"]["ap"] + 0.05
