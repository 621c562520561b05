"""Tests of the parts of GPU reports that need no GPU: counts of launches and traces, the floor, stages, targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.cases.registry import work
from bench.gpu.measures.floor import PARTS, iteration_work
from bench.gpu.measures.stages import Parts
from bench.gpu.measures.trace import MARK, summarise
from bench.gpu.setup import TINY, WAYS, model_arguments, random_stream, resident
from bench.gpu.wording import complete, targets
from bench.studies import launches
from mspipe_triton.kernels import gather_rows
from mspipe_triton.kernels.runtime import launch


@pytest.mark.usefixtures("interpreter")
def test_operations_that_write_memory_count_as_launches() -> None:
    numbers = torch.ones(4, 2)

    def step() -> None:
        torch.empty(3)
        torch.empty(0).add_(1)  # writes nothing
        numbers.view(2, 4).t()[1:].unsqueeze(0).detach()
        numbers.add_(1)
        torch._foreach_copy_([numbers], [torch.zeros(4, 2)])
        gather_rows(numbers, torch.tensor([1, 3]))

    assert launches.launches(step) == {"aten::add_": 1, "aten::zeros": 1, "aten::_foreach_copy_": 1, "gather_kernel": 1}


def test_launches_inside_our_operations_and_in_the_backward_pass_count() -> None:
    if launch.triton is None:
        pytest.skip("triton has no wheel for this platform")
    by_name = launches.of_model("jodie")
    assert by_name["aten::_fused_adam_"] == by_name["batch_kernel"] == by_name["link_backward_kernel"] == 1
    assert not any(name.startswith("mspipe_triton") for name in by_name)
    counts = launches.summary(by_name)
    assert counts["total"] == counts["triton"] + counts["torch"] == sum(by_name.values())
    assert counts["triton"] == sum(count for name, count in by_name.items() if name in launch.KERNELS)


def test_a_summary_counts_the_trace_inside_the_mark() -> None:
    def event(kind: str, name: str, start: float, duration: float = 1.0) -> dict[str, Any]:
        return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": duration}

    events = [
        {"ph": "M", "name": "process_name"},
        event("user_annotation", MARK, 100, 50),
        event("gpu_user_annotation", MARK, 105, 60),
        event("cuda_runtime", "cudaGraphLaunch", 110),
        event("cuda_runtime", "cudaDeviceSynchronize", 160),  # the profiler's own, after the mark
        *(event("kernel", "a", start, 2.0) for start in (120, 130, 140, 170)),
        *(event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", start) for start in (125, 175)),
    ]
    summary = summarise(events, 2)
    assert (summary["nodes"], summary["waits"], summary["to_host"]) == (3, [], 0)
    assert summary["kernels"]["a"] == {"count": 2, "microseconds": 4}
    assert summary["device_seconds"] == pytest.approx(5e-6)
    waits = [event("cuda_runtime", "cudaStreamSynchronize", 149), event("gpu_memcpy", "Memcpy DtoH (...)", 180)]
    summary = summarise([*events, *waits], 2)
    assert (summary["nodes"], summary["waits"], summary["to_host"]) == (None, ["cudaStreamSynchronize"], 1)


def test_the_floor_of_an_iteration_sums_its_operations() -> None:
    least = [work(name, TINY) for name in PARTS["tgn"][0]]
    size, flops = iteration_work("tgn", TINY, parameters=10)
    assert size == sum(each.bytes + each.backward_bytes for each in least) + 10 * 7 * 4
    assert flops == sum(each.flops + each.backward_flops for each in least)
    # JODIE updates only the roots, and reads no neighbours.
    assert iteration_work("jodie", TINY, 10)[1] < work("memory_rnn", TINY).flops * 2 + work("link_loss", TINY).flops * 3
    assert iteration_work("apan", TINY, 10)[0] > iteration_work("apan", TINY, 0)[0] > 0


def test_a_random_stream_has_the_sizes_of_its_shape() -> None:
    stream = random_stream("TINY", True)
    assert (len(stream), stream.dim_edge, stream.num_nodes) == (TINY.events, TINY.features, TINY.nodes)
    assert bool((stream.t.diff() >= 0).all())


def test_the_stages_in_order_equal_a_step() -> None:
    stream, losses = random_stream("TINY", True), []
    for by_stage in (True, False):
        steps = resident(stream, "cpu", 40, model_arguments("apan", TINY), WAYS["launched"]).training()
        count, stages = steps.start(0, 120, 1), Parts(steps).by_name().values()
        for _ in range(count):
            for run in stages if by_stage else [steps.step]:
                run()
        losses.append(steps.losses[:count].clone())
    assert torch.equal(*losses)
    assert losses[0].isfinite().all()


def row(size: int, milliseconds: float) -> dict[str, Any]:
    return {
        "stream": "WIKI", "model": "tgn", "precision": "tf32", "batch_size": size, "events": size, "bytes": 1e6,
        "flops": 1e6, "seconds": {"p50": 1e-3 * milliseconds},
    }  # fmt: skip


def test_targets_are_compared_with_the_measured_values() -> None:
    ceilings = {"device": "a GPU", "threads": 1, "bytes_per_s": 1e12, "flops_per_s": {"tf32": 1e14}}
    measured = {
        "roofline": ceilings, "steps": [row(600, 0.19), row(4000, 0.6)], "pyg": [{"batch_size": 600, "ratio": 50.0}],
        "profiles": [{"model": "tgn", "batch_size": 600, "nodes": 41}],
    }  # fmt: skip
    report = complete({"measured": measured})
    assert [target["met"] for target in report["targets"]] == [True, False, True, False]
    assert report["targets"][1]["measured"] == pytest.approx(4000 / 0.6e-3)
    assert report["measured"]["steps"][0]["share_of_floor"] == pytest.approx(1e-6 / 0.19e-3)
    assert all(target["met"] is target["measured"] is None for target in targets({}))
