"""The short way to a differentiable reference, for operations that register themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.kernels.operation import eager as eager


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
