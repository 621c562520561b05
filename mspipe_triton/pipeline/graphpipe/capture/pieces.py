"""Pieces of a trace, one per operator, and the values that pass between them as they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from mspipe_triton.errors import GraphError, first_line
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace, is_trained


@dataclass(frozen=True)
class Piece:
    """Operations of a trace as a module of their own.

    Args:
        name: the operator's.
        module: takes the values of `entries` and returns those of `exits`.
        entries: state, inputs and results of other pieces.
        exits: operations whose results other pieces use or the model returns.
        sent: those among them that other pieces use.
    """

    name: str
    module: fx.GraphModule
    entries: tuple[fx.Node, ...]
    exits: tuple[fx.Node, ...]
    sent: tuple[fx.Node, ...]


def cut(trace: Trace, names: Sequence[str], groups: Sequence[Sequence[int]]) -> list[Piece]:
    """Cut a trace into pieces.

    Args:
        trace: the trace.
        names: the operators'.
        groups: indices of the operations of every piece; an operation in several is computed by each of them, for
            itself.
    """
    uses: dict[fx.Node, int] = {}
    for each in groups:
        for index in each:
            uses[trace.nodes[index]] = uses.get(trace.nodes[index], 0) + 1
    pieces = []
    for name, each in zip(names, groups, strict=True):
        nodes = [trace.nodes[index] for index in each]
        inside = set(nodes)
        computed = [node for node in nodes if uses[node] == 1]
        sent = [node for node in computed if any(user in uses and user not in inside for user in node.users)]
        exits = [node for node in computed if node in trace.outputs or node in sent]
        graph, copies, entries = fx.Graph(), dict[fx.Node, fx.Node](), list[fx.Node]()
        for source in (source for node in nodes for source in node.all_input_nodes):
            if source not in copies and source not in inside:
                if source.op == "get_attr":
                    copies[source] = graph.node_copy(source)
                else:
                    copies[source] = graph.placeholder(source.name)
                    entries.append(source)
        for node in nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in exits))
        pieces.append(Piece(name, fx.GraphModule(trace.root, graph), tuple(entries), tuple(exits), tuple(sent)))
    return pieces


class Values:
    """Values of a trace's state, inputs and results, while its pieces run one after the other."""

    def __init__(
        self,
        state: Mapping[fx.Node, Tensor],
        inputs: Mapping[fx.Node, Any],
        pieces: Sequence[Piece],
        convert: Callable[[Tensor], Tensor],
    ) -> None:
        self.state = state
        self.values: dict[fx.Node, Any] = {
            node: convert(value).requires_grad_(is_trained(value)) for node, value in state.items()
        }
        for node, value in inputs.items():
            self.values[node] = convert(value) if isinstance(value, Tensor) else value
        self.last = {node: piece for piece in pieces for node in piece.entries if node not in state}

    def arguments(self, piece: Piece) -> tuple[list[Any], list[Tensor]]:
        """Return the arguments of a piece, and the tensors that need gradients.

        Apart from the state, arguments are copies, so that the piece can change them in place, and holds them alone.
        """
        arguments: list[Any] = []
        leaves: list[Tensor] = []

        def copied(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            leaf = _leaf(value)
            leaves.extend([leaf] * leaf.requires_grad)
            return leaf.clone()

        for node in piece.entries:
            value = self.values[node]
            if node in self.state:
                arguments.append(value)
                leaves.extend([value] * value.requires_grad)
            else:
                arguments.append(tree_map(copied, value))
        return arguments, leaves

    def store(self, piece: Piece, results: Sequence[Any]) -> None:
        """Store the results of a piece, and drop what no later piece uses."""
        for node, result in zip(piece.exits, results, strict=True):
            if node in self.last:
                self.values[node] = tree_map(_leaf, result)
        for node in piece.entries:
            if self.last.get(node) is piece:
                del self.values[node]


def _leaf(value: Any) -> Any:
    """Return a tensor without its history, which needs a gradient if it did."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def functions(module: fx.GraphModule) -> Iterator[Any]:
    """Yield the functions that a graph calls, with those of its parts that run without gradients."""
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            yield from (node.target for node in part.graph.nodes if node.op == "call_function")


def changes(function: Any) -> bool:
    """Return True if a function changes a tensor in place."""
    schema = getattr(function, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def draws(function: Any) -> bool:
    """Return True if a function draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(function, "tags", ())


@contextmanager
def running(name: str) -> Iterator[None]:
    """Name the operator that fails when it runs.

    Raises:
        GraphError: it fails.
    """
    try:
        yield
    except Exception as error:
        raise GraphError(
            f"operator {name!r} cannot run by itself ({first_line(error)}); shapes must not depend on the values of "
            "the inputs, and the inputs must be small enough for the device"
        ) from error
