"""Operations that share a tensor which one of them changes in place, without an edge of the graph that says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from mspipe_triton.pipeline.graphpipe.capture.trace import Trace


def entangled(trace: Trace, values: Mapping[fx.Node, Any]) -> dict[fx.Node, frozenset[str]]:
    """Return, by operation, names of changed tensors that tie it to others.

    A change in place is harmless if all that is computed from the tensor afterwards uses the result of the change, as
    after an activation in place. A view that is written, or a tensor that is read before it changes, has no such edge.
    Then everything that uses the tensor's memory has to run in one piece.

    Args:
        trace: of the module. What happens to its state is not looked at.
        values: of every node, on tensors whose memory stays alive.
    """
    places: dict[fx.Node, set[int]] = {}
    for node, value in values.items():
        tensors = (each for each in tree_leaves(value) if isinstance(each, Tensor) and each.layout == torch.strided)
        places[node] = {each.untyped_storage()._cdata for each in tensors}
    state = {place for node in trace.state for place in places[node]}
    inputs = {place for node in trace.inputs for place in places[node]}
    changes: dict[int, set[fx.Node]] = defaultdict(set)
    readers: dict[int, set[fx.Node]] = defaultdict(set)
    seen: dict[fx.Node, dict[int, set[fx.Node]]] = defaultdict(dict)
    names: dict[int, str] = {}
    users: dict[int, list[fx.Node]] = defaultdict(list)
    for node in trace.nodes:
        written = {place for each in _written(node) for place in places[each]} - state
        for place in {place for each in (node, *node.all_input_nodes) for place in places[each]} - state:
            sources = [each for each in node.all_input_nodes if place in places[each]]
            through = set[fx.Node]().union(*(seen[each].get(place, ()) for each in sources))
            hidden = bool(sources) and not changes[place] <= through
            early = place in written and place not in inputs and bool(readers[place] - {node})
            if hidden or early:
                names.setdefault(place, f"{node.name}, changed in place")
            if place in written:
                changes[place].add(node)
                through = through | {node}
            elif place not in places[node]:
                readers[place].add(node)
            seen[node][place] = through
            users[place].append(node)
    result: dict[fx.Node, set[str]] = defaultdict(set)
    for place, name in names.items():
        for node in users[place]:
            result[node].add(name)
    return {node: frozenset(each) for node, each in result.items()}


def _written(node: fx.Node) -> list[fx.Node]:
    """Return the arguments that an operation changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    result: list[fx.Node] = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            result += [each for each in tree_leaves(value) if isinstance(each, fx.Node)]
    return result
