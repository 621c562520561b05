"""Exchange of a stage with its neighbours: which rows of which values each pass receives and sends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx

from mspipe_triton.pipeline.graphpipe.run.channels import GRADIENT, OUTPUT, Channels, Receipt
from mspipe_triton.pipeline.graphpipe.run.layout import Layout, Slice
from mspipe_triton.pipeline.graphpipe.run.program import Program
from mspipe_triton.pipeline.graphpipe.run.values import Leaf, Value

TOKEN = Leaf((1,), torch.uint8, True, None, True)


class Rows(NamedTuple):
    """A part of a tensor that crosses: its place among the tensors of a result, the process, and its samples.

    Args:
        node: the result; None for a token.
        place: of the tensor in it.
        leaf: the tensor.
        process: at the other end.
        start: first sample, from the first one of this process's pass.
        stop: the one after the last.
    """

    node: fx.Node | None
    place: int
    leaf: Leaf
    process: int
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of these rows."""
        dim = self.leaf.dim
        if dim is None:
            return self.leaf.shape
        return (*self.leaf.shape[:dim], self.stop - self.start, *self.leaf.shape[dim + 1 :])

    def of(self, tensor: Tensor) -> Tensor:
        """Return these rows of the tensor."""
        return tensor if self.leaf.dim is None else tensor.narrow(self.leaf.dim, self.start, self.stop - self.start)


class Exchange:
    """Messages that the passes of a process receive and send.

    Where nothing crosses between two stages of a chain, they exchange tokens, so that the later one waits all the same.

    Args:
        layout: of the plan.
        stage: the stage's index.
        replica: the process's place in the stage.
        program: of the stage.
        channels: of the process.
    """

    def __init__(self, layout: Layout, stage: int, replica: int, program: Program, channels: Channels) -> None:
        self.channels = channels
        process = layout.plan.stages[stage].devices[replica]
        self._inputs: dict[int, list[Rows]] = defaultdict(list)  # by pass
        self._outputs: dict[int, list[Rows]] = defaultdict(list)
        for before, values in program.received.items():
            for each in layout.slices(before, stage):
                if each.receiver == process:
                    first = layout.samples(stage, replica, each.receiver_pass).start
                    self._inputs[each.receiver_pass] += _rows(values, each, each.sender, first)
        for after, values in program.sent.items():
            for each in layout.slices(stage, after):
                if each.sender == process:
                    first = layout.samples(stage, replica, each.sender_pass).start
                    self._outputs[each.sender_pass] += _rows(values, each, each.receiver, first)
        self._values = [value for values in program.received.values() for value in values]
        self._token = torch.zeros(TOKEN.shape, dtype=TOKEN.dtype, device=channels.device)
        self._expected: dict[tuple[int, int], list[Receipt]] = {}

    def expect(self, forward: bool, number: int) -> None:
        """Start to receive what a pass needs."""
        kind = OUTPUT if forward else GRADIENT
        self._expected[kind, number] = [
            self.channels.receive(kind, each.shape, each.leaf.dtype, each.process)
            for each in self._wanted(forward, number)
        ]

    def inputs(self, number: int) -> dict[fx.Node, list[Tensor]]:
        """Return the tensors that a forward pass has received from earlier stages."""
        parts: dict[tuple[fx.Node | None, int], list[Tensor]] = defaultdict(list)
        for each, receipt in zip(self._inputs[number], self._expected.pop((OUTPUT, number)), strict=True):
            parts[each.node, each.place].append(receipt.wait())
        return {
            value.node: [_joined(parts[value.node, place], leaf.dim) for place, leaf in enumerate(value.leaves)]
            for value in self._values
        }

    def send_outputs(self, number: int, tensors: Mapping[fx.Node, Sequence[Tensor]]) -> None:
        """Send the results of a forward pass to later stages."""
        for each in self._outputs[number]:
            tensor = self._token if each.node is None else tensors[each.node][each.place]
            self.channels.send(OUTPUT, number, each.of(tensor), each.process)

    def gradients(self, number: int) -> dict[tuple[fx.Node, int], Tensor]:
        """Return, by result and place, the gradients of what a forward pass has sent: sums over the later stages."""
        sums: dict[tuple[fx.Node, int], Tensor] = {}
        for each, receipt in zip(self._wanted(False, number), self._expected.pop((GRADIENT, number)), strict=True):
            part = receipt.wait()
            if each.node is None:
                continue
            key = (each.node, each.place)
            if key not in sums:
                sums[key] = torch.zeros(each.leaf.shape, dtype=each.leaf.dtype, device=part.device)
            each.of(sums[key]).add_(part)
        self.channels.settle(OUTPUT, number)
        return sums

    def send_gradients(self, number: int, gradients: Mapping[tuple[fx.Node, int], Tensor]) -> None:
        """Send the gradients of what a forward pass has received back to the earlier stages."""
        for each in self._inputs[number]:
            if each.leaf.gradient:
                tensor = self._token if each.node is None else gradients[each.node, each.place]
                self.channels.send(GRADIENT, number, each.of(tensor), each.process)

    def _wanted(self, forward: bool, number: int) -> list[Rows]:
        """Return what a pass receives."""
        if forward:
            return self._inputs[number]
        return [each for each in self._outputs[number] if each.leaf.gradient]


def _rows(values: Sequence[Value], part: Slice, process: int, first: int) -> Iterator[Rows]:
    """Yield the rows of all values that two passes have in common, or a token if there are no values.

    What is not by sample crosses once per receiver.
    """
    if not values:
        yield Rows(None, 0, TOKEN, process, part.start - first, part.stop - first)
    for value in values:
        for place, leaf in enumerate(value.leaves):
            if leaf.dim is not None or part.first:
                yield Rows(value.node, place, leaf, process, part.start - first, part.stop - first)


def _joined(parts: Sequence[Tensor], dim: int | None) -> Tensor:
    """Concatenate the rows of a tensor."""
    return parts[0] if dim is None or len(parts) == 1 else torch.cat(tuple(parts), dim)
