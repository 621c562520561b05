"""Models of users: a callable that returns a module and example inputs, by its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mspipe_triton.errors import ConfigError


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
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute):
        raise ConfigError(f"model {name!r} is not module:attribute; name a callable, such as models.mine:build")
    if place.endswith(".py") or os.sep in place:
        stem = os.path.basename(place).removesuffix(".py")
        raise ConfigError(f"model {name!r} names a file; run the command in its folder, with {stem}:{attribute}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(place)
    except ModuleNotFoundError as error:
        if f"{place}.".startswith(f"{error.name}."):
            problem = f"there is no module {error.name}, installed or in this folder; change the folder, or install it"
        else:
            problem = f"{place} needs module {error.name}; install it"
        raise ConfigError(f"model {name!r}: {problem}") from None
    except Exception as error:
        raise ConfigError(f"model {name!r}: importing {place} raised {first_line(error)}; fix the module") from error
    try:
        build = attrgetter(attribute)(module)
    except AttributeError as error:
        raise ConfigError(f"model {name!r}: {error}; name a callable of the module") from None
    if not callable(build):
        kind = type(build).__name__
        raise ConfigError(f"model {name!r} is of type {kind}; name a callable that returns (module, inputs)")
    try:
        result = build()
    except Exception as error:
        raise ConfigError(f"model {name!r}: the call raised {first_line(error)}; fix the callable") from error
    return _checked(name, result)


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


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
