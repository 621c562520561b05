"""Joins of losses: the sum that several stages contribute to, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture.pieces import Piece
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace

if TYPE_CHECKING:
    from mspipe_triton.pipeline.graphpipe.run.program import Leaf

POINTS = ((0.0, 0.0), (0.75, 0.5), (-1.25, 0.25))  # first value, and step to the next one


def join_weights(trace: Trace, join: Piece, leaves: Sequence[Sequence[Leaf]]) -> tuple[list[float], float]:
    """Return the weights of a weighted sum of losses, and the constant that it adds.

    A loss is a mean over samples, so only an affine function of such means has the same value in micro-batches; its
    weights tell every stage its part, and nothing has to be exchanged.

    Args:
        trace: of the module.
        join: operations on single numbers that return the loss.
        leaves: the tensors of every result that it uses.

    Raises:
        GraphError: it is no affine function of numbers.
    """
    wrong = GraphError(
        f"operator {join.name!r} joins losses of several branches in another way than by a weighted sum; in "
        "micro-batches that is another function, so return a weighted sum"
    )
    if any(len(each) != 1 or each[0].shape for each in leaves):
        raise wrong
    weights, values = [], []
    for first, step in POINTS:
        numbers = [
            torch.tensor(first + step * place, dtype=each[0].dtype, requires_grad=True)
            for place, each in enumerate(leaves)
        ]
        waiting = iter(numbers)
        arguments = [trace.state.get(node, trace.inputs.get(node)) for node in join.entries]
        arguments = [next(waiting) if each is None else each for each in arguments]
        with torch.enable_grad():
            total = sum(each for each in tree_leaves(join.module(*arguments)) if isinstance(each, Tensor))
        gradients = torch.autograd.grad(total, numbers, allow_unused=True)
        weights.append([0.0 if each is None else each.item() for each in gradients])
        values.append(total.item())
    constant = values[0] - sum(w * (POINTS[0][0] + POINTS[0][1] * place) for place, w in enumerate(weights[0]))
    if any(not torch.allclose(torch.tensor(each), torch.tensor(weights[0])) for each in weights):
        raise wrong
    return weights[0], constant
