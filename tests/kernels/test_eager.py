"""The short way to a reference: taken by plain eager calls on the CPU, and by nothing that traces, fakes or records."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mspipe_triton.kernels import memory_gru, unique_nodes
from mspipe_triton.kernels.operation import eager

NODES = torch.tensor([4, 2, 4, 9])


def update(weight_ih: torch.Tensor) -> torch.Tensor:
    memory, one = torch.ones(3, 2), torch.ones(1)
    return memory_gru(
        memory, None, memory, None, memory[:, :0], None, torch.ones(3), torch.ones(3, dtype=torch.bool), one, one,
        weight_ih, torch.ones(6, 2), torch.ones(6), torch.ones(6),
    )  # fmt: skip


def test_a_plain_call_takes_it_and_gives_what_the_operation_gives() -> None:
    assert eager(NODES)
    assert eager(torch.nn.Parameter(torch.ones(1)))
    operation = torch.ops.mspipe_triton.unique_nodes(NODES, 3)
    for short, long in zip(unique_nodes(NODES, 3), operation, strict=True):
        assert torch.equal(short, long)
    assert type(update(torch.ones(6, 5, requires_grad=True)).grad_fn).__name__ == "DirectBackward"


@pytest.mark.usefixtures("interpreter")
def test_kernels_are_not_bypassed() -> None:
    assert not eager(NODES)


def test_fake_tensors_take_the_operation() -> None:
    with FakeTensorMode() as mode:
        ids, inverse, count = unique_nodes(mode.from_tensor(NODES), 7)
    assert (ids.shape, inverse.shape, count.shape) == ((7,), (4,), (1,))


def test_tracing_sees_one_operation() -> None:
    graph = make_fx(lambda nodes: unique_nodes(nodes, 3))(NODES).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"].count(
        torch.ops.mspipe_triton.unique_nodes.default
    ) == 1


def test_transformed_tensors_take_the_operation() -> None:
    taken = []

    def loss(weight: torch.Tensor) -> torch.Tensor:
        taken.append(eager(weight))
        return weight.sum()

    torch.func.grad(loss)(torch.ones(3))
    assert taken == [False]


def test_a_recorded_backward_pass_is_refused() -> None:
    weight = torch.ones(6, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(update(weight).square().sum(), [weight], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
