"""Mini-batches of users: an iterable that a callable returns, the same in all processes of a run."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from mspipe_triton.errors import ConfigError, first_line
from mspipe_triton.pipeline.graphpipe.named import call, load_callable

_FIX = "return an iterable of mini-batches: tuples of tensors, dicts of them by argument, or pairs (tuple, dict)"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Batch:
    """A mini-batch: arguments of the module's forward pass, [batch, …] each tensor."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of all tensors and other values, by which processes compare their mini-batches."""
        result = 0
        for path, value in _leaves(self.args, self.kwargs):
            if isinstance(value, Tensor):
                result = zlib.crc32(f"{path} {value.dtype} {tuple(value.shape)}".encode(), result)
                values = value.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
                result = zlib.crc32(values.contiguous().view(torch.uint8).numpy().data, result)
            else:
                result = zlib.crc32(f"{path} {value!r}".encode(), result)
        return result


class DataSource:
    """Mini-batches of a callable without arguments that returns an iterable.

    An iterable that is exhausted starts again; the callable is called again if the iterable cannot. Both draw random
    numbers apart from the process's own, so processes whose models draw different amounts have the same data.

    Args:
        name: the callable's, for messages.
        build: the callable.
        seed: of torch's, NumPy's and Python's global generators, as the callable and its iterables see them.

    Raises:
        ConfigError: the callable raises an exception, or returns no iterable.
    """

    def __init__(self, name: str, build: Callable[[], Any], seed: int = 0) -> None:
        self._name, self._build = name, build
        self._numbers = _Numbers(seed)
        self._draws = 0
        with self._numbers.apart():
            self._start()

    def next(self, batch: int) -> Batch:
        """Return the next mini-batch.

        Args:
            batch: samples that it must have.

        Raises:
            ConfigError: the iterable raises an exception or has no mini-batches, or this is no mini-batch of that size.
        """
        item = self._draw()
        place = f"--data {self._name!r}: mini-batch {self._draws}"
        args, kwargs = _arguments(item, place)
        tensors = 0
        for path, value in _leaves(args, kwargs):
            if isinstance(value, Tensor) and value.layout == torch.strided:
                tensors += 1
                if value.ndim == 0 or value.shape[0] != batch:
                    raise ConfigError(
                        f"{place} has shape {tuple(value.shape)} at {path}; the first dimension must be the plan's "
                        f"mini-batch of {batch} samples (a DataLoader needs batch_size={batch}, drop_last=True)"
                    )
            elif not isinstance(value, _PLAIN):
                kind = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
                raise ConfigError(f"{place} holds a {kind} at {path}; convert it to a dense torch.Tensor")
        if not tensors:
            raise ConfigError(f"{place} has no tensors; {_FIX}")
        return Batch(args, kwargs)

    def skip(self, steps: int) -> None:
        """Draw mini-batches and drop them, so that a run continues after those that it was trained on.

        Raises:
            ConfigError: the iterable raises an exception or has no mini-batches.
        """
        for _ in range(steps):
            self._draw()

    def _draw(self) -> Any:
        with self._numbers.apart():
            for start in (None, self._restart, self._start):
                if start is not None:
                    start()
                try:
                    item = next(self._iterator)
                except StopIteration:
                    continue
                except Exception as error:
                    raise self._failure(error) from error
                self._draws += 1
                return item
        raise ConfigError(
            f"--data {self._name!r} has no mini-batches after {self._draws}, and gives none when it is called again; "
            "return an iterable that can start again"
        )

    def _start(self) -> None:
        """Call the callable, and start its iterable."""
        self._iterable = call("--data", self._name, self._build)
        kind = type(self._iterable)
        if issubclass(kind, Tensor | Mapping | str) or not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")):
            raise ConfigError(f"--data {self._name!r} returned {kind.__name__}; {_FIX}")
        self._restart()

    def _restart(self) -> None:
        try:
            self._iterator: Iterator[Any] = iter(self._iterable)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"--data {self._name!r}: mini-batch {self._draws + 1} raised {first_line(error)}; fix the iterable"
        )


def load_data(name: str, seed: int = 0) -> DataSource:
    """Call the callable that a name such as "package.module:attribute" stands for, and return its mini-batches.

    The module is also searched for in the current folder. The callable takes no arguments and returns an iterable of
    mini-batches. Each is a tuple or list of positional arguments of the model's forward pass, a dict of keyword
    arguments, or a pair of both.

    Args:
        name: the module's and the callable's, with a colon between them.
        seed: of the random numbers that the callable and its iterable draw from global generators.

    Raises:
        ConfigError: the name stands for no callable, or the call fails or returns something else.
    """
    return DataSource(name, load_callable("--data", name, "data.mine:batches", "an iterable of mini-batches"), seed)


class _Numbers:
    """State of global generators of random numbers, apart from the one that a process sees otherwise."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._state: tuple[Any, Any, Tensor, Tensor | None] | None = None

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Continue this state inside, and the process's outside."""
        before = _state()
        if self._state is None:
            random.seed(self._seed)
            np.random.seed(self._seed % 2**32)
            torch.default_generator.manual_seed(self._seed)
        else:
            _restore(self._state)
        if before[3] is not None and (self._state is None or self._state[3] is None):
            torch.cuda.manual_seed(self._seed)
        try:
            yield
        finally:
            self._state = _state()
            _restore(before)


def _state() -> tuple[Any, Any, Tensor, Tensor | None]:
    """Return the state of Python's, NumPy's and torch's generators; the GPU's only if the process uses one."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpu


def _restore(state: tuple[Any, Any, Tensor, Tensor | None]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state(state[3])


def _arguments(item: Any, place: str) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the positional and the keyword arguments that an item stands for."""
    if isinstance(item, tuple | list) and len(item) == 2:
        first, second = item
        if isinstance(first, tuple | list) and isinstance(second, Mapping):
            return tuple(first), _keywords(second, place)
    if isinstance(item, tuple | list):
        return tuple(item), {}
    if isinstance(item, Mapping):
        return (), _keywords(item, place)
    raise ConfigError(f"{place} is of type {type(item).__name__}; {_FIX}")


def _keywords(item: Mapping[Any, Any], place: str) -> dict[str, Any]:
    for name in item:
        if not isinstance(name, str):
            raise ConfigError(f"{place} has the key {name!r}; use the names of the forward pass's arguments")
    return dict(item)


def _leaves(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all values of arguments, with their places, such as "[0]" or "['input']"."""
    for part in (args, kwargs):
        yield from ((keystr(path), value) for path, value in tree_flatten_with_path(part)[0])
