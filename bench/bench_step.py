"""pytest-benchmark cases of the training step and its operations; a check of the result comes before any timing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.kernels import unique_nodes
from mspipe_triton.kernels.fusion import enable_fusion
from mspipe_triton.training.batch import Batch, batches
from mspipe_triton.training.iteration import in_turn
from mspipe_triton.training.session import Session
from mspipe_triton.training.settings import compiler

WARM_BATCHES = 20


@pytest.fixture(params=[(200, 0), (600, 0), (600, 172)], ids=["B200", "B600", "B600-features172"])
def warm(request: pytest.FixtureRequest) -> Iterator[tuple[Session, Batch]]:
    """A session whose memory has seen some batches, and the next batch."""
    size, width = request.param
    enable_fusion(compiler() is not None)
    stream = synthetic_stream(SyntheticConfig(events=40_000, edge_features=width))
    session = Session.create(RunConfig(model=ModelConfig(), train=TrainConfig(batch_size=size)), stream)
    items = list(batches(0, size * (WARM_BATCHES + 1), size, session.negatives, Purpose.TRAIN_NEGATIVES, 1))
    for batch in items[:-1]:
        list(in_turn(session.iteration.training_stages(), [batch]))
    yield session, items[-1]
    enable_fusion(False)


def _record(benchmark: Any, batch: Batch) -> None:
    benchmark.extra_info["events_per_s"] = round((batch.stop - batch.start) / benchmark.stats["median"])
    benchmark.extra_info["threads"] = torch.get_num_threads()


def bench_train_step(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    run = session.iteration
    fetched = run.memory(run.features(run.sample(batch)))
    fused = run.score(fetched)
    enable_fusion(False)
    plain = run.score(fetched)
    enable_fusion(compiler() is not None)
    for ours, expected in ((fused.positive, plain.positive), (fused.negative, plain.negative)):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    benchmark(lambda: run.train(fetched))
    _record(benchmark, batch)


def bench_fetch(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    run = session.iteration
    around = run.sample(batch).around
    assert torch.equal(
        around.nodes[around.root_rows[: batch.stop - batch.start]], session.stream.src[batch.start : batch.stop]
    )
    benchmark(lambda: run.memory(run.features(run.sample(batch))))
    _record(benchmark, batch)


def bench_update(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    run = session.iteration
    done = run.score(run.memory(run.features(run.sample(batch))))
    run.update(done)
    last = session.stream.dst[batch.stop - 1]
    assert session.state.tables["event_id"][last] == batch.stop - 1
    benchmark(lambda: run.update(done))
    _record(benchmark, batch)


def bench_unique_nodes(benchmark: Any) -> None:
    nodes = torch.randint(0, 9000, (19_800,), generator=torch.Generator().manual_seed(0))
    ids, inverse, count = unique_nodes(nodes, nodes.numel())
    assert torch.equal(ids[inverse], nodes)
    assert int(count) == nodes.unique().numel()
    benchmark(lambda: unique_nodes(nodes, nodes.numel()))
