"""Kernels, their configurations and launches, and the choice between Triton and torch per process."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

triton: Any  # imported by name, since mypy does not export a plain import from here
tl: Any
try:
    triton, tl = (importlib.import_module(name) for name in ("triton", "triton.language"))
except ImportError:  # no wheel for this platform; the references run instead
    triton = tl = None


# Triton 3.10 no longer fuses multiply and add by default; the kernels need it.
OPTIONS = {"enable_fp_fusion": True}


@dataclass(frozen=True)
class Config:
    """Launch configuration of a kernel: block sizes by name, warps per program, stages of its software pipeline.

    `base` is the configuration that a launch fitted to its shapes, if any.
    """

    blocks: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    base: Config | None = None

    def __getitem__(self, block: str) -> int:
        return self.blocks[block]

    @property
    def options(self) -> dict[str, Any]:
        """Compiler options for Triton."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **OPTIONS}


@dataclass(frozen=True)
class Launch:
    """A launch that was recorded instead of run."""

    kernel: Kernel
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any]
    config: Config

    @property
    def variant(self) -> str:
        """The kernel's variant whose configuration the launch used."""
        base = self.config.base or self.config
        return next(name for name, config in self.kernel.chosen.items() if config is base)


class Kernel:
    """A Triton function and the configurations that it ships with.

    Args:
        function: the Python function, its constexpr parameters last.
        configs: lists by variant, which is an arithmetic or a form of the arguments ("float32" where a kernel has only
            one); the first of each list is the default.
        space: the values that tuning may choose, ascending, for every block, "num_warps" and "num_stages".
    """

    def __init__(
        self,
        function: Callable[..., None],
        configs: Mapping[str, Sequence[Config]],
        space: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.name = function.__name__
        self.function: Any = function if triton is None else triton.jit(function)
        self.configs, self.space = configs, dict(space or {})
        self.chosen = {variant: choices[0] for variant, choices in configs.items()}

    def config(self, variant: str = "float32") -> Config:
        """Return the active configuration: the shipped default or tuning's choice; float32's if none fits."""
        return self.chosen.get(variant, self.chosen["float32"])

    def launch(self, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        """Run the kernel on a grid of programs on its tensors' device; an empty grid runs nothing."""
        if _State.recorded is not None:
            _State.recorded.append(Launch(self, arguments, constants, config))
        elif all(grid):
            with _device_of(arguments):
                self.function[grid](*arguments, **constants, **config.blocks, **config.options)


def _device_of(arguments: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Return a context that makes the tensors' GPU current, since Triton launches on the current one."""
    for argument in arguments:
        for part in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(part, torch.Tensor) and part.is_cuda:  # pinned host memory is not on the GPU
                return torch.cuda.device(part.device)
    return contextlib.nullcontext()


KERNELS: dict[str, Kernel] = {}

# Variants of operations that have several implementations by kernels, and the default where the caller names none.
VARIANTS: dict[str, tuple[str, ...]] = {}
VARIANTS_CHOSEN: dict[str, str] = {}


class _State:
    """Process-wide state: whether to use Triton (None: for tensors on `kinds`), and the recorded launches."""

    triton: bool | None = None
    recorded: list[Launch] | None = None
    kinds: tuple[str, ...] = ("cuda",)


def kernel(
    *configs: Config, space: Mapping[str, tuple[int, ...]], **variants: Sequence[Config]
) -> Callable[[Callable[..., None]], Kernel]:
    """Decorate a Triton function that is launched; its first configuration is the default.

    Args:
        configs: the configurations that ship. space: the values that tuning may choose (see `Kernel`).
        variants: configurations for another arithmetic or form of the arguments, as in float64=[...].
    """

    def decorate(function: Callable[..., None]) -> Kernel:
        KERNELS[function.__name__] = Kernel(function, {"float32": configs, **variants}, space)
        return KERNELS[function.__name__]

    return decorate


def offer(operation: str, *names: str) -> None:
    """Register the variants of an operation, the default first."""
    VARIANTS[operation], VARIANTS_CHOSEN[operation] = names, names[0]


def device_function(function: Callable[..., Any]) -> Any:
    """Decorate a Triton function that kernels call."""
    return function if triton is None else triton.jit(function)


def use_triton(enabled: bool | None = None) -> None:
    """Choose between kernels and torch references for this process.

    Args:
        enabled: None, the default at import, uses Triton for tensors on a GPU if triton is installed; False never
            uses it; True always does, which on the CPU needs Triton's interpreter (TRITON_INTERPRET=1 in the
            environment before the import).

    Raises:
        ValueError: `enabled` is True and triton is not installed.
    """
    if enabled and triton is None:
        raise ValueError("use_triton: triton is not installed; run `pip install triton` (Linux), or pass None")
    _State.triton = enabled


def serve(*kinds: str) -> None:
    """Set the kinds of device that Triton serves: "cuda", and "cpu" with a stand-in for a GPU's driver."""
    _State.kinds = kinds


def on_triton(tensor: torch.Tensor) -> bool:
    """Return True if an operation on this tensor runs as a Triton kernel."""
    return served(tensor.device.type)


def served(kind: str) -> bool:
    """Return True if operations on a kind of device run as Triton kernels."""
    if _State.triton is None:
        return kind in _State.kinds and triton is not None
    return _State.triton


@contextlib.contextmanager
def references() -> Iterator[None]:
    """Run operations in this context as their torch references, on any device."""
    before, _State.triton = _State.triton, False
    try:
        yield
    finally:
        _State.triton = before


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Record launches in this context instead of running them, for ahead-of-time compilation; outputs stay empty."""
    before, _State.recorded = _State.recorded, []
    use, _State.triton = _State.triton, True
    try:
        yield _State.recorded
    finally:
        _State.recorded, _State.triton = before, use


def cdiv(count: int, block: int) -> int:
    """Return the number of blocks that cover `count` elements."""
    return -(-count // block)


def pow2(count: int, least: int = 16) -> int:
    """Return the smallest power of two that is at least `count` and `least` (a matrix unit needs 16)."""
    return max(least, 1 << max(count - 1, 0).bit_length())


def arithmetic(dtype: torch.dtype) -> str:
    """Return the variant of a kernel with products: "float32" for TF32, "ieee" for exact float32, or "float64"."""
    if dtype == torch.float64:
        return "float64"
    return "float32" if input_precision(dtype) == "tf32" else "ieee"


def input_precision(dtype: torch.dtype) -> str:
    """Return `tl.dot`'s input precision for a dtype: TF32 where torch allows it for float32, else IEEE."""
    return "tf32" if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"
