"""The short way to a reference: an eager call on the CPU skips the dispatcher, which costs as much as a small call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.kernels.launch import on_triton


def eager(tensor: torch.Tensor) -> bool:
    """Whether the reference may be called at once: a plain CPU tensor, nothing tracing or transforming."""
    return (
        tensor.is_cpu
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not on_triton(tensor)
    )


def eager_backward(tensor: torch.Tensor) -> bool:
    """The same in a backward pass; one that is recorded itself (create_graph) takes the operation, which refuses."""
    return eager(tensor) and not torch.is_grad_enabled()


def differentiable(
    reference: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """A reference under eager autograd, with the functions that the custom operation is registered with."""
    methods = {"forward": reference, "setup_context": setup_context, "backward": backward}
    direct: Any = type("Direct", (torch.autograd.Function,), {name: staticmethod(way) for name, way in methods.items()})
    apply: Callable[..., Any] = direct.apply
    return apply
