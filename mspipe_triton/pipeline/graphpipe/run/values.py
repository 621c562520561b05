"""Values that cross between stages: results of operations, and which of their dimensions numbers the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture.pieces import Piece, Values, running
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace


class Leaf(NamedTuple):
    """A tensor that crosses between stages.

    Args:
        shape: with the samples that the process has in a micro-batch.
        dtype: its type.
        gradient: True if a gradient comes back.
        dim: the dimension that numbers the samples; None if there is none.
        shared: True if it does not depend on the samples at all, such as a table of positions.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    gradient: bool
    dim: int | None
    shared: bool


@dataclass(frozen=True)
class Value:
    """A result of an operation that crosses between stages: its tensors, and how they are nested."""

    node: fx.Node
    leaves: tuple[Leaf, ...]
    spec: TreeSpec


def values_of(
    trace: Trace, other: Trace, pieces: Sequence[Piece], data: Mapping[fx.Node, bool]
) -> dict[fx.Node, Value]:
    """Return every result that leaves its piece; nothing is computed.

    The dimension of the samples is the one that differs between both traces, if its size is the number of samples.

    Args:
        trace: of the module.
        other: the same with another number of samples.
        pieces: of the trace, in topological order.
        data: of every operation, True if it depends on the module's inputs.

    Raises:
        GraphError: a piece cannot run by itself, or a result is no tensor.
    """
    twins = dict(zip(trace.nodes, other.nodes, strict=True))
    result = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.enable_grad():
        values = Values(trace.state, trace.inputs, pieces, lambda value: mode.from_tensor(value.detach()))
        for piece in pieces:
            arguments, _ = values.arguments(piece)
            with running(piece.name):
                results = piece.module(*arguments)
            values.store(piece, results)
            for node, tree in zip(piece.exits, results, strict=True):
                tensors, spec = tree_flatten(tree)
                leaves = []
                for tensor, twin in zip(tensors, tree_leaves(twins[node].meta["val"]), strict=True):
                    if not isinstance(tensor, Tensor):
                        raise GraphError(f"{node.name} of {piece.name} is no tensor, and cannot cross between stages")
                    shape, shape_twin = tuple(tensor.shape), tuple(twin.shape)
                    dims = [dim for dim, pair in enumerate(zip(shape, shape_twin, strict=True)) if len({*pair}) > 1]
                    sizes = [(shape[dim], shape_twin[dim]) for dim in dims]
                    dim = dims[0] if sizes == [(trace.batch, other.batch)] else None
                    leaves.append(Leaf(shape, tensor.dtype, tensor.requires_grad, dim, not dims and not data[node]))
                result[node] = Value(node, tuple(leaves), spec)
    return result
