"""Times of one operation: every case, forward and training's forward and backward pass, every way to run it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bench.cases.operation import Operation
from bench.cases.random_batch import TINY, Shape
from bench.cases.registry import OPERATIONS, build, measured, short, work
from bench.gpu.setup import Rows, Setup
from bench.roofline import Roofline, matmul_precision, precision_of
from bench.timing import prepare, samples, summary
from bench.variants import Judge, failures, in_training, judge, result, unjudged, variant


def timings(setup: Setup, name: str, shape: Shape, compiled: bool = False) -> Rows:
    """Records of OPERATIONS[name] on a shape, one a direction, precision and variant.

    Args:
        compiled: time torch.compile of the reference, and nothing else.
    """
    device, plain = torch.device(setup.device), setup.target == "cpu"
    hows = ["compile"] if compiled else ["eager"] if plain else ["eager", "triton", *_split(name)]
    for entry in _case(setup, name, TINY if setup.quick else shape, device, hows):
        yield "timings", entry


def _split(name: str) -> list[str]:
    return ["triton-split"] if name == "memory_gru" else []


def _case(setup: Setup, name: str, shape: Shape, device: torch.device, hows: Sequence[str]) -> Iterator[dict[str, Any]]:
    operation, arguments = in_training(OPERATIONS[name]), build(name, shape, device=device)
    settings = list(setup.precisions.values()) if operation.leaves else ["highest"]
    for precision in settings:
        with matmul_precision(precision):
            judged = (unjudged if setup.stub else judge)(operation, short(arguments), where=device)
            for how, backward in itertools.product(hows, [False, True] if operation.trained else [False]):
                start = {
                    "operation": name, "case": str(shape), "variant": how,
                    "direction": "both" if backward else "forward", "precision": precision_of(torch.float32),
                }  # fmt: skip
                yield {**start, **_timed(operation, name, shape, arguments, how, judged, backward, not setup.gpu)}


def _timed(
    operation: Operation, name: str, shape: Shape, arguments: dict[str, Any], how: str, judged: Judge,
    backward: bool, brief: bool,
) -> dict[str, Any]:  # fmt: skip
    """Seconds a call and its least work, after a check of the result on this very case."""
    least = work(name, shape)
    moved = least.bytes + (least.backward_bytes if backward else 0)
    grads = judged.grads if backward else None
    try:
        wrong = failures(judged(result(operation, how, short(arguments), judged.grads)))
        if wrong:
            return {"skipped": f"the result is wrong: {wrong}"}
        with variant(how):
            ready = prepare(name, arguments, moved, how, grads)
            device = next(value.device for value in arguments.values() if isinstance(value, torch.Tensor))
            taken = samples(ready.run, device, 0.01 if brief else 0.1)
    except Exception as error:  # recorded, so that the other variants are timed
        return {"skipped": f"{type(error).__name__}: {error}"[:400]}
    return {
        "seconds": {
            key: value if key == "rounds" else value / ready.calls for key, value in summary(taken).items()
        },
        "events": shape.batch, "bytes": moved, "flops": least.flops + (least.backward_flops if backward else 0),
        "timed": ready.timed, "calls": ready.calls, "cold": ready.cold, "waits": ready.waits,
        "peak_mib": ready.peak_mib, "inputs": measured(shape),
    }  # fmt: skip


def with_rates(entry: dict[str, Any], ceilings: Roofline) -> dict[str, Any]:
    """A record of `timings` with rates, and its share of what the machine's ceilings allow."""
    if "seconds" not in entry or "bytes" not in entry:
        return entry
    seconds = entry["seconds"]["p50"]
    floor = ceilings.floor(entry["bytes"], entry["flops"], entry["precision"])
    return {
        **entry, "events_per_s": entry["events"] / seconds, "gb_per_s": entry["bytes"] / seconds / 1e9,
        "tflop_per_s": entry["flops"] / seconds / 1e12, "floor_seconds": floor.seconds, "floor_bound": floor.bound,
        "share_of_floor": floor.seconds / seconds,
    }  # fmt: skip
