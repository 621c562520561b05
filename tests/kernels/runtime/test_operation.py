"""Operations built from one signature: their names and schemas, and the direct call of the reference, which plain eager
calls on the CPU use and nothing that traces, fakes or records does."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mspipe_triton.kernels import memory_gru, unique_nodes
from mspipe_triton.kernels.runtime.operation import eager

NODES = torch.tensor([4, 2, 4, 9])


def update(weight_ih: torch.Tensor) -> torch.Tensor:
    memory, one = torch.ones(3, 2), torch.ones(1)
    return memory_gru(
        memory, None, memory, None, memory[:, :0], None, torch.ones(3), torch.ones(3, dtype=torch.bool), one, one,
        weight_ih, torch.ones(6, 2), torch.ones(6), torch.ones(6),
    )  # fmt: skip


def test_the_public_function_has_the_signature_of_its_inputs() -> None:
    parameters = inspect.signature(memory_gru).parameters
    assert [*parameters][:2] == ["memory", "memory_rows"]
    assert [parameters[name].default for name in ("empty", "count", "variant")] == ["update", None, None]
    assert inspect.signature(unique_nodes).parameters["capacity"].annotation is int
    assert (memory_gru.__name__, memory_gru.__module__) == ("memory_gru", "mspipe_triton.kernels.updaters.gru")
    assert str(memory_gru.__doc__).startswith("h(u) = GRU")
    assert pickle.loads(pickle.dumps(memory_gru)) is memory_gru
    with pytest.raises(TypeError, match=r"unique_nodes\(\) missing 1 required positional argument: 'capacity'"):
        unique_nodes(NODES)  # type: ignore[call-arg]  # the wrong call is the test


def test_schemas_name_the_inputs() -> None:
    assert str(torch.ops.mspipe_triton.unique_nodes.default._schema).endswith(
        "(Tensor nodes, SymInt capacity) -> (Tensor, Tensor, Tensor)"
    )
    forward = [entry.name for entry in torch.ops.mspipe_triton.memory_gru.default._schema.arguments]
    backward = [entry.name for entry in torch.ops.mspipe_triton.memory_gru_backward.default._schema.arguments]
    assert forward == [*inspect.signature(memory_gru).parameters, "save"]
    assert backward == [*forward[:-1], "h", "message", "joint", "hidden_n", "d_h", "needs"]
    mutated = [entry.name for entry in torch.ops.mspipe_triton.patch_rows.default._schema.arguments if entry.is_write]
    assert mutated == ["stale"]


def test_a_plain_call_is_direct_and_agrees_with_the_operation() -> None:
    assert eager(NODES)
    assert eager(torch.nn.Parameter(torch.ones(1)))
    results = torch.ops.mspipe_triton.unique_nodes(NODES, 3)
    for direct, expected in zip(unique_nodes(NODES, 3), results, strict=True):
        assert torch.equal(direct, expected)
    assert type(update(torch.ones(6, 5, requires_grad=True)).grad_fn).__name__ == "DirectBackward"


@pytest.mark.usefixtures("interpreter")
def test_kernels_are_not_bypassed() -> None:
    assert not eager(NODES)


def test_fake_tensors_call_the_operation() -> None:
    with FakeTensorMode() as mode:
        ids, inverse, count = unique_nodes(mode.from_tensor(NODES), 7)
    assert (ids.shape, inverse.shape, count.shape) == ((7,), (4,), (1,))


def test_tracing_sees_one_operation() -> None:
    graph = make_fx(lambda nodes: unique_nodes(nodes, 3))(NODES).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"].count(
        torch.ops.mspipe_triton.unique_nodes.default
    ) == 1


def test_transformed_tensors_call_the_operation() -> None:
    direct = []

    def loss(weight: torch.Tensor) -> torch.Tensor:
        direct.append(eager(weight))
        return weight.sum()

    torch.func.grad(loss)(torch.ones(3))
    assert direct == [False]


def test_a_recorded_backward_pass_is_refused() -> None:
    weight = torch.ones(6, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(update(weight).square().sum(), [weight], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()
