"""Operator graphs of modules: traced, grouped into operators, with costs that are measured or estimated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture.measure import Counts, count, survey, time
from mspipe_triton.pipeline.graphpipe.capture.meter import estimate, line, size
from mspipe_triton.pipeline.graphpipe.capture.pieces import Piece, changes, cut, draws, functions
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace, samples, trace
from mspipe_triton.pipeline.graphpipe.coarsen import OPERATORS, Step, group
from mspipe_triton.pipeline.graphpipe.costs import Accelerator
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph

GROWTH = 4
INTENSITY = 100  # operations that an accelerator does while its memory moves a byte


def capture(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    accelerator: Accelerator | None = None,
    most: int = OPERATORS,
    name: str = "model",
) -> OperatorGraph:
    """Build the operator graph of a module.

    The module is traced in its present mode, training or evaluation, with its example inputs (at least two samples, the
    inputs repeated if necessary) and with four times as many. An operator's costs with both give what is fixed and what
    grows with the samples. `coarsen.group` tells what an operator is. Its activations are the tensors that autograd
    keeps, each counted once per operator, at the larger batch; parameters include buffers.

    Args:
        module: the model.
        args: arguments of its forward pass; the first dimension of every tensor is the samples.
        kwargs: the same, by keyword.
        accelerator: estimates times for this device, from operations and memory traffic of every kernel. Without it,
            times are measured where the module is.
        most: operators, unless parallel branches make more necessary.
        name: the graph's.

    Raises:
        GraphError: torch cannot export the module, its operations depend on the values or the number of samples,
            operators far apart train the same parameter or use the same changed buffer, or it does nothing.
    """
    kwargs = kwargs or {}
    smallest = smallest_batch(args, kwargs)
    batches = (smallest, GROWTH * smallest)
    traces = [trace(module, args, kwargs, batch) for batch in batches]
    check_alike(module, *traces)
    steps, groups, names = partition(traces[0], most)
    pieces = [cut(each, names, groups) for each in traces]
    counts = [count(*each) for each in zip(traces, pieces, strict=True)]
    if accelerator is None:
        passes = _measured(traces, pieces, batches)
    else:
        passes = _estimated(accelerator, names, counts, batches)
    operators = []
    for index, piece in enumerate(pieces[1]):
        forward, backward = passes[index]
        saved, sent = (ceil(each / batches[1]) for each in (counts[1][index].saved, counts[1][index].sent))
        if all(steps[each].idle for each in groups[index]):
            forward, backward, saved = Duration(), Duration(), 0
        parameters = sum(size(traces[1].state[node]) for node in piece.entries if node in traces[1].state)
        operators.append(Operator(piece.name, forward, backward, parameters, saved, sent))
    sender = {node: piece.name for piece in pieces[1] for node in piece.exits}
    uses = [(sender[node], piece.name) for piece in pieces[1] for node in piece.entries if node in sender]
    return OperatorGraph.of(operators, uses, name)


def smallest_batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Return the number of samples with which a module is traced first: those of its example inputs, at least two."""
    return max(2, samples(args, kwargs))


def check_alike(module: nn.Module, one: Trace, other: Trace) -> None:
    """Check that a module does the same operations with two numbers of samples, and at least one.

    Raises:
        GraphError: it does not.
    """
    few, many = ([(str(node.target), _call(node)) for node in each.nodes] for each in (one, other))
    if few != many:
        raise GraphError(
            f"{type(module).__name__} does other operations with {other.batch} samples than with {one.batch}; "
            "they must not depend on the number of samples"
        )
    if not few:
        raise GraphError(f"{type(module).__name__} does no operations; a model needs at least one")


def partition(trace: Trace, most: int) -> tuple[list[Step], list[tuple[int, ...]], list[str]]:
    """Return a trace's operations as steps, and its operators: the indices of their steps, and their names.

    Args:
        trace: of the smallest batch, whose costs decide which operators are merged.
        most: operators, unless parallel branches make more necessary. With as many as it has come out before, the
            result is the same.
    """
    steps = _steps(trace)
    place = {node: index for index, node in enumerate(trace.nodes)}
    groups = group(steps, frozenset(place[node] for node in trace.outputs), most)
    return steps, groups, _names(groups, steps)


def _measured(
    traces: Sequence[Trace], pieces: Sequence[Sequence[Piece]], batches: tuple[int, int]
) -> list[list[Duration]]:
    """Return the times of both passes of every operator, from runs with both batches."""
    times = [time(each.state, each.inputs, cuts) for each, cuts in zip(traces, pieces, strict=True)]
    return [
        [Duration(fixed, slope) for slope, fixed in (line(batches, each) for each in zip(*pair, strict=True))]
        for pair in zip(*times, strict=True)
    ]


def _estimated(
    accelerator: Accelerator, names: Sequence[str], counts: Sequence[Sequence[Counts]], batches: tuple[int, int]
) -> list[list[Duration]]:
    """Return the times of both passes of every operator, from its kernels with both batches.

    Raises:
        GraphError: an operator has other kernels with one batch than with the other.
    """
    result = []
    for name, one, other in zip(names, *counts, strict=True):
        passes = ((one.forward, other.forward), (one.backward, other.backward))
        if any(len(small) != len(large) for small, large in passes):
            raise GraphError(f"operator {name!r} has other kernels with {batches[1]} samples than with {batches[0]}")
        result.append([estimate(accelerator, small, large, batches) for small, large in passes])
    return result


def _call(node: fx.Node) -> tuple[str, str]:
    """Return the key of the innermost module call that a node is part of, and the module's path."""
    stack = list(node.meta.get("nn_module_stack", {}).items())
    return (str(stack[-1][0]), str(stack[-1][1][0])) if stack else ("", "")


def _steps(trace: Trace) -> list[Step]:
    """Return a trace's operations as steps; those without kernels, or on single numbers, are idle."""
    surveyed = survey(trace)
    changed = frozenset[fx.Node]().union(*(each.changed for each in surveyed))
    parents = {""}
    for node in trace.nodes:
        path = _call(node)[1]
        parents |= {path[:at] for at, character in enumerate(path) if character == "."}
    place = {node: index for index, node in enumerate(trace.nodes)}
    steps: list[Step] = []
    for index, node in enumerate(trace.nodes):
        uses = tuple(place[each] for each in node.all_input_nodes if each in place)
        state = [each for each in node.all_input_nodes if each in trace.state]
        call, path = _call(node)
        values = tree_leaves([each.meta.get("val") for each in (node, *node.all_input_nodes)])
        kernels = surveyed[index].kernels
        operation = re.sub(r"_*\d*$", "", node.name)
        steps.append(
            Step(
                f"{path}.{operation}".lstrip(".") if path in parents else path,
                uses,
                call,
                any(each.flops for each in kernels)
                or any(isinstance(trace.state[each], nn.Parameter) for each in state),
                not kernels or all(each.ndim == 0 for each in values if isinstance(each, Tensor)),
                any(each in trace.inputs for each in node.all_input_nodes) or any(steps[each].data for each in uses),
                bool(surveyed[index].changed) or any(changes(each) or draws(each) for each in _functions(trace, node)),
                frozenset(trace.names[each] for each in state if trace.trained(each) or each in changed)
                | surveyed[index].tied,
                sum(max(each.flops / INTENSITY, each.traffic) for each in kernels),
            )
        )
    return steps


def _functions(trace: Trace, node: fx.Node) -> Iterator[Any]:
    """Yield the function of an operation, and those that it calls."""
    yield node.target
    for each in node.all_input_nodes:
        if each.op == "get_attr" and isinstance(part := getattr(trace.root, str(each.target)), fx.GraphModule):
            yield from functions(part)


def _names(groups: Sequence[Sequence[int]], steps: Sequence[Step]) -> list[str]:
    """Name operators by their first and last heavy step, such as "layers.0.norm1..linear2", each differently."""
    names: list[str] = []
    for each in groups:
        heavy = [steps[index].name for index in each if steps[index].heavy and steps[index].data]
        name, last = (heavy[0], heavy[-1]) if heavy else (steps[each[-1]].name, steps[each[-1]].name)
        if last != name:
            parts, others = name.split("."), last.split(".")
            common = next((at for at, pair in enumerate(zip(parts, others, strict=False)) if pair[0] != pair[1]), 0)
            name = f"{name}..{'.'.join(others[common:])}"
        number = sum(1 for other in names if re.fullmatch(re.escape(name) + r"(:\d+)?", other))
        names.append(f"{name}:{number + 1}" if number else name)
    return names
