"""pytest-benchmark cases of the training step and its operations; a check of the result comes before any timing.

The step is timed both ways: in stages, and resident, at static shapes, as a GPU replays it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.gpu_resident_setup import WAYS
from bench.gpu_resident_stages import Stages
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.kernels import unique_nodes
from mspipe_triton.kernels.fusion import enable_fusion
from mspipe_triton.training.batch import Batch, batches
from mspipe_triton.training.iteration import in_turn
from mspipe_triton.training.resident_steps import TrainPass
from mspipe_triton.training.session import Session
from mspipe_triton.training.settings import compiler

WARM_BATCHES, ROUNDS = 20, 30


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


def _resident(session: Session, way: str) -> TrainPass:
    """The training pass of a session at static shapes, with the parameters and node state of a staged one."""
    config = RunConfig(
        model=session.config.model,
        train=TrainConfig(batch_size=session.config.train.batch_size, placement="device"),
        settings=WAYS[way],
    )
    made = Session.create(config, session.stream)
    assert made.resident is not None
    steps = made.resident.training()
    made.model.load_state_dict(session.model.state_dict())
    made.state.load_state_dict(session.state.state_dict())
    return steps


def _go_to(steps: TrainPass, batch: Batch) -> None:
    """Put a pass before a batch of the first epoch."""
    for clock in (steps.clock, steps.ahead):
        clock.start(0, batch.stop, 1)
        for _ in range(batch.index):
            clock.advance()
    if steps.given.branch:
        steps.scene = steps.sample()


def _check(steps: TrainPass, session: Session, batch: Batch) -> None:
    """That a step has left the loss and the node tables that the stages leave from the same beginning."""
    run = session.iteration
    done = run.update(run.train(run.memory(run.features(run.sample(batch)))))
    found, expected = steps.given.state.tables, session.state.tables
    for ours, theirs in ((steps.losses[batch.index], done.loss), *((found[name], expected[name]) for name in expected)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


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


def bench_resident_step(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    steps = _resident(session, "captured, branch")
    _go_to(steps, batch)
    steps.step()
    _check(steps, session, batch)
    benchmark.pedantic(steps.step, setup=lambda: _go_to(steps, batch), rounds=ROUNDS, warmup_rounds=2)
    _record(benchmark, batch)


@pytest.mark.parametrize("stage", ["sample", "forward", "backward", "write"])
def bench_resident_stage(benchmark: Any, warm: tuple[Session, Batch], stage: str) -> None:
    session, batch = warm
    steps = _resident(session, "captured")
    stages = Stages(steps).by_name()

    def take(names: list[str]) -> None:
        _go_to(steps, batch)
        for name in names:
            stages[name]()

    take([*stages])
    _check(steps, session, batch)
    before = [*stages][: [*stages].index(stage)]
    benchmark.pedantic(stages[stage], setup=lambda: take(before), rounds=ROUNDS, warmup_rounds=2)
    _record(benchmark, batch)


def bench_unique_nodes(benchmark: Any) -> None:
    nodes = torch.randint(0, 9000, (19_800,), generator=torch.Generator().manual_seed(0))
    ids, inverse, count = unique_nodes(nodes, nodes.numel())
    assert torch.equal(ids[inverse], nodes)
    assert int(count) == nodes.unique().numel()
    benchmark(lambda: unique_nodes(nodes, nodes.numel()))
