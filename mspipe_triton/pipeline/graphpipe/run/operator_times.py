"""Times of a stage's operators, one by one, beside those of its passes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_unflatten

from mspipe_triton.pipeline.graphpipe.capture.measure import time
from mspipe_triton.pipeline.graphpipe.run.program import Program
from mspipe_triton.pipeline.graphpipe.run.values import Leaf


def operator_seconds(
    program: Program, state: Mapping[fx.Node, Tensor], device: torch.device
) -> dict[str, tuple[float, float]]:
    """Return the seconds of a forward and of a backward pass of every operator of a stage, by name.

    The inputs are the model's example inputs. What other stages would send has the right shape: zeros, or numbers
    between 0 and 1 where gradients go back.

    Args:
        program: of the stage.
        state: the tensors of its placeholders for state, which stay as they are.
        device: of the process.

    Raises:
        GraphError: an operator cannot run by itself.
    """
    generator = torch.Generator(device).manual_seed(0)

    def like(leaf: Leaf) -> Tensor:
        if not leaf.gradient:
            return torch.zeros(leaf.shape, dtype=leaf.dtype, device=device)
        return torch.rand(leaf.shape, dtype=leaf.dtype, device=device, generator=generator).requires_grad_()

    inputs = {node: value.to(device) if isinstance(value, Tensor) else value for node, value in program.inputs.items()}
    received = {
        value.node: tree_unflatten([like(leaf) for leaf in value.leaves], value.spec)
        for values in program.received.values()
        for value in values
    }
    times = time(state, inputs, program.operators, received)
    return {piece.name: (each.forward, each.backward) for piece, each in zip(program.operators, times, strict=True)}
