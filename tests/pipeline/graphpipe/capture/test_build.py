"""Operator graphs of modules: which operators precede which, shared and changed parameters, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture import capture
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.operators import Operator, OperatorGraph


def estimated(module: nn.Module, *args: Any, **kwargs: Any) -> OperatorGraph:
    return capture(module, args, accelerator=ACCELERATORS["h100"], **kwargs)


def uses(graph: OperatorGraph) -> dict[str, set[str]]:
    return {each.name: set(graph.names(graph.predecessors[index])) for index, each in enumerate(graph.operators)}


def operator(graph: OperatorGraph, name: str) -> Operator:
    return next(each for each in graph.operators if each.name == name)


class Branches(nn.Module):
    """Two branches of two layers each, an addition, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        self.b = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4), nn.Dropout())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        one, other = x.chunk(2, 1) if y is None else (x, y)
        return self.head((self.a(one) + self.b(other)).relu_())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
        self.end = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.block(x)
        y += x
        return self.end(F.relu(y, inplace=True))


@pytest.mark.parametrize("inputs", [(torch.ones(3, 8), torch.ones(3, 8)), (torch.ones(3, 16),)], ids=["two", "one"])
def test_branches_stay_parallel(inputs: tuple[Tensor, ...]) -> None:
    graph = estimated(Branches(), *inputs)
    assert uses(graph) == {"a.0": set(), "a.2": {"a.0"}, "b.0": set(), "b.2": {"b.0"}, "head": {"a.2", "b.2"}}
    few = estimated(Branches(), *inputs, most=1)
    assert uses(few) == {"a.0..2": set(), "b.0..2": set(), "head": {"a.0..2", "b.0..2"}}
    assert sum(each.parameters for each in few.operators) == sum(each.parameters for each in graph.operators)
    assert operator(few, "a.0..2").output == operator(graph, "a.2").output == 16


def test_a_residual_adds_no_operator_and_takes_in_place_changes() -> None:
    graph = estimated(Residual(), torch.ones(2, 4))
    assert uses(graph) == {"stem": set(), "block.0": {"stem"}, "block.2": {"stem", "block.0"}, "end": {"block.2"}}
    assert uses(estimated(Residual(), torch.ones(2, 4), most=1)) == {"stem..end": set()}


class Tied(nn.Module):
    def __init__(self, between: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.body = nn.Linear(4, 4) if between else nn.ReLU()
        self.first = nn.Linear(4, 4)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(x))) + self.first(y).sum()


def test_tied_weights() -> None:
    inputs = (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 4))
    graph = estimated(Tied(between=False), *inputs)
    assert operator(graph, "embedding..head").parameters == 160
    with pytest.raises(GraphError, match="operators 'embedding' and 'head' use the same state"):
        estimated(Tied(between=True), *inputs)


class Remembering(nn.Module):
    """Branches a and b, and layers after them. A buffer is read before a and changed after it, without gradients.

    Others may read it: b, or what follows the last layer.
    """

    last: Tensor

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.reader = reader
        self.register_buffer("last", torch.zeros(2, 4))
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x + self.last[0])
        other = self.b(x + self.last[1] if self.reader == "b" else x)
        with torch.no_grad():
            self.last[:1].copy_(one.mean(0, keepdim=True))
        result = self.d(self.c(one * other))
        return result + self.last[1] if self.reader == "end" else result


@pytest.mark.parametrize("accelerator", [ACCELERATORS["h100"], None], ids=["estimated", "measured"])
def test_operators_that_use_a_changed_buffer_are_one(accelerator: Any) -> None:
    inputs = (torch.ones(2, 4),)
    alone, shared, far = (Remembering(reader) for reader in ("a", "b", "end"))
    graph = capture(alone, inputs, accelerator=accelerator)
    assert uses(graph) == {"a": set(), "b": set(), "c": {"a", "b"}, "d": {"c"}}
    assert operator(graph, "a").parameters == 4 * (20 + 8)
    assert not alone.last.any(), "a capture leaves the module as it was"
    assert uses(capture(shared, inputs, accelerator=accelerator)) == {"a..b": set(), "c": {"a..b"}, "d": {"c"}}
    with pytest.raises(GraphError, match="operators 'a' and 'd' use the same state, 'last', which training changes"):
        capture(far, inputs, accelerator=accelerator)


def test_one_layer_on_two_inputs() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            x, y = (self.two(self.one(each).relu()) for each in (x, y))
            return (x * y).sum(1)

    graph = estimated(Twins(), torch.ones(2, 4), torch.ones(2, 4))
    assert uses(graph) == {"one": set(), "two": {"one"}}
    assert operator(graph, "one").parameters == 4 * 20
    assert operator(graph, "one").output == 2 * 16


def test_several_outputs_and_a_costless_sum_of_losses() -> None:
    class Losses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            a, b = self.a(x), self.b(x)
            return {"loss": a.square().sum() + b.square().sum(), "a": a, "more": b}

    graph = estimated(Losses(), torch.ones(2, 4))
    assert uses(graph) == {"a": set(), "b": set(), "add": {"a", "b"}}
    assert graph.names(sum(1 << each for each in graph.joins)) == ("add",)


class Keywords(nn.Module):
    """Positions, a constant mask, a changed weight, a block without gradients, and inputs by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(9, 4), nn.Embedding(6, 4)
        self.scale = nn.Parameter(torch.zeros(4))
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, *, weights: Tensor, more: Tensor) -> Tensor:
        mask = torch.ones(6, 6).tril()
        x = self.tokens(x) + self.positions(torch.arange(6))
        with torch.no_grad():
            positive = (x > 0).float()
        x = x * positive
        return mask @ self.a(x) * (1 + self.scale), mask @ self.b(x) * weights.unsqueeze(-1) + more


@pytest.mark.parametrize("accelerator", [ACCELERATORS["h100"], None], ids=["estimated", "measured"])
def test_keywords_constants_and_changed_parameters(accelerator: Any) -> None:
    kwargs = {"more": torch.ones(2, 6, 4), "weights": torch.ones(2, 6)}
    graph = capture(Keywords(), (torch.ones(2, 6, dtype=torch.int64),), kwargs, accelerator=accelerator)
    embedding = "tokens"
    assert {name: each for name, each in uses(graph).items() if name in ("tokens", "a", "b")} == {
        embedding: set(),
        "a": {embedding},
        "b": {embedding},
    }
    assert operator(graph, embedding).parameters == 4 * (36 + 24)
    assert sum(each.parameters for each in graph.operators) == 4 * (36 + 24 + 20 + 20 + 4)


def test_one_sample_and_a_module_without_parameters() -> None:
    graph = estimated(nn.ReLU(), torch.ones(1, 3))
    assert [(each.name, each.parameters, each.backward.fixed) for each in graph.operators] == [("relu", 0, 0.0)]


def test_names_differ() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x @ x.mT, y @ y.mT

    assert [each.name for each in estimated(Same(), torch.ones(2, 3, 3), torch.ones(2, 3, 3)).operators] == [
        "matmul",
        "matmul:2",
    ]


def module(forward: Callable[..., Any]) -> nn.Module:
    return type("Net", (nn.Module,), {"forward": lambda self, *args: forward(*args)})()


X = torch.ones(2, 3)
REFUSED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "branches on data": (
        lambda x: x if x.sum() > 0 else -x,
        (X,),
        "torch.export cannot capture Net: GuardOnDataDependentSymNode: Could not guard on data-dependent .*; "
        "the operations of a model must not depend on the values of its inputs",
    ),
    "raises": (
        lambda x: x @ x,
        (X,),
        "Net's forward pass raised RuntimeError: .*; fix it, or the example inputs",
    ),
    "sizes of data": (
        lambda x: x[x > 0] * 2,
        (X,),
        r"operator 'index' cannot run by itself \(DynamicOutputShapeException: aten.nonzero.default.*; .*",
    ),
    "branches on samples": (
        lambda x: x.sum(1) if len(x) > 2 else x.mean(1),
        (X,),
        "Net does other operations with 8 samples than with 2; they must not depend on the number of samples",
    ),
    "nothing": (lambda x: x, (X,), "Net does no operations; a model needs at least one"),
    "different samples": (
        torch.add,
        (X, torch.ones(1, 3)),
        re.escape("the inputs have shapes (2, 3), (1, 3); their first dimension must be the number of samples, ")
        + ".*",
    ),
    "no samples": (torch.relu, (torch.ones(0, 3),), re.escape("the inputs have shapes (0, 3); ") + ".*"),
    "a number": (torch.relu, (torch.tensor(1.0),), re.escape("the inputs have shapes (); ") + ".*"),
    "no tensors": (lambda x: x, (1,), "the inputs have shapes no tensors; .*"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_captured_is_refused_in_one_line(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    forward, args, message = REFUSED[case]
    with pytest.raises(GraphError, match=f"^{message}$") as error:
        estimated(module(forward), *args)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    assert capfd.readouterr() == ("", "")


class Written(nn.Module):
    """Two layers; their results, or activations of them, are written in place."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.a, self.b, self.head, self.views = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2), views

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        if not self.views:
            return self.head(self.b(self.a(x).relu_()).relu_())
        both = torch.zeros(len(x), 8)
        both[:, :4] = self.a(x)[:, :4]
        both[:, 4:] = self.b(x)[:, 4:]
        return self.head(both)


def test_operations_that_share_a_written_tensor_are_one_operator() -> None:
    """A layer that reads a tensor written through views has no edge from those that write."""
    assert len(estimated(Written(True), torch.randn(2, 8)).operators) == 1
    assert len(estimated(Written(False), torch.randn(2, 8)).operators) == 3
