"""Inputs of the benchmarks, arithmetic of least work and ceilings, and the gate before timing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.cases.random_batch import GDELT, REDDIT, SHAPES, TINY, WIKI, first_occurrence, random_batch
from bench.cases.registry import OPERATIONS, build, measured, work
from bench.gpu.measures.kernel_timings import with_rates
from bench.roofline import Roofline, matmul_precision, measure, precision_of
from bench.timing import replicas, samples, summary
from bench.variants import callee, failures, judge, outcome, poisoned, step, variant
from mspipe_triton.tuning.kernels.gate import JUNK

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    with variant("eager"):
        yield


def test_nodes_repeat_as_in_the_real_stream() -> None:
    sizes = measured(WIKI[1])
    assert sizes["slots"] == 19_800
    assert sizes["distinct"] == pytest.approx(1680, rel=0.03)


def test_nine_shapes_have_distinct_names() -> None:
    assert [shape.batch for shape in WIKI] == [shape.batch for shape in GDELT] == [200, 600, 4000]
    assert {shape.features for shape in (*WIKI, *REDDIT)} == {172}
    assert len({str(shape) for shape in SHAPES}) == 9


def test_distinct_nodes_are_numbered_by_first_occurrence() -> None:
    random = torch.Generator().manual_seed(0)
    nodes = torch.randint(-1, 30, (200,), generator=random)
    order = list(dict.fromkeys(node for node in nodes.tolist() if node >= 0))
    ids, inverse = first_occurrence(nodes)
    assert ids.tolist() == order
    assert inverse.tolist() == [order.index(node) if node >= 0 else 0 for node in nodes.tolist()]


def test_a_root_has_only_earlier_neighbours() -> None:
    batch = random_batch(TINY)
    filled = torch.arange(TINY.fanout) < batch.counts[:, None]
    assert bool((batch.deltas[filled] > 0).all())
    assert batch.filled == int(filled.sum()) > 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_inputs_depend_only_on_the_seed(name: str) -> None:
    first, again, other = (build(name, TINY, seed=seed) for seed in (0, 0, 1))

    def flat(arguments: dict[str, Any]) -> list[torch.Tensor]:
        values = [item for value in arguments.values() for item in (value if isinstance(value, list) else [value])]
        return [value.double().flatten() for value in values if isinstance(value, torch.Tensor)]

    assert torch.equal(torch.cat(flat(first)), torch.cat(flat(again)))
    assert not torch.equal(torch.cat(flat(first))[:500], torch.cat(flat(other))[:500])


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_passes_its_own_gate_and_runs_forward_and_backward(name: str) -> None:
    operation, arguments = OPERATIONS[name], build(name, TINY, table_dtype=torch.bfloat16, padding=3)
    oracle = judge(operation, arguments)
    errors = oracle(outcome(operation, callee(operation, "eager"), arguments, oracle.grads))
    assert errors
    assert not failures(errors)
    assert {f"d_{leaf}" for leaf in operation.leaves} <= errors.keys()
    for grads in (None, oracle.grads) if operation.trained else (None,):
        step(operation, callee(operation, "eager"), arguments, grads)()


def test_least_work_of_the_gru_is_its_products() -> None:
    nodes, dim = measured(TINY)["distinct"], TINY.dim
    width = 2 * dim + TINY.features + TINY.times
    with FlopCounterMode(display=False) as counter:
        torch.empty(nodes, width) @ torch.empty(width, 3 * dim)  # r, z, n; the hidden part of r and z is inside
        torch.empty(nodes, dim) @ torch.empty(dim, dim)  # n's hidden part
    assert work("memory_gru", TINY).flops == counter.get_total_flops()


def test_least_work_of_the_rnn_is_its_one_product() -> None:
    nodes, dim = measured(TINY)["distinct"], TINY.dim
    width = 2 * dim + TINY.features + TINY.times
    with FlopCounterMode(display=False) as counter:
        torch.empty(nodes, width) @ torch.empty(width, dim)
    least = work("memory_rnn", TINY)
    assert least.flops == least.backward_flops == counter.get_total_flops()
    assert least.bytes < work("memory_gru", TINY).bytes


def test_least_work_of_attention_is_two_products_per_filled_slot() -> None:
    width, heads = TINY.dim + TINY.features + TINY.times, 2
    with FlopCounterMode(display=False) as counter:
        for _ in range(2):
            torch.empty(heads, width) @ torch.empty(width, measured(TINY)["filled"])
    assert work("temporal_attention", TINY).flops == counter.get_total_flops()


def test_least_work_of_the_link_loss_is_one_product_per_row_and_two_backward() -> None:
    rows, dim = 3 * TINY.batch, TINY.dim
    with FlopCounterMode(display=False) as counter:
        torch.empty(rows, dim) @ torch.empty(dim, dim)
    least = work("link_loss", TINY)
    assert least.flops == counter.get_total_flops()
    assert least.backward_flops == 2 * least.flops  # gradients of the row and of the weight


def test_features_of_pairs_have_one_product_and_one_backward() -> None:
    features = build("link_loss-pairs", TINY)["pairs"].shape[-1]
    with FlopCounterMode(display=False) as counter:
        torch.empty(2 * TINY.batch, features) @ torch.empty(features, TINY.dim)
    plain, pairs = work("link_loss", TINY), work("link_loss-pairs", TINY)
    assert pairs.flops - plain.flops == counter.get_total_flops()
    assert pairs.backward_flops - plain.backward_flops == counter.get_total_flops()  # features have no gradient


def test_least_work_counts_reads_and_writes() -> None:
    sizes = measured(TINY)
    assert work("unique_nodes", TINY).bytes == 8 * (3 * sizes["slots"] + 2 * sizes["distinct"])
    assert work("memory_gru", TINY, dtype=torch.float64).bytes > work("memory_gru", TINY).bytes
    assert work("memory_gru", TINY, table_dtype=torch.bfloat16).bytes < work("memory_gru", TINY).bytes
    assert all(work(name, WIKI[1]).bytes > work(name, WIKI[0]).bytes for name in OPERATIONS)


def test_a_floor_is_the_largest_term() -> None:
    ceilings = Roofline("a GPU", 1, 4e12, {"float32": 5e13, "tf32": 4e14}, 2e-6)
    by_bytes, by_flops, by_launch = ceilings.floor(4e9, 1e9), ceilings.floor(4e6, 5e10), ceilings.floor(4e3, 5e3)
    assert (by_bytes.seconds, by_bytes.bound) == (pytest.approx(1e-3), "bytes")
    assert (by_flops.seconds, by_flops.bound) == (pytest.approx(1e-3), "flops")
    assert (by_launch.seconds, by_launch.bound) == (2e-6, "launch")
    assert ceilings.floor(0, 4e12, "tf32").seconds == pytest.approx(1e-2)
    assert Roofline(**json.loads(json.dumps(ceilings.as_json()))) == ceilings


def test_rates_and_share_of_the_floor() -> None:
    row = {"seconds": {"p50": 2e-3}, "bytes": 4e9, "flops": 2e9, "events": 600, "precision": "float32"}
    rates = with_rates(row, Roofline("a GPU", 1, 4e12, {"float32": 5e13}))
    assert rates["gb_per_s"] == pytest.approx(2000)
    assert rates["tflop_per_s"] == pytest.approx(1)
    assert rates["events_per_s"] == pytest.approx(300_000)
    assert rates["share_of_floor"] == pytest.approx(0.5)
    assert with_rates({"skipped": "why"}, Roofline("a GPU", 1, 1, {})) == {"skipped": "why"}


def test_a_cpu_has_ceilings() -> None:
    ceilings = measure(CPU, quick=True)
    assert ceilings.launch_seconds == 0
    assert min(ceilings.bytes_per_s, *ceilings.flops_per_s.values()) > 0
    with matmul_precision("high"):
        assert precision_of(torch.float32) == "tf32"
    assert precision_of(torch.float32) == "float32"


def test_samples_and_their_summary() -> None:
    calls: list[int] = []
    durations = samples(lambda: calls.append(1), CPU, seconds=0.0, least=7)
    assert len(durations) == 7
    row = summary([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (row["p20"], row["p50"], row["p80"], row["rounds"]) == (2.0, 3.0, 5.0, 5)


def test_inputs_are_repeated_until_the_cache_is_too_small() -> None:
    arguments = {"table": torch.empty(1000, dtype=torch.float32)}
    assert replicas(arguments, traffic=1000, cache=5000, room=10**9) == 15
    assert replicas(arguments, traffic=1, cache=5000, room=10**9) == 64
    assert replicas(arguments, traffic=10**6, cache=5000, room=10**9) == 8
    assert replicas(arguments, traffic=1000, cache=5000, room=8000) == 2


def test_poison_fills_empty_tensors() -> None:
    with poisoned():
        tensors = torch.empty(3), torch.empty_like(torch.ones(3, dtype=torch.int64)), torch.ones(1).new_empty(3)
    assert bool(tensors[0].isnan().all())
    assert tensors[1].tolist() == [JUNK] * 3
    assert bool(tensors[2].isnan().all())
    assert torch.empty is not None
    assert "filling" not in torch.empty.__qualname__
