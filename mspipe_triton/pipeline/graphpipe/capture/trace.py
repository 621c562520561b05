"""Traces of modules: `torch.export` with a batch of a certain size, as steps of which some are state and inputs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves, tree_map

from mspipe_triton.errors import GraphError, first_line


@dataclass(frozen=True)
class Trace:
    """A module's operations on a batch.

    Args:
        batch: samples.
        root: holds the graph.
        nodes: the operations, in topological order.
        state: parameters, buffers and constants, by placeholder.
        names: the names of the state, by placeholder.
        inputs: the module's inputs, by placeholder.
        outputs: the operations whose results the module returns.
    """

    batch: int
    root: fx.GraphModule
    nodes: tuple[fx.Node, ...]
    state: Mapping[fx.Node, Tensor]
    names: Mapping[fx.Node, str]
    inputs: Mapping[fx.Node, Any]
    outputs: frozenset[fx.Node]

    def trained(self, node: fx.Node) -> bool:
        """Return True if a placeholder is a parameter that is trained."""
        return is_trained(self.state.get(node))


def is_trained(value: Tensor | None) -> bool:
    """Return True if a tensor of a module's state is a parameter that is trained."""
    return isinstance(value, nn.Parameter) and value.requires_grad


def samples(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Return the number of samples in example inputs.

    Raises:
        GraphError: there are none, or the first dimensions of tensors differ.
    """
    tensors = [each for each in tree_leaves((args, dict(kwargs))) if isinstance(each, Tensor)]
    sizes = {each.shape[0] if each.ndim else 0 for each in tensors}
    if len(sizes) != 1 or 0 in sizes:
        shapes = ", ".join(str(tuple(each.shape)) for each in tensors) or "no tensors"
        raise GraphError(
            f"the inputs have shapes {shapes}; their first dimension must be the number of samples, the same for all "
            "and above 0 (a tensor without samples, such as a mask, can be a buffer of the module)"
        )
    return sizes.pop()


def trace(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int) -> Trace:
    """Trace a module on its example inputs, repeated to a batch.

    Raises:
        GraphError: torch cannot export it, for instance because its control flow depends on data.
    """

    def resized(value: Any) -> Any:
        return torch.cat([value] * -(-batch // len(value)))[:batch] if isinstance(value, Tensor) else value

    args, kwargs = tree_map(resized, args), {name: tree_map(resized, each) for name, each in kwargs.items()}
    try:
        with _quiet():
            program = torch.export.export(module, args, kwargs, strict=False)
    except Exception as error:
        if type(error).__module__.startswith("torch"):
            raise GraphError(
                f"torch.export cannot capture {type(module).__name__}: {first_line(error)}; "
                "the operations of a model must not depend on the values of its inputs"
            ) from error
        raise GraphError(
            f"{type(module).__name__}'s forward pass raised {first_line(error)}; fix it, or the example inputs"
        ) from error
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    state: dict[fx.Node, Tensor] = {}
    names: dict[fx.Node, str] = {}
    inputs: list[fx.Node] = []
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        else:
            names[node] = spec.target or node.name
            value = program.state_dict.get(names[node], program.constants.get(names[node]))
            if not isinstance(value, Tensor):
                raise GraphError(f"{names[node]} is of type {type(value).__name__}; a model's state must be tensors")
            state[node] = value
    return Trace(
        batch,
        program.graph_module,
        tuple(node for node in program.graph.nodes if node.op == "call_function"),
        state,
        names,
        dict(zip(inputs, tree_leaves((args, kwargs)), strict=True)),
        frozenset(program.graph.output_node().all_input_nodes) - set(placeholders.values()),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch warns, logs and prints while it exports; the error that it raises says enough."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
