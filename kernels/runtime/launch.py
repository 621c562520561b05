"""What the Triton kernels share: triton where it is installed, block sizes, when kernels run, and how they launch."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

triton: Any  # imported by name, since a plain import would not be typed as exported from here
tl: Any
try:
    triton, tl = (importlib.import_module(name) for name in ("triton", "triton.language"))
except ImportError:  # no wheel for this platform; the references serve
    triton = tl = None


# Triton 3.10 will no longer contract products and sums by itself; the kernels want it.
OPTIONS = {"enable_fp_fusion": True}


@dataclass(frozen=True)
class Config:
    """Launch configuration of a kernel: block sizes by name, warps per program, stages of its software pipeline.

    `base` is what it was made from, where a launch fits a configuration to its shapes.
    """

    blocks: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    base: Config | None = None

    def __getitem__(self, block: str) -> int:
        return self.blocks[block]

    @property
    def options(self) -> dict[str, Any]:
        """What Triton's compiler is told."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **OPTIONS}


@dataclass(frozen=True)
class Launch:
    """One launch that was recorded instead of run."""

    kernel: Kernel
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any]
    config: Config

    @property
    def variant(self) -> str:
        """The kernel's variant whose configuration it took."""
        taken = self.config.base or self.config
        return next(name for name, config in self.kernel.chosen.items() if config is taken)


class Kernel:
    """A Triton function with the configurations it ships with.

    Args:
        function: the Python function, its constexpr parameters last.
        configs: by variant of the arithmetic or of the arguments' form ("float32" for all but the kernels that treat
            them apart), the first of each list being the default.
        space: for every block, "num_warps" and "num_stages" the values that tuning may choose, ascending.
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
        """The configuration in force: the shipped default, or what tuning chose; float32's where types are one."""
        return self.chosen.get(variant, self.chosen["float32"])

    def launch(self, grid: tuple[int, ...], config: Config, *arguments: Any, **constants: Any) -> None:
        """Run the kernel on a grid of programs, on the device of its tensors; an empty grid runs nothing."""
        if _State.recorded is not None:
            _State.recorded.append(Launch(self, arguments, constants, config))
        elif all(grid):
            with _device_of(arguments):
                self.function[grid](*arguments, **constants, **config.blocks, **config.options)


def _device_of(arguments: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Within it, the GPU that a launch's tensors lie on is the present one, which Triton launches on."""
    for argument in arguments:
        for part in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(part, torch.Tensor) and part.is_cuda:  # pinned host memory beside it is not
                return torch.cuda.device(part.device)
    return contextlib.nullcontext()


KERNELS: dict[str, Kernel] = {}

# The variants of operations that kernels compute in several ways, and the one taken where the caller names none.
VARIANTS: dict[str, tuple[str, ...]] = {}
VARIANTS_CHOSEN: dict[str, str] = {}


class _State:
    """Process-wide: whether Triton is used (None: for tensors on `kinds`), and launches recorded in place of run."""

    triton: bool | None = None
    recorded: list[Launch] | None = None
    kinds: tuple[str, ...] = ("cuda",)


def kernel(
    *configs: Config, space: Mapping[str, tuple[int, ...]], **variants: Sequence[Config]
) -> Callable[[Callable[..., None]], Kernel]:
    """Decorate a Triton function that launchers start; the first configuration is the default.

    Args:
        configs: configurations that ship. space: those that tuning may choose, as `Kernel` has it.
        variants: another arithmetic's or form's configurations by name, as in float64=[...].
    """

    def decorate(function: Callable[..., None]) -> Kernel:
        KERNELS[function.__name__] = Kernel(function, {"float32": configs, **variants}, space)
        return KERNELS[function.__name__]

    return decorate


def offer(operation: str, *names: str) -> None:
    """Register the variants of an operation, the shipped one first."""
    VARIANTS[operation], VARIANTS_CHOSEN[operation] = names, names[0]


def device_function(function: Callable[..., Any]) -> Any:
    """Decorate a Triton function that kernels call."""
    return function if triton is None else triton.jit(function)


@device_function
def add_product(b_sum, b_x, b_w, PRECISION: tl.constexpr):
    """b_sum + x W, in the type of b_sum: triton before 3.8 takes that for float32 unless it is told."""
    return tl.dot(b_x, b_w, b_sum, input_precision=PRECISION, out_dtype=b_sum.dtype)


@device_function
def real_rows(p_count, rows):
    """The number of real rows: all of them without a count."""
    stop = rows
    if p_count is not None:
        stop = tl.minimum(stop, tl.load(p_count).to(tl.int32))
    return stop


def use_triton(enabled: bool | None = None) -> None:
    """Choose between kernels and torch references for this process.

    Args:
        enabled: None, the default at import, uses Triton for tensors on a GPU where triton is installed; False never
            uses it; True always does, which for tensors on the CPU takes Triton's interpreter (TRITON_INTERPRET=1 in
            the environment before the import).

    Raises:
        ValueError: True where triton is not installed.
    """
    if enabled and triton is None:
        raise ValueError("use_triton: triton is not installed here; `pip install triton` (Linux), or leave it to None")
    _State.triton = enabled


def serve(*kinds: str) -> None:
    """Name the kinds of device whose tensors Triton takes: "cuda", and "cpu" beside a stand-in for a GPU's driver."""
    _State.kinds = kinds


def on_triton(tensor: torch.Tensor) -> bool:
    """Whether an operation on this tensor runs as a Triton kernel."""
    return served(tensor.device.type)


def served(kind: str) -> bool:
    """True where operations on a kind of device run as Triton kernels."""
    if _State.triton is None:
        return kind in _State.kinds and triton is not None
    return _State.triton


@contextlib.contextmanager
def references() -> Iterator[None]:
    """Within it, operations run as their torch references, wherever their tensors are."""
    before, _State.triton = _State.triton, False
    try:
        yield
    finally:
        _State.triton = before


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Within it, launches are collected instead of run; outputs stay unwritten. For ahead-of-time compilation."""
    before, _State.recorded = _State.recorded, []
    use, _State.triton = _State.triton, True
    try:
        yield _State.recorded
    finally:
        _State.recorded, _State.triton = before, use


def cdiv(count: int, block: int) -> int:
    """Blocks needed for `count` elements."""
    return -(-count // block)


def pow2(count: int, least: int = 16) -> int:
    """The least power of two that holds `count` elements, at least `least` (what a matrix unit takes)."""
    return max(least, 1 << max(count - 1, 0).bit_length())


def arithmetic(dtype: torch.dtype) -> str:
    """The variant of a kernel with products: "float32" for TF32, "ieee" for exact float32 products, "float64"."""
    if dtype == torch.float64:
        return "float64"
    return "float32" if input_precision(dtype) == "tf32" else "ieee"


def input_precision(dtype: torch.dtype) -> str:
    """`tl.dot`'s input precision for a dtype: TF32 where torch allows it for float32, else IEEE."""
    return "tf32" if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"
