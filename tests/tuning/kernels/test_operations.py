"""Recorded calls: the calls of a training iteration, independent copies, and the gate before timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.kernels import gather_rows, memory_gru, patch_rows, sample_recent
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.launch import KERNELS, Config, Kernel
from mspipe_triton.tuning.kernels.calls import Call, duplicate
from mspipe_triton.tuning.kernels.gate import gate
from mspipe_triton.tuning.kernels.operations import record_calls, seconds

pytestmark = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    launch.use_triton(True)
    yield
    launch.use_triton(None)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def updating(nodes: int = 5, dim: int = 3, tables: torch.dtype = torch.float32, variant: str | None = None) -> Call:
    """Return a memory update in training, on tables with a gap of two numbers between rows."""
    weights = [normal(3 * dim, 2 * dim + 3, seed=1), normal(3 * dim, dim, seed=2), normal(3 * dim), normal(3 * dim)]
    padded = normal(nodes + 2, dim + 2, seed=3).to(tables)[:, :dim]
    rows = torch.arange(nodes)
    (call,) = record_calls(
        lambda: memory_gru(
            padded, rows, padded, rows, normal(nodes, 1), None, normal(nodes).abs(), rows % 2 == 0,
            normal(2), normal(2), *(weight.requires_grad_() for weight in weights), variant=variant,
        )
    )  # fmt: skip
    return call


def sampling(roots: int = 4) -> Call:
    node = torch.arange(roots) % 2
    graph = torch.tensor([0, 3, 6]), torch.tensor([1, 1, 1, 0, 0, 0]), torch.arange(6), torch.arange(6) % 3
    (call,) = record_calls(lambda: sample_recent(*graph, node, torch.full((roots,), 2), 2, torch.float32))
    return call


def patching() -> Call:
    stale, fresh = [normal(3, 2), torch.arange(3.0)], [normal(2, 2, seed=1), torch.tensor([7.0, 8.0])]
    (call,) = record_calls(lambda: patch_rows(stale, torch.tensor([4, 5, 6]), fresh, torch.tensor([6, 4])))
    return call


def gathering(table: torch.Tensor) -> Call:
    (call,) = record_calls(lambda: gather_rows(table, torch.arange(3)))
    return call


def after(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Kernel, tuple[Any, ...]], None]) -> None:
    """Change a kernel's arguments with `change` after it has run."""
    run = Kernel.launch

    def faulty_launch(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        run(kernel, grid, config, *arguments, **constants)
        if kernel.name == name:
            change(kernel, arguments)

    monkeypatch.setattr(Kernel, "launch", faulty_launch)


@pytest.mark.slow
def test_recording_a_training_iteration() -> None:
    stream = synthetic_stream(SyntheticConfig(events=60, users=8, items=10, edge_features=2, seed=1))
    model = ModelConfig(model="tgn", dim=6, heads=2, fanout=2)
    launch.use_triton(None)  # it weights the features of many pairs, for which the interpreter takes long
    session = Session.create(RunConfig(model=model, train=TrainConfig(batch_size=2)), stream)
    launch.use_triton(True)
    items = batches(0, 4, 2, session.negatives, Purpose.TRAIN_NEGATIVES, 1)
    calls = record_calls(lambda: list(in_turn(Stages(session).training(), items)))
    assert {call.name for call in calls} == {
        "sample_recent", "unique_nodes", "memory_gru", "memory_gru_backward", "attention_layer",
        "attention_layer_backward", "pair_features", "link_loss", "link_loss_backward", "aggregate_messages",
    }  # fmt: skip
    assert {call.name: call.backward for call in calls}["memory_gru_backward"]
    for name in ("sample_recent", "memory_gru", "aggregate_messages"):
        assert sum(call.times for call in calls if call.name == name) == 2
    last = {call.name: call for call in calls}
    assert last["sample_recent"].arguments["root_times"][0] == session.stream.t[2]
    assert last["memory_gru"].leaves == ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    assert {"table", "query_weight", "norm_bias"} <= set(last["attention_layer"].leaves)
    assert "frequency" not in last["attention_layer"].leaves
    assert last["aggregate_messages"].mutated[:2] == ("memory", "memory_time")
    assert not last["aggregate_messages"].leaves
    kernels = {entry.kernel.name for entry in last["memory_gru"].launches(whole=True)}
    assert {"fused_gru_kernel", "weights_backward_kernel"} <= kernels
    assert "weights_backward_kernel" not in {entry.kernel.name for entry in last["memory_gru"].launches()}
    assert all(gate(last[name]) is None for name in ("memory_gru", "attention_layer", "link_loss"))
    assert gate(last["aggregate_messages"]) is None


def test_calls_that_run_as_references_are_not_recorded() -> None:
    launch.use_triton(None)
    assert record_calls(lambda: gather_rows(normal(4, 2), torch.tensor([1]))) == []


def test_the_last_of_equal_calls_is_recorded() -> None:
    table = normal(9, 2)

    def run() -> None:
        for count in (5, 6, 7, 8):
            gather_rows(table, torch.arange(count))
        gather_rows(table[:, :1], torch.arange(4))
        gather_rows(table.double(), torch.arange(4))

    rows = [(call.times, call.arguments["rows"].numel()) for call in record_calls(run)]
    assert rows == [(3, 7), (1, 8), (1, 4), (1, 4)]


def test_a_recorded_call_keeps_its_arguments() -> None:
    table, rows = normal(6, 5)[:, 1:4], torch.tensor([0, 3])
    original = table.clone()
    first, second = record_calls(lambda: (gather_rows(table, rows), gather_rows(table, torch.arange(4))))
    assert first.arguments["table"] is second.arguments["table"], "an unchanged table is copied once"
    table.zero_()
    assert torch.equal(first.arguments["table"], original)
    assert first.arguments["table"].stride() == table.stride()
    assert torch.equal(first.run()["output 0"], original[rows])
    changed = record_calls(lambda: (gather_rows(table, rows), table.add_(1), gather_rows(table, torch.arange(4))))
    assert [float(call.arguments["table"].sum()) for call in changed] == [0.0, 18.0]


def test_a_mutating_call_runs_on_copies() -> None:
    call = patching()
    stale = [tensor.clone() for tensor in call.arguments["stale"]]
    first, second, step = call.run(), call.run(), call.step()
    step()
    assert first.keys() == {"stale 0", "stale 1"}
    assert first["stale 1"].tolist() == [8.0, 1.0, 7.0]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(argument, before) for argument, before in zip(call.arguments["stale"], stale, strict=True))


@pytest.mark.parametrize("view", [normal(4, 6)[:, 1:4], normal(4, 3).t(), normal(3, 1).expand(3, 4), normal(0, 3)])
def test_a_copy_has_the_same_strides_and_alignment(view: torch.Tensor) -> None:
    copy = duplicate(view)
    assert torch.equal(copy, view)
    assert copy.stride() == view.stride()
    assert not view.numel() or copy.data_ptr() % 16 == view.data_ptr() % 16
    assert not view.numel() or copy.data_ptr() != view.data_ptr()


def test_the_truth_is_in_float64() -> None:
    sample, update = sampling(), updating(tables=torch.bfloat16)
    assert sample.reference()["output 2"].dtype == torch.float32
    assert sample.truth()["output 2"].dtype == torch.float64
    assert sample.truth()["output 0"].dtype == torch.int64
    names = {"output 0", *(f"d_{name}" for name in update.leaves)}
    assert update.run().keys() == update.reference().keys() == update.truth().keys() == names
    assert {value.dtype for value in update.truth().values()} == {torch.float64}
    assert {value.dtype for value in update.reference().values()} == {torch.float32}


@pytest.mark.parametrize("call", ["updating", "split", "bfloat16", "sampling", "patching"])
def test_shipped_kernels_pass_the_gate(call: str) -> None:
    make = {
        "updating": updating, "split": lambda: updating(variant="split"), "sampling": sampling, "patching": patching,
        "bfloat16": lambda: updating(tables=torch.bfloat16),
    }[call]  # fmt: skip
    assert gate(make()) is None


@pytest.mark.parametrize(("name", "place"), [("weights_backward_kernel", 4), ("gates_backward_kernel", 6)])
def test_a_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, place: int) -> None:
    after(monkeypatch, name, lambda kernel, arguments: arguments[place].mul_(1 + 1e-4))
    reason = gate(updating())
    assert reason is not None
    assert reason.startswith("memory_gru: d_weight")
    assert "is allowed" in reason


def test_a_wrong_integer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    after(monkeypatch, "recent_kernel", lambda kernel, arguments: arguments[9][:1].add_(1))
    assert gate(sampling()) == "sample_recent: output 3 is off by 1, where 0 is allowed"


def test_a_wrong_table_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    after(monkeypatch, "patch_kernel", lambda kernel, arguments: arguments[2][1][:1].add_(1e-5))
    assert (gate(patching()) or "").startswith("patch_rows: stale 1 is off by")


@pytest.mark.parametrize("name", ["recent_kernel", "fused_gru_kernel", "sum_parts_kernel", "gather_kernel"])
def test_unwritten_outputs_are_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Even if the memory happens to have the right numbers, here zeros."""
    run = Kernel.launch

    def faulty_launch(kernel: Kernel, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        if kernel.name != name:
            run(kernel, grid, config, *arguments, **constants)

    calls = {"recent_kernel": sampling, "gather_kernel": lambda: gathering(torch.zeros(3, 2))}
    call = calls.get(name, updating)()
    assert call.expected
    monkeypatch.setattr(Kernel, "launch", faulty_launch)
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    assert "is off by" in (gate(call) or "")


def test_a_result_that_changes_from_run_to_run_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last bit, which the tolerance allows where numbers are rounded."""
    runs: list[int] = []
    call = sampling()

    def drift(kernel: Kernel, arguments: tuple[Any, ...]) -> None:
        runs.append(1)
        arguments[8].mul_(1 + 2.0**-23 * (len(runs) == 3))

    after(monkeypatch, "recent_kernel", drift)
    assert gate(call) == "sample_recent: output 2 changes from run to run"


def test_a_wrong_last_bit_of_a_copy_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    after(monkeypatch, "gather_kernel", lambda kernel, arguments: arguments[2].mul_(1 + 2.0**-23))
    assert "is off by" in (gate(gathering(torch.full((3, 2), 1.5))) or "")


def test_a_result_of_another_dtype_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    call = sampling()
    wider = {name: value.double() if value.is_floating_point() else value for name, value in call.reference().items()}
    monkeypatch.setattr(Call, "run", lambda self: wider)
    assert gate(call) == "sample_recent: output 2 is torch.float64 [4, 2], unlike the result of torch"


def test_a_call_is_timed_alone() -> None:
    call, before = patching(), dict(KERNELS["patch_kernel"].chosen)
    assert 0 < seconds(call) < 10
    assert KERNELS["patch_kernel"].chosen == before
