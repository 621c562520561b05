"""Losses of a pipelined run: which results of a stage they are, and what each adds to the gradient of a mini-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose, isfinite
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_unflatten

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture.pieces import Piece
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace
from mspipe_triton.pipeline.graphpipe.run.values import Value

POINTS = ((0.0, 0.0), (0.75, 0.5), (-1.25, 0.25))  # first value, and step to the next one


def check_loss(model: str, value: Value) -> None:
    """Check that a result of a module is a loss.

    Raises:
        GraphError: it is not a number, or one per sample, that needs a gradient.
    """
    for leaf in value.leaves:
        scalar = leaf.shape == () or (len(leaf.shape) == 1 and leaf.dim == 0)
        if not (scalar and leaf.gradient and leaf.dtype.is_floating_point and len(value.leaves) == 1):
            raise GraphError(
                f"{model} returns a tensor of shape {leaf.shape} and type {leaf.dtype}"
                f"{'' if leaf.gradient else ', without gradient'}; to train it, return the loss: a mean over the "
                "samples, or one number per sample"
            )


def join_weights(trace: Trace, join: Piece, values: Sequence[Value]) -> tuple[list[float], float]:
    """Return the weights of a weighted sum of losses, and the constant that it adds.

    A loss is a mean over samples, so only an affine function of such means has the same value in micro-batches; its
    weights tell every stage its part, and nothing has to be exchanged.

    Args:
        trace: of the module.
        join: operations on single numbers that return the loss.
        values: the results that it uses.

    Raises:
        GraphError: it is no affine function of numbers.
    """
    wrong = GraphError(
        f"operator {join.name!r} joins losses of several branches in another way than by a weighted sum; in "
        "micro-batches that is another function, so return a weighted sum"
    )
    if any(len(each.leaves) != 1 or each.leaves[0].shape for each in values):
        raise wrong
    weights, constants = [], []
    for first, step in POINTS:
        numbers = [
            torch.tensor(first + step * place, dtype=each.leaves[0].dtype, requires_grad=True)
            for place, each in enumerate(values)
        ]
        waiting = iter(numbers)
        arguments = [trace.state.get(node, trace.inputs.get(node)) for node in join.entries]
        with torch.enable_grad():
            results = join.module(*(next(waiting) if each is None else each for each in arguments))
            total = torch.stack([each for each in tree_leaves(results) if isinstance(each, Tensor)]).sum()
        gradients = torch.autograd.grad(total, numbers, allow_unused=True)
        weights.append([0.0 if each is None else each.item() for each in gradients])
        parts = (weight * number.item() for weight, number in zip(weights[-1], numbers, strict=True))
        constants.append(total.item() - sum(parts))
    for several in (*zip(*weights, strict=True), constants):
        if not all(isclose(each, several[0], rel_tol=1e-4, abs_tol=1e-6) for each in several):
            raise wrong
    return weights[0], constants[0]


def is_sum(traces: tuple[Trace, Trace], pieces: tuple[Piece, Piece], values: Mapping[str, Value], name: str) -> bool:
    """Return True if a loss is a sum over the samples instead of a mean.

    Of equal samples, a sum is proportional to their number, and a mean does not change. Dropout is left out.

    Args:
        traces: of the module, with two numbers of samples.
        pieces: of the stage, from both.
        values: results that the piece receives, by name.
        name: of the result that is the loss.
    """
    losses = []
    for trace, piece in zip(traces, pieces, strict=True):
        generator = torch.Generator().manual_seed(0)
        arguments = []
        for node in piece.entries:
            if node in trace.state:
                arguments.append(trace.state[node].detach().clone())
            elif node in trace.inputs:
                arguments.append(_repeated(trace.inputs[node]))
            else:
                leaves = [
                    _random(leaf.shape, leaf.dtype, leaf.dim, trace.batch, generator)
                    for leaf in values[node.name].leaves
                ]
                arguments.append(tree_unflatten(leaves, values[node.name].spec))
        with torch.no_grad(), torch.random.fork_rng([]):
            results = _without_dropout(piece.module)(*arguments)
        losses.append(next(float(each) for node, each in zip(piece.exits, results, strict=True) if node.name == name))
    few, many = losses
    ratio = traces[1].batch / traces[0].batch
    return isfinite(few) and few != 0 and isclose(many, few * ratio, rel_tol=1e-3)


def _repeated(value: Any) -> Any:
    """Return an input with its first sample in place of all."""
    return value[:1].expand_as(value).clone() if isinstance(value, Tensor) else value


def _random(
    shape: Sequence[int], dtype: torch.dtype, dim: int | None, samples: int, generator: torch.Generator
) -> Tensor:
    """Return a result of another stage with equal samples, random if it is of floats."""
    one = [1 if place == dim else size for place, size in enumerate(shape)]
    many = [samples if place == dim else size for place, size in enumerate(shape)]
    if dtype.is_floating_point:
        return torch.randn(one, generator=generator).to(dtype).expand(many).clone()
    return torch.zeros(many, dtype=dtype)


def _without_dropout(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a piece that leaves out dropout."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default):
        node.args = (*node.args[:2], False)
    return fx.GraphModule(module, graph)
