"""Times of resident iterations at the sizes of real streams, in TF32 and float32, whole and stage by stage."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.gpu.measures import trace
from bench.gpu.measures.floor import PARTS, iteration_work
from bench.gpu.measures.stages import Parts
from bench.gpu.setup import WAYS, Rows, Setup, model_arguments, random_stream, resident
from bench.roofline import matmul_precision, measure
from bench.timing import summary
from mspipe_triton.training.footprint import Footprint
from mspipe_triton.training.resident import Resident

REPEATS = 5
NODE_BATCHES = 16  # spread over the training events, whose distinct nodes are counted
BUSY_CYCLES = 40_000_000  # about 20 ms, for which the device is kept busy while the host launches a step
STAGE_BATCHES = 25  # timed stage by stage
_MIB = 2**20


def roofline(setup: Setup) -> Rows:
    """Measure the machine's ceilings."""
    yield "roofline", measure(torch.device(setup.device), setup.quick or setup.stub).as_json()


@dataclass(frozen=True)
class TimedRun:
    """A run that is ready for timing in one precision.

    Args:
        setting: torch's float32 matmul setting. notes: messages of the run's preparation.
        mib: device memory that preparation and training used: "peak" and "reserved".
        stop: end of an epoch, in events.
    """

    run: Resident
    setting: str
    notes: list[str]
    mib: dict[str, float]
    stop: int

    @staticmethod
    def prepare(setup: Setup, name: str, size: int, kind: str, setting: str) -> TimedRun:
        """Compile, capture, and train an epoch that does not count."""
        notes: list[str] = []
        with matmul_precision(setting), _memory(setup.gpu) as mib:
            shape = setup.shape(name, size)
            stream, model = random_stream(name, setup.quick), model_arguments(kind, shape)
            run = resident(stream, setup.device, shape.batch, model, note=notes.append)
            stop = setup.stop(run.session.split.train_end, shape.batch)
            if setup.stub:
                run.training().run(0, stop, 1)
            else:
                run.train_epoch(1)
        return TimedRun(run, setting, notes, mib, stop)

    def epoch(self) -> float:
        """Return the seconds per iteration over all training batches, from an empty node state."""
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
def _memory(gpu: bool) -> Iterator[dict[str, float]]:
    """Measure the MiB of GPU memory that the block uses; the yielded dict has them after the block, on a GPU."""
    mib: dict[str, float] = {}
    if not gpu:
        yield mib
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    yield mib
    mib["peak"] = (torch.cuda.max_memory_allocated() - allocated) / _MIB
    mib["reserved"] = (torch.cuda.memory_reserved() - reserved) / _MIB


def steps(setup: Setup, name: str, size: int, kind: str) -> Rows:
    """Time a model's iterations on a stream in all precisions, which take turns epoch by epoch."""
    shape, stream = setup.shape(name, size), random_stream(name, setup.quick)
    runs = {
        precision: TimedRun.prepare(setup, name, size, kind, setting) for precision, setting in setup.precisions.items()
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(setup.rounds(REPEATS)):
        for precision, run in runs.items():
            seconds[precision].append(run.epoch())
    for precision, run in runs.items():
        session = run.run.session
        total = sum(parameter.numel() for parameter in session.model.parameters())
        least = dict(zip(("bytes", "flops"), iteration_work(kind, shape, total), strict=True)) if kind in PARTS else {}
        training, count = run.run.training(), -(-run.stop // shape.batch)
        losses = training.losses[:count].to("cpu", copy=True)
        yield "steps", {
            "stream": name, "model": kind, "batch_size": shape.batch, "precision": precision, "iterations": count,
            "seconds": summary(seconds[precision]), "events": run.stop / count, **least,
            "captured": training.replay.graph is not None, "notes": run.notes, "mib": run.mib,
            "planned_mib": Footprint.of(session.config, stream).to_json(), "capacities": training.sampler.capacities,
            "overflowed": training.sampler.overflowed(), "mean_loss": float(losses.mean()),
            "repeats": _repeats(run.run), "dim_edge": stream.dim_edge, "nodes": stream.num_nodes,
        }  # fmt: skip


def _repeats(run: Resident) -> dict[str, float]:
    """Return the mean number of distinct nodes per batch, and the share of events whose node pair occurred before."""
    session, training, stream, size = run.session, run.training(), run.session.stream, run.session.size
    last = session.split.train_end // size - 1
    counts = []
    for number in sorted({last * index // NODE_BATCHES for index in range(1, NODE_BATCHES + 1)}):
        training.ahead.start(number * size, session.split.train_end, 1)
        neighbourhood = training.sample().around
        assert neighbourhood.count is not None
        counts.append(int(neighbourhood.count))
    pairs = (stream.src * stream.num_nodes + stream.dst).unique().numel()
    return {"distinct_nodes": statistics.mean(counts), "repeated_pairs": 1 - pairs / len(stream)}


def profile(setup: Setup, name: str, size: int, kind: str) -> Rows:
    """Profile a few replays of an iteration's graph: its nodes and their times."""
    case = {"stream": name, "model": kind, "batch_size": setup.shape(name, size).batch}
    if not setup.gpu:
        yield "skipped", {"part": "profile", "case": f"{kind} {name}, B {size}", "why": "there is no graph"}
        return
    run = TimedRun.prepare(setup, name, size, kind, "high")
    run.epoch()
    training = run.run.training()
    captured = training.replay.graph is not None
    training.start(0, run.run.session.split.train_end, 2)
    yield "profiles", {**case, "precision": "tf32", "captured": captured, **trace.profile(training.replay, 4)}


def stages(setup: Setup, name: str, size: int, kind: str) -> Rows:
    """Time an iteration's stages, launched one after the other: milliseconds on the device, and on the host to launch.

    The device is kept busy while the host launches a step, so that gaps between launches do not count as device time.
    """
    shape = setup.shape(name, size)
    with matmul_precision(setup.fastest):
        stream, model = random_stream(name, setup.quick), model_arguments(kind, shape)
        run = resident(stream, setup.device, shape.batch, model, WAYS["launched"])
        run.train_epoch(1)
        run.session.state.reset()
        training = run.training()
        count = training.start(0, run.session.split.train_end, 2)
        parts = Parts(training).by_name()
        measure_step = _on_gpu if setup.gpu else _on_cpu
        batches = min(count, 3 if setup.quick else STAGE_BATCHES)
        times = [measure_step(parts) for _ in range(batches)][1:]  # the first does not count
    device_ms, host_ms = (
        {part: statistics.median(step[part] for step in group) for part in parts} for group in zip(*times, strict=True)
    )
    yield "stages", {
        "stream": name, "model": kind, "batch_size": shape.batch, "precision": next(iter(setup.precisions)),
        "batches": len(times), "device_ms": device_ms, "host_ms": host_ms,
    }  # fmt: skip


Milliseconds = dict[str, float]


def _on_gpu(parts: dict[str, Callable[[], None]]) -> tuple[Milliseconds, Milliseconds]:
    """Return the times of one step's stages, on the device and on the host."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(parts) + 1)]
    host: Milliseconds = {}
    torch.cuda.synchronize()
    torch.cuda._sleep(BUSY_CYCLES)
    events[0].record()
    for event, (part, run) in zip(events[1:], parts.items(), strict=True):
        start = time.perf_counter()
        run()
        host[part] = 1e3 * (time.perf_counter() - start)
        event.record()
    torch.cuda.synchronize()
    spans = zip(parts, events, events[1:], strict=False)
    return {part: float(before.elapsed_time(after)) for part, before, after in spans}, host


def _on_cpu(parts: dict[str, Callable[[], None]]) -> tuple[Milliseconds, Milliseconds]:
    """Return the times of one step's stages on the CPU, for both the device and the host."""
    host: Milliseconds = {}
    for part, run in parts.items():
        start = time.perf_counter()
        run()
        host[part] = 1e3 * (time.perf_counter() - start)
    return host, host
