"""Passes of a stage: forward over a micro-batch, and backward with the gradients that later stages return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_unflatten

from mspipe_triton.pipeline.graphpipe.run.culprit import culprit
from mspipe_triton.pipeline.graphpipe.run.exchange import Exchange
from mspipe_triton.pipeline.graphpipe.run.program import Program


@dataclass
class Pass:
    """Data of a micro-batch from its forward to its backward pass.

    Args:
        leaves: by result and place in it, the tensors that it received and that need a gradient.
        edges: the same of its results that later stages use.
        losses: its parts of the loss, and their weights.
        saved: storages that autograd holds, by address, and their bytes; only if measured.
    """

    leaves: dict[tuple[fx.Node, int], Tensor] = field(default_factory=dict)
    edges: dict[tuple[fx.Node, int], GradientEdge] = field(default_factory=dict)
    losses: list[tuple[GradientEdge, Tensor]] = field(default_factory=list)
    saved: dict[int, tuple[torch.UntypedStorage, int]] = field(default_factory=dict)


class Passes:
    """The passes of a process over its micro-batches.

    Args:
        program: of the stage.
        state: the tensors of its placeholders for state.
        exchange: with other stages.

    Attributes:
        loss: the part of the loss of this mini-batch that the process has computed; set to 0 before its first pass.
        live: the micro-batches between their passes.
    """

    def __init__(self, program: Program, state: Mapping[fx.Node, Tensor], exchange: Exchange) -> None:
        self.program, self.state, self.exchange = program, state, exchange
        self.loss: Tensor | float = 0.0
        self.live: dict[int, Pass] = {}
        self._own = {each.untyped_storage()._cdata for each in state.values()}
        values = [value for each in (*program.received.values(), *program.sent.values()) for value in each]
        self._values = {value.node: value for value in values}
        self._passed_on = {value.node for each in program.sent.values() for value in each} - {*program.piece.exits}

    def forward(
        self,
        number: int,
        inputs: Mapping[fx.Node, Any],
        received: Mapping[fx.Node, Sequence[Tensor]],
        measured: bool = False,
    ) -> None:
        """Compute a forward pass, and send its results.

        Args:
            number: of the micro-batch.
            inputs: the module's inputs, with the samples of this pass.
            received: results of earlier stages, from `Exchange.inputs`.
            measured: also collect what autograd saves.
        """
        program, current = self.program, Pass()
        arguments = []
        for node in program.piece.entries:
            if node in self.state:
                arguments.append(self.state[node])
            elif node in received:
                arguments.append(self._argument(node, received[node], current))
            else:
                value = inputs[node]
                arguments.append(value.clone() if program.changes and isinstance(value, Tensor) else value)
        for node in self._passed_on:
            if node not in program.piece.entries:
                self._argument(node, received[node], current)
        try:
            with torch.enable_grad(), self._collecting(current, inputs) if measured else nullcontext():
                results = dict(zip(program.piece.exits, program.piece.module(*arguments), strict=True))
        except Exception as error:
            line = culprit(program.piece.module, arguments)
            error.add_note(f"{f'{line}, ' if line else ''}forward pass of micro-batch {number}")
            raise
        self.loss = self.loss + program.constant
        for node, weight in program.losses.items():
            (loss,) = tree_leaves(results[node])
            self.loss = self.loss + loss.detach().sum() * weight
            current.losses.append((get_gradient_edge(loss), torch.full_like(loss, weight)))
        tensors: dict[fx.Node, Sequence[Tensor]] = {node: received[node] for node in self._passed_on}
        for node in self._values.keys() & results.keys():
            tensors[node] = tree_leaves(results[node])
            for place, tensor in enumerate(tensors[node]):
                if tensor.requires_grad:
                    current.edges[node, place] = get_gradient_edge(tensor)
        self.live[number] = current
        self.exchange.send_outputs(number, tensors)

    def backward(self, number: int, gradients: Mapping[tuple[fx.Node, int], Tensor]) -> None:
        """Compute a backward pass, send the gradients of what its forward pass received, and free what that held.

        Args:
            number: of the micro-batch.
            gradients: of its results, by result and place in it, from `Exchange.gradients`.
        """
        current = self.live[number]
        targets = [*current.losses]
        targets += [(edge, gradients[key]) for key, edge in current.edges.items() if key in gradients]
        if targets:
            edges, seeds = zip(*targets, strict=True)
            try:
                torch.autograd.backward(edges, seeds)
            except Exception as error:
                error.add_note(f"backward pass of micro-batch {number}")
                raise
        returns = {}
        for key, leaf in current.leaves.items():
            total = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            returns[key] = total + gradients[key] if key[0] in self._passed_on and key in gradients else total
        del self.live[number], current
        self.exchange.send_gradients(number, returns)

    def saved_bytes(self) -> int:
        """Return the bytes that autograd holds for all micro-batches between their passes, if they are measured."""
        return sum(size for each in self.live.values() for _, size in each.saved.values())

    def _argument(self, node: fx.Node, tensors: Sequence[Tensor], current: Pass) -> Any:
        """Return a received result as argument of the piece, and remember the tensors that need a gradient."""
        value, arguments = self._values[node], []
        for place, (leaf, tensor) in enumerate(zip(value.leaves, tensors, strict=True)):
            if leaf.gradient:
                current.leaves[node, place] = tensor.requires_grad_()
            arguments.append(tensor.clone() if self.program.changes else tensor)
        return tree_unflatten(arguments, value.spec)

    def _collecting(self, current: Pass, inputs: Mapping[fx.Node, Any]) -> AbstractContextManager[None]:
        """Collect what autograd saves, but for parameters; of the inputs, only the rows of the pass count."""
        rows = {each.untyped_storage()._cdata: each.nbytes for each in inputs.values() if isinstance(each, Tensor)}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._own:
                current.saved[storage._cdata] = (storage, rows.get(storage._cdata, storage.nbytes()))
            return tensor

        return saved_tensors_hooks(pack, lambda tensor: tensor)
