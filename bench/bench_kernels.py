"""pytest-benchmark cases of every kernel; each checks its result against float64 before it is timed."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from bench.cases.random_batch import SHAPES, WIKI, Shape
from bench.cases.registry import OPERATIONS, build, short, work
from bench.roofline import Roofline, measure, precision_of
from bench.timing import prepare
from bench.variants import Judge, failures, in_training, judge, result, variant

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REPLAYS = 20
SHORT = [str(shape) for shape in WIKI[:2]]
NEEDS_GPU = "Triton kernels need a CUDA device; tests/kernels tests their results in Triton's interpreter"


def _parameters() -> list[Any]:
    """Every operation, variant, direction and shape, with an id to select by: -k 'memory_gru and WIKI-B600'."""
    parameters = []
    for name, operation in OPERATIONS.items():
        ways = ["eager", "compile" if DEVICE.type == "cuda" else "fused", "triton"]
        ways = [way for way in ways if way != "fused" or operation.fuses]
        for shape in SHAPES:
            for way in ways:
                for direction in ["forward", *(["both"] if operation.trained else [])]:
                    marks = [] if str(shape) in SHORT else [pytest.mark.full]
                    parameters.append(
                        pytest.param(name, shape, way, direction, id=f"{name}-{shape}-{way}-{direction}", marks=marks)
                    )
    return parameters


@functools.cache
def _roofline(threads: int) -> Roofline:
    return measure(DEVICE)


@functools.lru_cache(maxsize=1)
def _inputs(name: str, shape: Shape) -> dict[str, Any]:
    return build(name, shape, device=DEVICE)


@functools.lru_cache(maxsize=1)
def _judge(name: str, shape: Shape) -> Judge:
    """Judge that the variants and directions of a case share, as they run one after the other."""
    return judge(in_training(OPERATIONS[name]), short(_inputs(name, shape)))


@pytest.mark.benchmark(max_time=0.5)
@pytest.mark.parametrize(("name", "shape", "way", "direction"), _parameters())
def bench_kernel(benchmark: Any, name: str, shape: Shape, way: str, direction: str) -> None:
    if way == "triton" and DEVICE.type != "cuda":
        pytest.skip(NEEDS_GPU)
    operation, arguments = in_training(OPERATIONS[name]), _inputs(name, shape)
    oracle = _judge(name, shape)
    wrong = failures(oracle(result(operation, way, short(arguments), oracle.grads)))
    assert not wrong, f"not timed, because the result is wrong: {wrong}"
    least = work(name, shape)
    traffic, flops = least.bytes, least.flops
    if direction == "both":
        traffic, flops = traffic + least.backward_bytes, flops + least.backward_flops
    with variant(way):
        ready = prepare(name, arguments, traffic, way, oracle.grads if direction == "both" else None)
        calls = ready.calls
        if DEVICE.type == "cuda":
            calls *= REPLAYS
            benchmark.pedantic(_replays(ready.run), rounds=20, warmup_rounds=2)
        else:
            benchmark(ready.run)
    if benchmark.stats is None:  # --benchmark-disable: only checks
        return
    seconds, ceilings = benchmark.stats["median"] / calls, _roofline(torch.get_num_threads())
    floor = ceilings.floor(traffic, flops, precision_of(torch.float32))
    benchmark.extra_info.update(
        device=ceilings.device, threads=ceilings.threads, timed=ready.timed, calls=calls, cold=ready.cold,
        seconds=seconds, events_per_s=round(shape.batch / seconds), gb_per_s=traffic / seconds / 1e9,
        tflop_per_s=flops / seconds / 1e12, floor_seconds=floor.seconds, floor_bound=floor.bound,
        share_of_floor=floor.seconds / seconds, peak_mib=ready.peak_mib,
    )  # fmt: skip


def _replays(run: Any) -> Any:
    """Make a round of many replays and one wait, so that neither the wait nor a launch from the host counts."""

    def replay() -> None:
        for _ in range(REPLAYS):
            run()
        torch.cuda.synchronize()

    return replay
