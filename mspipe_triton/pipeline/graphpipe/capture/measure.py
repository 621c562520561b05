"""Costs of pieces: what they compute, keep and send, counted on tensors without data, and their times on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture.entangled import entangled
from mspipe_triton.pipeline.graphpipe.capture.meter import Kernel, Meter, size
from mspipe_triton.pipeline.graphpipe.capture.pieces import Piece, Values, running
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace, is_trained

WARMUPS = 2
REPEATS = 5


class Counts(NamedTuple):
    """Work and bytes of a piece: kernels of both passes, bytes kept for the backward pass, and bytes sent on."""

    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    saved: int
    sent: int


class Times(NamedTuple):
    """Seconds of the passes of a piece."""

    forward: float
    backward: float


def _targets(results: Sequence[Any]) -> list[Tensor]:
    return [each for each in tree_leaves(results) if isinstance(each, Tensor) and each.requires_grad]


class Surveyed(NamedTuple):
    """Kernels of the forward pass of an operation, the buffers that it changes, and changed tensors that tie it.

    Operations that a tensor ties have to run in one piece: see `entangled`.
    """

    kernels: tuple[Kernel, ...]
    changed: frozenset[fx.Node]
    tied: frozenset[str]


def survey(trace: Trace) -> list[Surveyed]:
    """Return what every operation does."""
    result = []
    buffers = [node for node, value in trace.state.items() if not isinstance(value, nn.Parameter)]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        values: dict[fx.Node, Any] = {}
        for node, value in (*trace.state.items(), *trace.inputs.items()):
            values[node] = mode.from_tensor(value.detach()) if isinstance(value, Tensor) else value
        for node in trace.nodes:
            for source in node.all_input_nodes:
                if source.op == "get_attr":
                    values[source] = getattr(trace.root, str(source.target))
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            versions = [values[each]._version for each in buffers]
            with running(node.name), Meter() as meter:
                values[node] = cast(Callable[..., Any], node.target)(*args, **kwargs)
            changed = (each for each, version in zip(buffers, versions, strict=True) if values[each]._version > version)
            result.append((tuple(meter.kernels), frozenset(changed)))
        ties = entangled(trace, values)
    return [Surveyed(*each, ties.get(node, frozenset())) for node, each in zip(trace.nodes, result, strict=True)]


def count(trace: Trace, pieces: Sequence[Piece]) -> list[Counts]:
    """Return the counts of every piece; nothing is computed and no device is used."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.enable_grad():
        values = Values(trace.state, trace.inputs, pieces, lambda value: mode.from_tensor(value.detach()))
        state = {values.values[node].untyped_storage()._cdata for node in trace.state}
        return [_counts(piece, values, state) for piece in pieces]


def _counts(piece: Piece, values: Values, state: set[int]) -> Counts:
    arguments, leaves = values.arguments(piece)
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in state:
            saved[storage._cdata] = storage
        return tensor

    backward = Meter()
    with running(piece.name):
        with Meter() as forward, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            results = piece.module(*arguments)
        targets = _targets(results)
        gradients = [torch.empty_like(each) for each in targets]
        if targets:
            with backward:
                torch.autograd.grad(targets, leaves, gradients, allow_unused=True)
    values.store(piece, results)
    sent = [result for node, result in zip(piece.exits, results, strict=True) if node in piece.sent]
    tensors = {
        (each.untyped_storage()._cdata, each.storage_offset(), each.numel()): size(each)
        for each in tree_leaves(sent)
        if isinstance(each, Tensor)
    }
    total = sum(each.nbytes() for each in saved.values())
    return Counts(tuple(forward.kernels), tuple(backward.kernels), total, sum(tensors.values()))


def time(
    state: Mapping[fx.Node, Tensor],
    inputs: Mapping[fx.Node, Any],
    pieces: Sequence[Piece],
    received: Mapping[fx.Node, Any] = MappingProxyType({}),
) -> list[Times]:
    """Return the times of every piece, medians of a few runs on the device of the module.

    As in training by micro-batches, a run goes through all pieces, so that no cache holds the parameters of one alone,
    and backward passes add to the gradients of earlier ones. The state, its gradients and the random numbers stay as
    they are.

    Args:
        state: parameters, buffers and constants, by placeholder.
        inputs: the module's inputs, by placeholder.
        pieces: in topological order.
        received: results of pieces that are not among these; tensors that need a gradient get one.

    Raises:
        GraphError: an operator fails, or the module is on device meta.
    """
    everything = (*state.values(), *inputs.values(), *received.values())
    tensors = [each for each in tree_leaves(everything) if isinstance(each, Tensor)]
    if any(each.is_meta for each in tensors):
        raise GraphError("the module is on device meta, without data; move it to another device, or estimate its times")
    gpus = sorted({each.get_device() for each in tensors if each.is_cuda})

    def now() -> float:
        for device in gpus:
            torch.cuda.synchronize(device)
        return perf_counter()

    def timed(piece: Piece, values: Values) -> Times:
        arguments, _ = values.arguments(piece)
        with running(piece.name):
            start = now()
            results = piece.module(*arguments)
            middle = now()
            targets = _targets(results)
            gradients = [torch.ones_like(each) for each in targets]
            then = now()
            if targets:
                torch.autograd.backward(targets, gradients)
            end = now()
        values.store(piece, results)
        return Times(middle - start, end - then if targets else 0.0)

    runs: list[list[Times]] = []
    sums = {node: torch.zeros_like(value) for node, value in state.items() if is_trained(value)}
    with torch.random.fork_rng(gpus), torch.enable_grad():
        for _ in range(WARMUPS + REPEATS):
            values = Values(state, inputs, pieces, _real)
            values.values.update(received)
            for node, total in sums.items():
                values.values[node].grad = total
            runs.append([timed(piece, values) for piece in pieces])
    return [Times(*map(median, zip(*times, strict=True))) for times in zip(*runs[WARMUPS:], strict=True)]


def _real(value: Tensor) -> Tensor:
    """Return a parameter's values, or a copy of another tensor, which a piece can change."""
    return value.detach() if isinstance(value, nn.Parameter) else value.detach().clone()
