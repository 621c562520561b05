"""Types of what the kernels' tests compare: tensors by name, and the fixtures that do it."""

from __future__ import annotations

from collections.abc import Callable

import torch

Named = dict[str, torch.Tensor]
Agree = Callable[[Named, Named], None]
Derived = Callable[[Named, Named, Callable[[], Named]], None]
