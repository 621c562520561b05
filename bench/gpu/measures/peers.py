"""Comparisons with resident training in the same run: PyG's TGN, our references under torch.compile, the schedules."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from bench.gpu.measures import schedules as host
from bench.gpu.measures.resident_times import REPEATS
from bench.gpu.setup import Rows, Setup, model_arguments, random_stream, resident
from bench.roofline import matmul_precision
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds, enable_fusion, fusion_enabled, fusion_failure
from mspipe_triton.kernels.runtime.launch import references
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.staged import Staged

BATCHES = 120  # per epoch of a comparison


def pyg(setup: Setup, size: int) -> Rows:
    """Time PyG's TGN and our resident TGN in turn, on the same WIKI events, device, batches, widths and negatives.

    On a GPU both run in TF32. An epoch is the first 120 batches; the first epoch of each does not count.
    """
    from bench.studies.peer_pyg import PygTGN

    shape, stream = setup.shape("WIKI", size), random_stream("WIKI", setup.quick)
    batch_size = shape.batch
    stop = setup.stop(min(stream.split().train_end, BATCHES * batch_size), batch_size)
    sampler = NegativeSampler(stream, 0).iterate(Purpose.TRAIN_NEGATIVES, 1, stream.dst[:stop], batch_size)
    negatives = [batch[:, 0].to(setup.device) for batch in sampler]
    with matmul_precision(setup.fastest):
        peer = PygTGN(stream, shape.dim, shape.fanout, 1e-3, 0, setup.device)
        run = resident(stream, setup.device, batch_size, model_arguments("tgn", shape))
        seconds: dict[str, list[float]] = {"pyg": [], "resident": []}
        for _ in range(1 + setup.rounds(REPEATS)):
            seconds["pyg"].append(peer.train_epoch(stop, batch_size, negatives.__getitem__))
            seconds["resident"].append(_epoch(run, stop))
    rates = {name: stop / statistics.median(epochs[1:]) for name, epochs in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["pyg"][1:], seconds["resident"][1:], strict=True)]
    yield "pyg", {
        "stream": "WIKI", "batch_size": batch_size, "events": stop, "precision": next(iter(setup.precisions)),
        "seconds": seconds, "events_per_s": rates, "ratio": statistics.median(ratios),
    }  # fmt: skip


def _epoch(run: Resident, stop: int) -> float:
    """Return the seconds of training on events [0, stop) from an empty node state."""
    steps = run.training()
    run.session.model.train()
    run.session.state.reset()
    run.settle()
    start = time.perf_counter()
    steps.run(0, stop, 1)
    run.settle()
    return time.perf_counter() - start


@contextmanager
def _fusion() -> Iterator[None]:
    """Use the torch references, with `fused` functions compiled by torch.compile.

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


def compilation(setup: Setup) -> Rows:
    """Time serial iterations of TGN with rows in host memory: our kernels, the torch references, these compiled."""
    shape, stream, size = setup.shape("WIKI", 600), random_stream("WIKI", setup.quick), setup.shape("WIKI", 600).batch
    variants: dict[str, Callable[[], object]] = {"kernels": nullcontext, "references": references, "compiled": _fusion}
    config = RunConfig(
        model=ModelConfig(**model_arguments("tgn", shape)),
        train=TrainConfig(batch_size=size, device=setup.device, placement="host", schedule="serial"),
    )
    runs = {name: Staged(Session.create(config, stream)) for name in variants}
    stop, seconds, errors = min(stream.split().train_end, 40 * size), defaultdict(list), dict[str, str]()
    before = compile_seconds()
    for _ in range(1 + setup.rounds(REPEATS)):
        for name, context in variants.items():
            if name in errors:
                continue
            try:
                with context(), matmul_precision(setup.fastest):
                    seconds[name].append(_serial_epoch(runs[name], stop))
            except Exception as error:  # a failure of torch.compile is a result too
                errors[name] = f"{type(error).__name__}: {error}"[:400]
    yield "compiled", {
        "stream": "WIKI", "model": "tgn", "batch_size": size, "precision": next(iter(setup.precisions)),
        "ms": {name: 1e3 * statistics.median(epochs[1:]) for name, epochs in seconds.items() if name not in errors},
        "failed": errors, "compile_seconds": compile_seconds() - before,
    }  # fmt: skip


def _serial_epoch(run: Staged, stop: int) -> float:
    """Return the seconds per iteration of the serial schedule on events [0, stop) from an empty node state."""
    result = run.train_epoch(1, stop=stop)
    return result.seconds / result.losses.numel()


def schedules(setup: Setup, kind: str) -> Rows:
    """Time the schedules with memory and features in host memory, and resident training, on the same stream."""
    stream, size = setup.synthetic(), 20 if setup.quick else 600
    with matmul_precision(setup.fastest):
        figures = host.measure(setup, stream, kind, size)
        run = resident(stream, setup.device, size, {"model": kind})
        stop = setup.stop(run.session.split.train_end, size)
        seconds = [_epoch(run, stop) for _ in range(1 + setup.rounds(REPEATS))][1:]
    ms = {name: 1e3 * figures[name]["seconds_per_iteration"] for name in host.SCHEDULES}
    ms["resident"] = 1e3 * statistics.median(seconds) / -(-stop // size)
    yield "schedules", {
        "stream": stream.name, "model": kind, "batch_size": size, "precision": next(iter(setup.precisions)), "ms": ms,
        "ratio": {name: value / ms["resident"] for name, value in ms.items()}, "host": figures,
    }  # fmt: skip
