"""Fusion of plain tensor functions with `torch.compile`, and eager execution where compilation fails."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_RECOMPILATIONS = 64


class _State:
    """Process-wide state: whether to compile, why compilation stopped, its seconds and the end of the last of them, its
    deadline, and if it goes on."""

    enabled = False
    failure: str | None = None
    seconds = 0.0
    end = 0.0
    until = float("inf")
    compiling = False
    lock = threading.Lock()


class _Thread(threading.local):
    """State per thread: whether it uses compiled functions, and its seconds of compilation."""

    enabled = True
    seconds = 0.0


class _Late:
    """A context in which nothing is compiled; torch has one stance for all threads, so the last to leave resets it."""

    def __init__(self) -> None:
        self.lock, self.calls = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.calls:
                self.stance = torch.compiler.set_stance("eager_on_recompile")
            self.calls += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.calls -= 1
            if not self.calls:
                self.stance.__exit__(None, None, None)


_thread, _late = _Thread(), _Late()


def enable_fusion(enabled: bool = True) -> None:
    """Turn compilation of fused functions on or off for this process.

    It is off at import, and stays off after a failure or if the environment sets TORCHDYNAMO_DISABLE=1.
    """
    _State.enabled = enabled and _State.failure is None and os.environ.get("TORCHDYNAMO_DISABLE") != "1"


def enable_thread_fusion(enabled: bool) -> None:
    """Allow or forbid compiled functions in the current thread while fusion is on; every thread starts allowed.

    A compiled loop uses as many threads as torch has when it runs, whatever it had when it was compiled.
    """
    _thread.enabled = enabled


def limit_compiling(until: float = float("inf")) -> None:
    """Start no compilation after a time of `time.perf_counter`; functions not compiled by then run eagerly."""
    _State.until = until


def fusion_enabled() -> bool:
    """Return True while fused functions are compiled."""
    return _State.enabled


def fusion_failure() -> str | None:
    """Return one line saying why compilation was turned off, or None."""
    return _State.failure


def compile_seconds(this_thread: bool = False) -> float:
    """Return the seconds spent on compiling fused functions, including loads from the cache on disk.

    Args:
        this_thread: count the current thread only, not the whole process.
    """
    return _thread.seconds if this_thread else _State.seconds


def compiling() -> bool:
    """Return True while torch compiles a function in this process."""
    return _State.compiling


def running_clock() -> float:
    """Return a clock's seconds; the clock stops while fused functions are compiled."""
    return time.perf_counter() - compile_seconds()


def fused(*widths: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorate a pure function of tensors without gradients: it is compiled while fusion is on, else runs eagerly.

    The first dimension of every tensor is dynamic and the others are fixed, so one compilation serves all batches and
    inner loops have constant lengths; `widths` names the vectors whose length is fixed, too. If the compiler fails, the
    function runs eagerly, fusion is turned off for the process and `fusion_failure()` says why. An error that eager
    execution raises as well is the caller's and propagates.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        dynamic = [name not in widths for name in inspect.signature(function).parameters]
        compiled: dict[bool, Callable[..., T]] = {}

        @functools.wraps(function)
        def call(*arguments: Any) -> T:
            if not (_State.enabled and _thread.enabled):
                return function(*arguments)
            deterministic = torch.are_deterministic_algorithms_enabled()
            if deterministic not in compiled:
                compiled[deterministic] = _compiled(function)
            for varies, argument in zip(dynamic, arguments, strict=True):
                if varies and isinstance(argument, torch.Tensor) and argument.dim():
                    torch._dynamo.maybe_mark_dynamic(argument, 0)
            graphs, start = _graphs(), time.perf_counter()
            stance = _late if start > _State.until else contextlib.nullcontext()
            try:
                with torch.no_grad(), stance:
                    result = compiled[deterministic](*arguments)
            except Exception as error:  # the eager run shows whether the compiler or the caller failed
                result = function(*arguments)
                _State.enabled = False
                _State.failure = f"torch.compile failed ({type(error).__name__}: {_first_line(error)})"
            if _graphs() != graphs:
                _count(start, time.perf_counter())
            return result

        return call

    return decorate


def _count(start: float, end: float) -> None:
    """Count the seconds of a compilation; the process's are not those of each thread, which may wait for another's."""
    _thread.seconds += end - start
    with _State.lock:
        _State.seconds += max(0.0, end - max(start, _State.end))
        _State.end = max(end, _State.end)


def _compiled(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function that is compiled when it is called, once for all numbers of threads.

    torch would compile again whenever a part of its global state changes: the number of threads, which the loops read
    when they run; whether gradients are on, which they never are here; whether algorithms must be deterministic.
    Functions for the latter are kept apart, and a copy of the code object keeps torch from sharing what it compiled.
    """
    # A process may see many widths and fanouts; beyond the limit, torch silently runs eagerly.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILATIONS)
    _tag_cache()
    _watch_compilations()
    copy = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__,
        function.__closure__,
    )  # fmt: skip
    options: dict[str, Any] = {"cpp.dynamic_threads": True, "guard_filter_fn": _without_global_state}
    return torch.compile(copy, fullgraph=True, options=options)


def _watch_compilations() -> None:
    """Let torch say when it starts and ends to compile."""
    handler = torch._dynamo.callback.callback_handler
    if _compilation_started not in handler.start_callbacks:
        handler.register_start_callback(_compilation_started)
        handler.register_end_callback(_compilation_ended)


def _compilation_started(_: object) -> None:
    _State.compiling = True


def _compilation_ended(_: object) -> None:
    _State.compiling = False


def _without_global_state(guards: Sequence[Any]) -> list[bool]:
    return [guard.guard_type != "GLOBAL_STATE" for guard in guards]


def _tag_cache() -> None:
    """Separate torch's cache on disk by the processor's vector instructions.

    torch caches C++ that depends on the vector width under a key that does not, and another processor compiles the
    cached code: its results are wrong, or it overwrites memory.
    """
    if getattr(torch.compiler.config, "cache_key_tag", None) == "":  # keep a tag that the user has set
        torch.compiler.config.cache_key_tag = torch.backends.cpu.get_cpu_capability()


def _graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _first_line(error: Exception) -> str:
    """Return the first line of an error, or of the error that it wraps."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
    return (lines or [""])[0][:160]
