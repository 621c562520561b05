"""Fusing plain tensor functions with `torch.compile` where it works, and running them as they are where it does not."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_RECOMPILATIONS = 64


class _State:
    """Process-wide: whether fused functions compile, why they stopped, what that has cost, and when it is to end."""

    enabled = False
    failure: str | None = None
    seconds = 0.0
    until = float("inf")
    lock = threading.Lock()


class _Own(threading.local):
    """The same for one thread."""

    enabled = True
    seconds = 0.0


_own = _Own()


def enable_fusion(enabled: bool = True) -> None:
    """Turn compilation of the fused functions on or off for this process.

    It is off at import and stays off after a failure, or where the environment sets TORCHDYNAMO_DISABLE=1.
    """
    _State.enabled = enabled and _State.failure is None and os.environ.get("TORCHDYNAMO_DISABLE") != "1"


def enable_thread_fusion(enabled: bool) -> None:
    """Let the current thread take compiled functions, where fusion is on; every thread may at first.

    Compiled loops run on as many threads as torch had when they were compiled, whoever calls them.
    """
    _own.enabled = enabled


def limit_compiling(until: float = float("inf")) -> None:
    """Begin no compilation after a time of `time.perf_counter`: what is not compiled by then runs eagerly."""
    _State.until = until


def fusion_enabled() -> bool:
    """Whether fused functions are compiled at present."""
    return _State.enabled


def fusion_failure() -> str | None:
    """One line saying why compilation was given up, or None."""
    return _State.failure


def compile_seconds(own: bool = False) -> float:
    """Seconds that this process has spent compiling fused functions, loading them from the disk's cache included.

    Args:
        own: only those that the current thread spent.
    """
    return _own.seconds if own else _State.seconds


def running_clock() -> float:
    """Seconds that go on, but stand still while fused functions are compiled."""
    return time.perf_counter() - compile_seconds()


def fused(*widths: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a pure function of tensors, never differentiated through: compiled while fusion is on, else eager.

    The first dimension of every tensor is dynamic and the others are fixed, so that one compilation serves all batches
    and inner loops have known lengths; `widths` names the vectors whose length is such a fixed size. Where the compiler
    fails, the function runs eagerly, fusion goes off for the process and `fusion_failure()` says why; an error that
    eager execution raises too is the caller's and passes through.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        dynamic = [name not in widths for name in inspect.signature(function).parameters]
        compiled: list[Callable[..., T]] = []

        @functools.wraps(function)
        def call(*arguments: Any) -> T:
            if not (_State.enabled and _own.enabled):
                return function(*arguments)
            if not compiled:
                # A process may see many widths and fanouts; at the limit, eager execution would take over silently.
                torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILATIONS)
                _tag_cache()
                compiled.append(torch.compile(function, fullgraph=True))
            for varies, argument in zip(dynamic, arguments, strict=True):
                if varies and isinstance(argument, torch.Tensor) and argument.dim():
                    torch._dynamo.maybe_mark_dynamic(argument, 0)
            graphs, start = _graphs(), time.perf_counter()
            late = start > _State.until
            stance = torch.compiler.set_stance("eager_on_recompile") if late else contextlib.nullcontext()
            try:
                with torch.no_grad(), stance:
                    result = compiled[0](*arguments)
            except Exception as error:  # whose fault it was, the eager run decides
                result = function(*arguments)
                _State.enabled = False
                _State.failure = f"torch.compile failed ({type(error).__name__}: {_first_line(error)})"
            if _graphs() != graphs:
                seconds = time.perf_counter() - start
                _own.seconds += seconds
                with _State.lock:
                    _State.seconds += seconds
            return result

        return call

    return decorate


def _tag_cache() -> None:
    """Keep loops that were compiled for other vector instructions apart in torch's cache on the disk.

    torch keeps C++ with the width of its vectors under a key without it, and compiles that for whatever processor finds
    it there: the results are wrong, or memory is overwritten.
    """
    if getattr(torch.compiler.config, "cache_key_tag", None) == "":  # what a user has set stays
        torch.compiler.config.cache_key_tag = torch.backends.cpu.get_cpu_capability()


def _graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _first_line(error: Exception) -> str:
    """Return the first line of an error; of one that wraps another, the other's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
    return (lines or [""])[0][:160]
