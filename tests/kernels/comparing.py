"""Types of the kernels' tests: tensors by name, and the fixtures that compare them."""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensors = dict[str, torch.Tensor]
Agree = Callable[[Tensors, Tensors], None]
Derived = Callable[[Tensors, Tensors, Callable[[], Tensors]], None]
