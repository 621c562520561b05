"""pytest-benchmark cases of the training step and its operations; each checks its result before it is timed.

The step is timed both ways: in stages, and resident, with static shapes, as a GPU replays it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.gpu.measures.stages import Parts
from bench.gpu.setup import WAYS
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.iteration.passes import TrainPass
from mspipe_triton.iteration.scene import Batch, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, Work, in_turn
from mspipe_triton.kernels import unique_nodes
from mspipe_triton.kernels.runtime.fusion import enable_fusion
from mspipe_triton.settings import compiler
from mspipe_triton.training.resident import Resident
from mspipe_triton.tuning.rounding import Expected, Named, expected

WARM_BATCHES, ROUNDS = 20, 30


@pytest.fixture(params=[(200, 0), (600, 0), (600, 172)], ids=["B200", "B600", "B600-features172"])
def warm(request: pytest.FixtureRequest) -> Iterator[tuple[Session, Batch]]:
    """Session whose memory has seen some batches, and the next batch."""
    size, width = request.param
    enable_fusion(compiler() is not None)
    stream = synthetic_stream(SyntheticConfig(events=40_000, edge_features=width))
    session = Session.create(RunConfig(model=ModelConfig(), train=TrainConfig(batch_size=size)), stream)
    items = list(batches(0, size * (WARM_BATCHES + 1), size, session.negatives, Purpose.TRAIN_NEGATIVES, 1))
    for batch in items[:-1]:
        list(in_turn(Stages(session).training(), [batch]))
    yield session, items[-1]
    enable_fusion(False)


def _resident(session: Session, way: str) -> TrainPass:
    """Training pass with static shapes, with the parameters and node state of a staged session."""
    train = replace(session.config.train, placement="device")
    resident = Session.create(replace(session.config, train=train, settings=WAYS[way]), session.stream)
    steps = Resident(resident).training()
    _copy_state(resident, session)
    return steps


def _double(session: Session) -> Session:
    """Staged session in float64 with the parameters and node state of a session in float32."""
    config = replace(session.config, model=replace(session.config.model, dtype="float64"))
    double = Session.create(config, session.stream)
    _copy_state(double, session)
    return double


@torch.no_grad()
def _copy_state(target: Session, source: Session) -> None:
    target.model.load_state_dict(source.model.state_dict())
    for name, table in source.state.tables.items():
        target.state.tables[name].copy_(table)


def _go_to(steps: TrainPass, batch: Batch) -> None:
    """Move a pass to the start of a batch of the first epoch."""
    for clock in (steps.clock, steps.ahead):
        clock.start(0, batch.stop, 1)
        for _ in range(batch.index):
            clock.advance()
    if steps.session.settings.branch:
        steps.scene = steps.sample()


def _check(session: Session, batch: Batch, way: str, step: Callable[[TrainPass], object]) -> None:
    """Check that in float64 a step computes the loss and the node tables of the stages, from the same state."""
    exact = _double(session)
    steps = _resident(exact, way)

    def staged() -> Named:
        _copy_state(exact, session)
        run = Stages(exact)
        work = run.update(run.train(run.memory(run.features(run.sample_pairs(batch)))))
        return {"loss": work.outcome.loss, **{name: table.clone() for name, table in exact.state.tables.items()}}

    _go_to(steps, batch)
    step(steps)
    results = {"loss": steps.losses[batch.index], **steps.session.state.tables}
    _assert_close(expected(staged, results), results)


def _assert_close(truth: Expected, results: Named) -> None:
    entries = truth.errors(results)
    assert all(entry["passed"] for entry in entries.values()), entries


def _logits(run: Stages, work: Work) -> Named:
    return {"logits": run.score(work).outcome.logits}


def _add_rate(benchmark: Any, batch: Batch) -> None:
    if benchmark.stats is None:  # --benchmark-disable: only checks
        return
    benchmark.extra_info["events_per_s"] = round((batch.stop - batch.start) / benchmark.stats["median"])
    benchmark.extra_info["threads"] = torch.get_num_threads()


def bench_train_step(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    run = Stages(session)
    work = run.memory(run.features(run.sample_pairs(batch)))
    logits, exact = _logits(run, work), Stages(_double(session))
    _assert_close(
        expected(lambda: _logits(exact, exact.memory(exact.features(exact.sample_pairs(batch)))), logits), logits
    )
    benchmark(lambda: run.train(work))
    _add_rate(benchmark, batch)


def bench_fetch(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    run = Stages(session)
    scene = run.sample(batch).scene
    assert scene is not None
    around = scene.around
    assert torch.equal(
        around.nodes[around.root_rows[: batch.stop - batch.start]], session.stream.src[batch.start : batch.stop]
    )
    benchmark(lambda: run.memory(run.features(run.sample_pairs(batch))))
    _add_rate(benchmark, batch)


def bench_update(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    run = Stages(session)
    work = run.score(run.memory(run.features(run.sample_pairs(batch))))
    run.update(work)
    last = session.stream.dst[batch.stop - 1]
    assert session.state.tables["event_id"][last] == batch.stop - 1
    benchmark(lambda: run.update(work))
    _add_rate(benchmark, batch)


def bench_resident_step(benchmark: Any, warm: tuple[Session, Batch]) -> None:
    session, batch = warm
    _check(session, batch, "captured, branch", TrainPass.step)
    steps = _resident(session, "captured, branch")
    benchmark.pedantic(steps.step, setup=lambda: _go_to(steps, batch), rounds=ROUNDS, warmup_rounds=2)
    _add_rate(benchmark, batch)


@pytest.mark.parametrize("stage", ["sample", "forward", "backward", "write"])
def bench_resident_stage(benchmark: Any, warm: tuple[Session, Batch], stage: str) -> None:
    session, batch = warm
    _check(session, batch, "captured", lambda steps: [run() for run in Parts(steps).by_name().values()])
    steps = _resident(session, "captured")
    stages = Parts(steps).by_name()
    earlier = [*stages.values()][: [*stages].index(stage)]

    def setup() -> None:
        _go_to(steps, batch)
        for run in earlier:
            run()

    benchmark.pedantic(stages[stage], setup=setup, rounds=ROUNDS, warmup_rounds=2)
    _add_rate(benchmark, batch)


def bench_unique_nodes(benchmark: Any) -> None:
    nodes = torch.randint(0, 9000, (19_800,), generator=torch.Generator().manual_seed(0))
    ids, inverse, count = unique_nodes(nodes, nodes.numel())
    assert torch.equal(ids[inverse], nodes)
    assert int(count) == nodes.unique().numel()
    benchmark(lambda: unique_nodes(nodes, nodes.numel()))
