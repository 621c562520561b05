"""Peers of resident training in the same run: PyG's TGN, our references under torch.compile, the schedules."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from bench.gpu.measures import schedules as host
from bench.gpu.measures.resident_times import REPEATS
from bench.gpu.setup import Rows, Setup, drawn, of_shape, resident
from bench.roofline import matmul_precision
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds, enable_fusion, fusion_enabled, fusion_failure
from mspipe_triton.kernels.runtime.launch import references
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.staged import Staged

BATCHES = 120  # of an epoch of a comparison


def pyg(setup: Setup, size: int) -> Rows:
    """PyG's TGN and ours, resident, on the same events of WIKI, device, batches, widths and negatives, in turn.

    Both run in TF32 where there is a GPU. An epoch is the first 120 batches; one of each does not count.
    """
    from bench.studies.peer_pyg import PygTGN

    shape, stream = setup.shape("WIKI", size), drawn("WIKI", setup.quick)
    batch_size = shape.batch
    stop = setup.stop(min(stream.split().train_end, BATCHES * batch_size), batch_size)
    drawn_negatives = NegativeSampler(stream, 0).iterate(Purpose.TRAIN_NEGATIVES, 1, batch_size, -(-stop // batch_size))
    negatives = [each[:, 0].to(setup.device) for each in drawn_negatives]
    with matmul_precision(setup.fastest):
        theirs = PygTGN(stream, shape.dim, shape.fanout, 1e-3, 0, setup.device)
        ours = resident(stream, setup.device, batch_size, of_shape("tgn", shape))
        seconds: dict[str, list[float]] = {"pyg": [], "resident": []}
        for _ in range(1 + setup.rounds(REPEATS)):
            seconds["pyg"].append(
                theirs.train_epoch(stop, batch_size, lambda i: negatives[i][: min(batch_size, stop - i * batch_size)])
            )
            seconds["resident"].append(_epoch(ours, stop))
    rates = {name: stop / statistics.median(taken[1:]) for name, taken in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["pyg"][1:], seconds["resident"][1:], strict=True)]
    yield "pyg", {
        "stream": "WIKI", "batch_size": batch_size, "events": stop, "precision": next(iter(setup.precisions)),
        "seconds": seconds, "events_per_s": rates, "ratio": statistics.median(ratios),
    }  # fmt: skip


def _epoch(run: Resident, stop: int) -> float:
    """Seconds of training on events [0, stop) from an empty node state."""
    steps = run.training()
    run.session.model.train()
    run.session.state.reset()
    run.settle()
    start = time.perf_counter()
    steps.run(0, stop, 1)
    run.settle()
    return time.perf_counter() - start


@contextmanager
def _fused() -> Iterator[None]:
    """Within it, torch references with what `fused` says compiled by torch.compile.

    Raises:
        RuntimeError: compilation is off, or has failed.
    """
    with references():
        enable_fusion()
        try:
            yield
            if not fusion_enabled():
                raise RuntimeError(fusion_failure() or "torch.compile is switched off (TORCHDYNAMO_DISABLE)")
        finally:
            enable_fusion(False)


def compiled(setup: Setup) -> Rows:
    """A serial iteration of TGN with its rows in host memory: our kernels, the torch references, and these compiled."""
    shape, stream, size = setup.shape("WIKI", 600), drawn("WIKI", setup.quick), setup.shape("WIKI", 600).batch
    hows: dict[str, Callable[[], object]] = {"kernels": nullcontext, "references": references, "compiled": _fused}
    config = RunConfig(
        model=ModelConfig(**of_shape("tgn", shape)),
        train=TrainConfig(batch_size=size, device=setup.device, placement="host", schedule="serial"),
    )
    runs = {how: Staged(Session.create(config, stream)) for how in hows}
    stop, seconds, failed = min(stream.split().train_end, 40 * size), defaultdict(list), dict[str, str]()
    before = compile_seconds()
    for _ in range(1 + setup.rounds(REPEATS)):
        for how, within in hows.items():
            if how in failed:
                continue
            try:
                with within(), matmul_precision(setup.fastest):
                    seconds[how].append(_serial(runs[how], stop))
            except Exception as error:  # what torch.compile cannot do is a result too
                failed[how] = f"{type(error).__name__}: {error}"[:400]
    yield "compiled", {
        "stream": "WIKI", "model": "tgn", "batch_size": size, "precision": next(iter(setup.precisions)),
        "ms": {how: 1e3 * statistics.median(taken[1:]) for how, taken in seconds.items() if how not in failed},
        "failed": failed, "compile_seconds": compile_seconds() - before,
    }  # fmt: skip


def _serial(run: Staged, stop: int) -> float:
    """Seconds an iteration of the serial schedule on events [0, stop) from an empty node state."""
    trained = run.train_epoch(1, stop=stop)
    return trained.seconds / trained.losses.numel()


def schedules(setup: Setup, kind: str) -> Rows:
    """The schedules with memory and features in host memory, and resident training, on the same stream."""
    stream, size = setup.synthetic(), 20 if setup.quick else 600
    with matmul_precision(setup.fastest):
        found = host.measure(setup, stream, kind, size)
        ours = resident(stream, setup.device, size, {"model": kind})
        stop = setup.stop(ours.session.split.train_end, size)
        taken = [_epoch(ours, stop) for _ in range(1 + setup.rounds(REPEATS))][1:]
    ms = {name: 1e3 * found[name]["seconds_per_iteration"] for name in host.MEASURED}
    ms["resident"] = 1e3 * statistics.median(taken) / -(-stop // size)
    yield "schedules", {
        "stream": stream.name, "model": kind, "batch_size": size, "precision": next(iter(setup.precisions)), "ms": ms,
        "ratio": {name: each / ms["resident"] for name, each in ms.items()}, "host": found,
    }  # fmt: skip
