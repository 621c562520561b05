"""The unpipelined module in a plain loop, which pipelined runs are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tests.pipeline.graphpipe.run.cases import BATCH, Inputs, batches, build

STEPS = 10


class Outcome(NamedTuple):
    """Gradients of the first mini-batch by name, and the losses and the state of `STEPS` steps on others."""

    gradients: dict[str, Tensor]
    losses: dict[str, Tensor]
    state: dict[str, Tensor]


def momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return SGD with momentum."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return Adam."""
    return torch.optim.Adam(parameters, lr=1e-3)


OPTIMIZERS: Mapping[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {"sgd": momentum, "adam": adam}


def expected(name: str, dtype: torch.dtype, optimizer: str, micro_batch: int = BATCH) -> Outcome:
    """Train the module as it is.

    Args:
        name: of the module.
        dtype: of its weights and inputs.
        optimizer: of `OPTIMIZERS`.
        micro_batch: samples of a pass, one after the other; matters only to modules that look at other samples.
    """
    module = build(name, dtype)
    trained = [each for each in module.parameters() if each.requires_grad]
    update = OPTIMIZERS[optimizer](trained)
    first, *others = batches(name, dtype, 1 + STEPS)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    _backward(module, first, micro_batch)
    gradients = {key: each.grad.clone() for key, each in module.named_parameters() if each.grad is not None}
    module.load_state_dict(before)
    losses = {}
    for number, inputs in enumerate(others):
        update.zero_grad()
        losses[str(number)] = _backward(module, inputs, micro_batch)
        update.step()
    return Outcome(gradients, losses, module.state_dict())


def _backward(module: nn.Module, inputs: Inputs, micro_batch: int) -> Tensor:
    """Add the gradients of the mean loss of a mini-batch, and return that loss."""
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, BATCH, micro_batch):
        results = module(*(each[start : start + micro_batch] for each in inputs))
        losses = results if isinstance(results, tuple) else (results,)
        loss = torch.stack([each.mean() for each in losses]).sum() * micro_batch / BATCH
        loss.backward()
        total += loss.detach()
    return total


def differences(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest error of every tensor, relative to its scale.

    The scale is the largest entry's size, at least a hundredth of the largest of all tensors: an entry is a sum whose
    terms are rounded at their own size, so sums that cancel have errors as large as what they are made of.
    """
    assert actual.keys() == expected.keys()
    sizes = {name: float(each.abs().max()) for name, each in expected.items()}
    floor = max(sizes.values()) / 100
    result = {}
    for name, each in expected.items():
        assert (actual[name].shape, actual[name].dtype) == (each.shape, each.dtype), name
        error = float((actual[name].double() - each.double()).abs().max())
        result[name] = error / max(sizes[name], floor)
    return result
