"""Losses of a pipelined run: which results of a stage they are, and what each adds to the gradient of a mini-batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose, isfinite
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

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
    eps = max(torch.finfo(each.leaves[0].dtype).eps for each in values)
    for several in (*zip(*weights, strict=True), constants):
        if not all(
            isclose(each, several[0], rel_tol=max(1e-4, 4 * eps), abs_tol=max(1e-6, 10 * eps)) for each in several
        ):
            raise wrong
    return weights[0], constants[0]


def is_sum(traces: tuple[Trace, Trace], pieces: tuple[Piece, Piece], name: str) -> bool:
    """Return True if a loss is a sum over the samples instead of a mean.

    Of equal samples, a sum is proportional to their number, and a mean does not change. A loss that does neither may
    compare samples; then it is no mean of the losses of its parts. Random numbers are all the same. Results of other
    stages are numbers from 0 to 1; a loss that fails on them counts as a mean.

    Args:
        traces: of the module, with two numbers of samples.
        pieces: of the stage, from both.
        name: of the result of the first piece that is the loss.

    Raises:
        GraphError: it is 0 whatever the samples, which tells nothing, or a sum over the samples and a term that is no
            such sum.
    """
    place = [node.name for node in pieces[0].exits].index(name)

    def loss(which: int, others: int = 0) -> float:
        trace, piece, twin = traces[which], pieces[which], pieces[1 - which]
        generator = torch.Generator().manual_seed(0)
        arguments = [
            _argument(trace, node, other, others, generator)
            for node, other in zip(piece.entries, twin.entries, strict=True)
        ]
        with torch.no_grad(), torch.random.fork_rng([]), _Constant():
            return float(tree_leaves(piece.module(*arguments)[place])[0])

    try:
        few, many = loss(0), loss(1)
    except (RuntimeError, ValueError, IndexError):  # of values that the model never computes
        return False
    if few == many == 0 and loss(1, traces[1].batch // 2) == 0:
        raise GraphError(
            f"the loss {name!r} of the model's example inputs is 0, which does not tell a sum over the samples from a "
            "mean; use other example inputs"
        )
    if not isfinite(few) or not isfinite(many):
        return False
    samples = traces[1].batch
    sum_many = few * samples / traces[0].batch
    margin = abs(sum_many - few) * max(1e-3, 20 * torch.finfo(pieces[0].exits[place].meta["val"].dtype).eps)
    if abs(many - few) <= margin or abs(many - sum_many) <= margin:
        return abs(many - few) > margin
    half = samples // 2
    mixture, other = loss(1, half), loss(1, samples)
    if abs(mixture - (many * (samples - half) + other * half) / samples) <= 1e-4 * abs(many - other):
        raise GraphError(
            f"the loss {name!r} adds a sum over the samples and a term that is none, such as a penalty; in "
            "micro-batches that is another function, so return a mean over the samples instead of the sum"
        )
    return False


def _argument(trace: Trace, node: fx.Node, twin: fx.Node, others: int, generator: torch.Generator) -> Any:
    """Return an argument of a piece with equal samples, but for the last ones, which are equal to one another.

    Args:
        trace: of the piece.
        node: the argument.
        twin: the same in the trace with another number of samples, by which dimensions of samples differ.
        others: number of the last ones.
        generator: of the numbers in results of other stages.
    """
    if node in trace.state:
        return trace.state[node].detach().clone()

    def equal(value: Any, other: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        dims = [dim for dim, pair in enumerate(zip(value.shape, other.shape, strict=True)) if len({*pair}) > 1]
        if node in trace.inputs:
            one, last = value[:1], value[-1:]
        else:
            shape = [1 if dim in dims else size for dim, size in enumerate(value.shape)]
            floats = value.is_floating_point() or value.is_complex()
            one, last = (torch.rand(shape, generator=generator).mul(floats).to(value.dtype) for _ in range(2))
        result = one.expand(value.shape).clone()
        if len(dims) == 1:
            count = value.shape[dims[0]] * others // trace.batch
            result.narrow(dims[0], value.shape[dims[0]] - count, count).copy_(last)
        return result

    if node in trace.inputs:
        return equal(trace.inputs[node], twin.meta["val"])
    return tree_map(equal, node.meta["val"], twin.meta["val"])


class _Constant(TorchDispatchMode):
    """A mode in which operations that draw random numbers return constants."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            for each in tree_leaves(result):
                if isinstance(each, Tensor):
                    each.fill_(0.5 if each.is_floating_point() else 0)
        return result
