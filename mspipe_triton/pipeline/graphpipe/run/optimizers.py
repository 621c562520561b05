"""Optimisers of a run's stages, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn, optim

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.named import call, load_callable
from mspipe_triton.pipeline.graphpipe.run.settings import OPTIMIZERS, check_optimizer


def load_optimizer(name: str, lr: float) -> Callable[[Iterable[nn.Parameter]], optim.Optimizer]:
    """Return the function that makes the optimiser of a stage from its parameters.

    Args:
        name: adam, adamw or sgd; or such as "package.module:attribute", a callable that takes a list of parameters and
            returns a `torch.optim.Optimizer`. The module is also searched for in the current folder.
        lr: learning rate of adam, adamw and sgd; a user's callable has its own.

    Returns:
        A function of parameters. For a user's callable it raises ConfigError: the call fails, it returns no optimiser,
        one of other parameters, or one whose `step` needs arguments.

    Raises:
        ConfigError: there is no such optimiser, or the name stands for no callable.
    """
    check_optimizer(name)
    kinds: dict[str, Callable[..., optim.Optimizer]] = dict(
        zip(OPTIMIZERS, (optim.Adam, optim.AdamW, optim.SGD), strict=True)
    )
    if name in kinds:
        return lambda parameters: kinds[name](parameters, lr=lr)
    build = load_callable("--optimizer", name, "optimizers.mine:build", "a torch.optim.Optimizer")
    return lambda parameters: _checked(name, build, list(parameters))


def _checked(name: str, build: Callable[..., Any], parameters: list[nn.Parameter]) -> optim.Optimizer:
    """Call a user's callable, and check what it returns."""
    result = call("--optimizer", name, build, parameters)
    if not isinstance(result, optim.Optimizer):
        raise ConfigError(f"--optimizer {name!r} returned {type(result).__name__}; return a torch.optim.Optimizer")
    passed = {id(each) for each in parameters}
    if any(id(each) not in passed for group in result.param_groups for each in group["params"]):
        raise ConfigError(f"--optimizer {name!r} returned an optimiser of other parameters; use those that it takes")
    try:
        inspect.signature(result.step).bind()
    except TypeError:
        kind = type(result).__name__
        raise ConfigError(
            f"--optimizer {name!r}: the step of {kind} needs arguments; use an optimiser without"
        ) from None
    return result
