"""Times of one operation: every case and variant, forward alone and with training's backward pass."""

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
    """Time OPERATIONS[name] on a shape; yield one row per direction, precision and variant.

    Args:
        compiled: time only torch.compile of the reference.
    """
    device, plain = torch.device(setup.device), setup.target == "cpu"
    variants = ["compile"] if compiled else ["eager"] if plain else ["eager", "triton", *_split(name)]
    for row in _case(setup, name, TINY if setup.quick else shape, device, variants):
        yield "timings", row


def _split(name: str) -> list[str]:
    return ["triton-split"] if name == "memory_gru" else []


def _case(
    setup: Setup, name: str, shape: Shape, device: torch.device, variants: Sequence[str]
) -> Iterator[dict[str, Any]]:
    operation, arguments = in_training(OPERATIONS[name]), build(name, shape, device=device)
    settings = list(setup.precisions.values()) if operation.leaves else ["highest"]
    for precision in settings:
        with matmul_precision(precision):
            judgement = (unjudged if setup.stub else judge)(operation, short(arguments), where=device)
            for how, backward in itertools.product(variants, [False, True] if operation.trained else [False]):
                row = {
                    "operation": name, "case": str(shape), "variant": how,
                    "direction": "both" if backward else "forward", "precision": precision_of(torch.float32),
                }  # fmt: skip
                yield {**row, **_time(operation, name, shape, arguments, how, judgement, backward, not setup.gpu)}


def _time(
    operation: Operation, name: str, shape: Shape, arguments: dict[str, Any], how: str, judgement: Judge,
    backward: bool, brief: bool,
) -> dict[str, Any]:  # fmt: skip
    """Check the result on this case, then return the seconds per call and the least work."""
    least = work(name, shape)
    size = least.bytes + (least.backward_bytes if backward else 0)
    grads = judgement.grads if backward else None
    try:
        wrong = failures(judgement(result(operation, how, short(arguments), judgement.grads)))
        if wrong:
            return {"skipped": f"the result is wrong: {wrong}"}
        with variant(how):
            run = prepare(name, arguments, size, how, grads)
            device = next(value.device for value in arguments.values() if isinstance(value, torch.Tensor))
            seconds = samples(run.run, device, 0.01 if brief else 0.1)
    except Exception as error:  # goes into the row; the other variants are still timed
        return {"skipped": f"{type(error).__name__}: {error}"[:400]}
    return {
        "seconds": {
            key: value if key == "rounds" else value / run.calls for key, value in summary(seconds).items()
        },
        "events": shape.batch, "bytes": size, "flops": least.flops + (least.backward_flops if backward else 0),
        "timed": run.timed, "calls": run.calls, "cold": run.cold, "waits": run.waits,
        "peak_mib": run.peak_mib, "inputs": measured(shape),
    }  # fmt: skip


def with_rates(row: dict[str, Any], ceilings: Roofline) -> dict[str, Any]:
    """Add to a row of `timings` its rates, and its share of what the machine's ceilings allow."""
    if "seconds" not in row or "bytes" not in row:
        return row
    seconds = row["seconds"]["p50"]
    floor = ceilings.floor(row["bytes"], row["flops"], row["precision"])
    return {
        **row, "events_per_s": row["events"] / seconds, "gb_per_s": row["bytes"] / seconds / 1e9,
        "tflop_per_s": row["flops"] / seconds / 1e12, "floor_seconds": floor.seconds, "floor_bound": floor.bound,
        "share_of_floor": floor.seconds / seconds,
    }  # fmt: skip
