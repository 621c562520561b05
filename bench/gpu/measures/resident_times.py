"""Times of resident iterations: at sizes of real streams, in TF32 and float32, as a whole and stage by stage."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.gpu.measures.floor import PARTS, iteration_work
from bench.gpu.measures.stages import Parts
from bench.gpu.measures.trace import profiled
from bench.gpu.setup import WAYS, Rows, Setup, drawn, of_shape, resident
from bench.roofline import matmul_precision, measure
from bench.timing import summary
from mspipe_triton.training.footprint import Footprint
from mspipe_triton.training.resident import Resident

REPEATS = 5
LOOKED_AT = 16  # batches, for what they hold
HOLD = 40_000_000  # cycles that the device is kept busy with, some 20 ms, while the host launches a step
STAGED = 25  # batches that are timed stage by stage
_MIB = 2**20


def roofline(setup: Setup) -> Rows:
    """What the machine does at most."""
    yield "roofline", measure(torch.device(setup.device), setup.quick or setup.stub).as_json()


@dataclass(frozen=True)
class Timed:
    """A run that is ready to be timed in one precision.

    Args:
        setting: torch's, of products in float32. notes: what it told while it was prepared.
        mib: of the device, that it has taken: "peak", while it was prepared and trained, and "reserved".
        stop: the last event of an epoch.
    """

    run: Resident
    setting: str
    notes: list[str]
    mib: dict[str, float]
    stop: int

    @staticmethod
    def prepare(setup: Setup, name: str, size: int, kind: str, setting: str) -> Timed:
        """Compile, capture, and train an epoch that does not count."""
        notes: list[str] = []
        with matmul_precision(setting), _taken(setup.gpu) as mib:
            shape = setup.shape(name, size)
            given = (drawn(name, setup.quick), setup.device, shape.batch, of_shape(kind, shape))
            run = resident(*given, note=notes.append)
            stop = setup.stop(run.session.split.train_end, shape.batch)
            if setup.stub:
                run.training().run(0, stop, 1)
            else:
                run.train_epoch(1)
        return Timed(run, setting, notes, mib, stop)

    def epoch(self) -> float:
        """Seconds an iteration, over all batches of the training events, from an empty node state."""
        run = self.run
        steps = run.training()
        with matmul_precision(self.setting):
            run.session.state.reset()
            count = steps.start(0, self.stop, 2)
            run.settle()
            start = time.perf_counter()
            for _ in range(count):
                steps.replay()
            run.settle()
        return (time.perf_counter() - start) / count


@contextmanager
def _taken(gpu: bool) -> Iterator[dict[str, float]]:
    """The MiB of the GPU that are taken within, in the dict that it gives, once it is over; none on a CPU."""
    found: dict[str, float] = {}
    if not gpu:
        yield found
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    yield found
    found["peak"] = (torch.cuda.max_memory_allocated() - allocated) / _MIB
    found["reserved"] = (torch.cuda.memory_reserved() - reserved) / _MIB


def steps(setup: Setup, name: str, size: int, kind: str) -> Rows:
    """An iteration of a model on a stream, in every precision in turn, epoch by epoch."""
    shape, stream = setup.shape(name, size), drawn(name, setup.quick)
    runs = {each: Timed.prepare(setup, name, size, kind, setting) for each, setting in setup.precisions.items()}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(setup.rounds(REPEATS)):
        for precision, run in runs.items():
            seconds[precision].append(run.epoch())
    for precision, run in runs.items():
        made = run.run.session
        held = sum(each.numel() for each in made.model.parameters())
        least = dict(zip(("bytes", "flops"), iteration_work(kind, shape, held), strict=True)) if kind in PARTS else {}
        training, count = run.run.training(), -(-run.stop // shape.batch)
        losses = training.losses[:count].to("cpu", copy=True)
        yield "steps", {
            "stream": name, "model": kind, "batch_size": shape.batch, "precision": precision, "iterations": count,
            "seconds": summary(seconds[precision]), "events": run.stop / count, **least,
            "captured": training.replay.graph is not None, "notes": run.notes, "mib": run.mib,
            "planned_mib": Footprint.of(made.config, stream).to_json(), "capacities": training.sampler.capacities,
            "overflowed": training.sampler.overflowed(), "mean_loss": float(losses.mean()),
            "repeats": _repeats(run.run), "dim_edge": stream.dim_edge, "nodes": stream.num_nodes,
        }  # fmt: skip


def _repeats(run: Resident) -> dict[str, float]:
    """Of batches spread over the training events the mean number of distinct nodes; of all events the share whose pair
    was there before."""
    made, training, stream, size = run.session, run.training(), run.session.stream, run.session.size
    last = made.split.train_end // size - 1
    found = []
    for number in sorted({last * place // LOOKED_AT for place in range(1, LOOKED_AT + 1)}):
        training.ahead.start(number * size, made.split.train_end, 1)
        around = training.sample().around
        assert around.count is not None
        found.append(int(around.count))
    pairs = (stream.src * stream.num_nodes + stream.dst).unique().numel()
    return {"distinct_nodes": statistics.mean(found), "repeated_pairs": 1 - pairs / len(stream)}


def profile(setup: Setup, name: str, size: int, kind: str) -> Rows:
    """The nodes of the graph of an iteration, as the profiler sees them in a few replays, and their times."""
    case = {"stream": name, "model": kind, "batch_size": setup.shape(name, size).batch}
    if not setup.gpu:
        yield "skipped", {"part": "profile", "case": f"{kind} {name}, B {size}", "why": "there is no graph"}
        return
    run = Timed.prepare(setup, name, size, kind, "high")
    run.epoch()
    training = run.run.training()
    captured = training.replay.graph is not None
    training.start(0, run.run.session.split.train_end, 2)
    yield "profiles", {**case, "precision": "tf32", "captured": captured, **profiled(training.replay, 4)}


def stages(setup: Setup, name: str, size: int, kind: str) -> Rows:
    """The stages of an iteration, launched one after the other: milliseconds of the device, and of the host to launch.

    The device is kept busy while the host launches a step, so that no gap between two launches counts as the device's.
    """
    shape = setup.shape(name, size)
    with matmul_precision(setup.fastest):
        given = (drawn(name, setup.quick), setup.device, shape.batch, of_shape(kind, shape))
        run = resident(*given, WAYS["launched"])
        run.train_epoch(1)
        run.session.state.reset()
        training = run.training()
        count = training.start(0, run.session.split.train_end, 2)
        taken = Parts(training).by_name()
        timed = _on_gpu if setup.gpu else _on_cpu
        found = [timed(taken) for _ in range(min(count, 3 if setup.quick else STAGED))][1:]  # the first does not count
    device_ms, host_ms = (
        {part: statistics.median(each[part] for each in of) for part in taken} for of in zip(*found, strict=True)
    )
    yield "stages", {
        "stream": name, "model": kind, "batch_size": shape.batch, "precision": next(iter(setup.precisions)),
        "batches": len(found), "device_ms": device_ms, "host_ms": host_ms,
    }  # fmt: skip


Milliseconds = dict[str, float]


def _on_gpu(taken: dict[str, Callable[[], None]]) -> tuple[Milliseconds, Milliseconds]:
    """One step's stages, on the device and on the host."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(taken) + 1)]
    host: Milliseconds = {}
    torch.cuda.synchronize()
    torch.cuda._sleep(HOLD)
    events[0].record()
    for event, (part, run) in zip(events[1:], taken.items(), strict=True):
        start = time.perf_counter()
        run()
        host[part] = 1e3 * (time.perf_counter() - start)
        event.record()
    torch.cuda.synchronize()
    spans = zip(taken, events, events[1:], strict=False)
    return {part: float(before.elapsed_time(after)) for part, before, after in spans}, host


def _on_cpu(taken: dict[str, Callable[[], None]]) -> tuple[Milliseconds, Milliseconds]:
    """The same where the host is the device."""
    host: Milliseconds = {}
    for part, run in taken.items():
        start = time.perf_counter()
        run()
        host[part] = 1e3 * (time.perf_counter() - start)
    return host, host
