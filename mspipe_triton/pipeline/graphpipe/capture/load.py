"""Models of users: a callable that returns a module and example inputs, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.named import call, load_callable


class Model(NamedTuple):
    """A module and example inputs, of which the first dimension of each tensor is the samples."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def load_model(name: str) -> Model:
    """Call the callable that a name such as "package.module:attribute" stands for, and return its model.

    The module is also searched for in the current folder. The callable takes no arguments and returns (module, args) or
    (module, args, kwargs): a `torch.nn.Module`, and arguments of its forward pass for a small batch.

    Args:
        name: the module's and the callable's, with a colon between them.

    Raises:
        ConfigError: the name has no colon, the module cannot be imported or has no such attribute, the attribute is not
            callable, or the call fails or returns something else.
    """
    build = load_callable("model", name, "models.mine:build", "(module, inputs)")
    return _checked(name, call("model", name, build))


def _checked(name: str, result: Any) -> Model:
    """Check what the callable of a model returned."""
    fix = "return (module, inputs): a torch.nn.Module and a tuple of tensors"
    if not isinstance(result, tuple):
        raise ConfigError(f"model {name!r} returned {type(result).__name__}; {fix}")
    module, args, kwargs = (*result, {}) if len(result) == 2 else result if len(result) == 3 else (None, None, None)
    if not isinstance(module, nn.Module) or not isinstance(args, tuple | list) or not isinstance(kwargs, Mapping):
        raise ConfigError(f"model {name!r} returned ({', '.join(type(each).__name__ for each in result)}); {fix}")
    if not any(isinstance(each, Tensor) for each in tree_leaves((args, dict(kwargs)))):
        raise ConfigError(f"model {name!r} returned no tensors as inputs; {fix}")
    return Model(module, tuple(args), kwargs)
