"""Callables of users, by names such as package.module:attribute, and in one line what is wrong with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import Any

from mspipe_triton.errors import ConfigError, first_line


def load_callable(kind: str, name: str, example: str, returns: str) -> Callable[..., Any]:
    """Import the callable that a name such as "package.module:attribute" stands for.

    The module is also searched for in the current folder.

    Args:
        kind: what it is for, as messages call it.
        name: the module's and the callable's, with a colon between them.
        example: such a name.
        returns: what the callable has to return, for messages.

    Raises:
        ConfigError: the name has no colon, the module cannot be imported or has no such attribute, or the attribute is
            not callable.
    """
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute):
        raise ConfigError(f"{kind} {name!r} is not module:attribute; name a callable, such as {example}")
    if place.endswith(".py") or os.sep in place:
        stem = os.path.basename(place).removesuffix(".py")
        raise ConfigError(f"{kind} {name!r} names a file; run the command in its folder, with {stem}:{attribute}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(place)
    except ModuleNotFoundError as error:
        if f"{place}.".startswith(f"{error.name}."):
            problem = f"there is no module {error.name}, installed or in this folder; change the folder, or install it"
        else:
            problem = f"{place} needs module {error.name}; install it"
        raise ConfigError(f"{kind} {name!r}: {problem}") from None
    except Exception as error:
        raise ConfigError(f"{kind} {name!r}: importing {place} raised {first_line(error)}; fix the module") from error
    try:
        result = attrgetter(attribute)(module)
    except AttributeError as error:
        raise ConfigError(f"{kind} {name!r}: {error}; name a callable of the module") from None
    if not callable(result):
        raise ConfigError(f"{kind} {name!r} is of type {type(result).__name__}; name a callable that returns {returns}")
    function: Callable[..., Any] = result
    return function


def call(kind: str, name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Return the result of a user's callable.

    Raises:
        ConfigError: it raised an exception.
    """
    try:
        return function(*args)
    except Exception as error:
        raise ConfigError(f"{kind} {name!r}: the call raised {first_line(error)}; fix the callable") from error
