"""Expected results of a computation and the error allowed for rounding: one tolerance, derived from float64 alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode

from mspipe_triton.kernels.runtime.fusion import enable_fusion, fusion_enabled
from mspipe_triton.kernels.runtime.launch import input_precision, references
from mspipe_triton.kernels.runtime.operation import OPERATIONS

Named = dict[str, torch.Tensor]
Errors = dict[str, dict[str, Any]]

DRAWS = 8  # runs with random roundings
FACTOR = 4.0  # the largest error allowed, relative to the largest change that they cause
_TF32 = 2.0**-10  # the largest relative loss of a factor when its last 13 bits are cut off

_aten = torch.ops.aten
# The last two tensors are multiplied; a tensor before them is added.
_PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm"}
_SUMS = {"sum", "mean", "cumsum"}
_SCATTERS = {"index_add", "index_put", "scatter_add"}
# Not correctly rounded on every platform: up to 2 units in the last place, four times half a unit.
_FUNCTIONS = {"div", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "pow", "tanh", "sigmoid", "sin", "cos"}
# Elementwise; the result is one of the arguments or an integer.
_EXACT = {
    "abs", "neg", "sign", "round", "floor", "ceil", "relu", "clamp", "clamp_min", "maximum", "minimum", "where",
    "clone", "fill", "masked_fill", "threshold_backward",
}  # fmt: skip
_PARTS: Mapping[Any, Callable[..., Any]] = get_decompositions([
    _aten.native_layer_norm, _aten.native_layer_norm_backward, _aten._softmax, _aten._softmax_backward_data,
    _aten._log_softmax, _aten._log_softmax_backward_data, _aten.log_sigmoid_forward, _aten.log_sigmoid_backward,
    _aten.tanh_backward, _aten.sigmoid_backward, _aten.addcmul, _aten.addcdiv, _aten.lerp,
])  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """The expected results of a computation.

    Args:
        truth: the results by name, floating ones in float64.
        change: by name, the largest change of the truth by random roundings of the computation's dtype.
        dtypes: by name, the dtypes of the results in a computation of that dtype.
        dtype: the computation's dtype.
    """

    truth: Named
    change: Mapping[str, float]
    dtypes: Mapping[str, torch.dtype]
    dtype: torch.dtype

    def errors(self, actual: Named) -> Errors:
        """Return by name the largest error of a result, the allowed error, and whether the result passes.

        The allowed error is `FACTOR` times the largest change by random roundings (twice that in float64, where the
        truth itself is rounded), plus one rounding of the largest true value to the result's dtype. Without rounding,
        and in the computation's own dtype, no error is allowed. Integers must be equal; their error is the number of
        entries that differ. NaN never passes.
        """
        return {name: self._entry(actual[name], name) for name in self.truth}

    def _entry(self, value: torch.Tensor, name: str) -> dict[str, Any]:
        true, dtype = self.truth[name].to(value.device), self.dtypes[name]
        if value.shape != true.shape or value.dtype != dtype:
            return {"passed": False, "shape": [*value.shape], "dtype": str(value.dtype)}
        if not true.is_floating_point():
            error = float((value != true).sum())
            return {"passed": error == 0, "error": error, "allowed": 0.0}
        error, change = distance(value, true), self.change[name]
        allowed = FACTOR * change * (2 if self.dtype == torch.float64 else 1)
        if change > 0 or dtype != self.dtype:
            allowed += torch.finfo(dtype).eps * largest(true)
        return {"passed": error <= allowed, "error": error, "allowed": allowed}


def expected(run: Callable[[], Named], like: Named, draws: int = DRAWS) -> Expected:
    """Return the expected results of a computation in float32 or float64; float32 with TF32 products if torch allows.

    The error depends on the order of additions, which differs between processors, libraries and kernels, so no run in
    that dtype is a reference. Instead the float64 computation is repeated with every result moved by a random rounding
    of the dtype (Monte Carlo arithmetic: Parker 1997). A sum of n numbers is moved by √n roundings of the sum of
    magnitudes, which a random order of additions almost never exceeds (Higham and Mary 2019).

    Args:
        run: the computation with the torch references and all floating tensors in float64; called several times.
        like: its results, of which only the dtypes matter. The computation's dtype is float64 if all floating ones
            are, otherwise float32.
        draws: runs with random roundings; two are enough if every result has many entries.
    """
    dtypes = {name: value.dtype for name, value in like.items()}
    floating = {dtype for dtype in dtypes.values() if dtype.is_floating_point}
    dtype = torch.float64 if floating == {torch.float64} else torch.float32
    tf32 = input_precision(dtype) == "tf32"
    with plain_references():
        truth = run()
        change = dict.fromkeys(truth, 0.0)
        for seed in range(draws):
            with Rounded(dtype, seed, tf32):
                results = run()
            for name, true in truth.items():
                if true.is_floating_point():
                    change[name] = max(change[name], distance(results[name], true))
    return Expected(truth, change, dtypes, dtype)


@contextmanager
def plain_references() -> Iterator[None]:
    """Run operations as references, without compiling them."""
    before = fusion_enabled()
    enable_fusion(False)
    try:
        with references():
            yield
    finally:
        enable_fusion(before)


def distance(value: torch.Tensor, true: torch.Tensor) -> float:
    """Return the largest difference from a float64 truth; 0 for empty tensors."""
    return largest(value.double() - true)


def largest(value: torch.Tensor) -> float:
    """Return the largest magnitude; 0 for an empty tensor."""
    return float(value.detach().abs().max()) if value.numel() else 0.0


class Rounded(TorchDispatchMode):
    """Moves the float64 results of torch's operations by random roundings of another dtype.

    Our own and torch's composite operations are decomposed. Operations that move data, select or compare are exact.

    Args:
        dtype: of the roundings. seed: of the random numbers. tf32: True cuts the factors of products to TF32 first.
    """

    def __init__(self, dtype: torch.dtype, seed: int, tf32: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unit, self.seed, self.tf32 = torch.finfo(dtype).eps / 2, seed, tf32
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        with self:
            result = _decompose(func, args, keywords)
        if result is not NotImplemented:
            return result
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        if self.tf32 and name in _PRODUCTS:
            args = self._cut(args)
        bound = _sum_bound(name, args, keywords)  # before the call, which may write its first argument
        result = func(*args, **keywords)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64 and not func.is_view:
            number = result.detach()
            if bound is not None:
                number.addcmul_(bound, self._draw(number, 0.0, self.unit))
            elif name in ("sin", "cos"):  # near 0 they lose relative accuracy, since the angle is reduced
                number.add_(self._draw(number, 0.0, 4 * self.unit))
            elif _rounds(func, name, args):
                number.mul_(self._draw(number, 1.0, (4 if name in _FUNCTIONS else 1) * self.unit))
        return result

    def _cut(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a product's arguments, with a random part of the last bits of both factors cut off."""
        factors = [place for place, value in enumerate(args) if isinstance(value, torch.Tensor)][-2:]
        return tuple(
            value * self._draw(value, 1 - _TF32 / 2, _TF32 / 2) if place in factors else value
            for place, value in enumerate(args)
        )

    def _draw(self, like: torch.Tensor, middle: float, radius: float) -> torch.Tensor:
        """Return numbers uniform from `middle` − `radius` to `middle` + `radius`."""
        device = like.device
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return torch.empty_like(like).uniform_(middle - radius, middle + radius, generator=self.generators[device])


def _decompose(func: torch._ops.OpOverload, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Return the result of a composite operation, computed from its parts, or NotImplemented."""
    if func.namespace == "mspipe_triton":
        return OPERATIONS[func._schema.name.removeprefix("mspipe_triton::")](*args)
    if func is _aten.var_mean.correction:
        return _var_mean(*args, **keywords)
    if func in _PARTS:
        return _PARTS[func](*args, **keywords)
    return func.decompose(*args, **keywords)


def _var_mean(
    value: torch.Tensor, dim: list[int], *, correction: float, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    mean = value.mean(dim, keepdim=True)
    number = value.numel() // max(mean.numel(), 1) - correction
    var = ((value - mean) ** 2).sum(dim, keepdim=keepdim) / number
    return var, mean if keepdim else mean.squeeze(dim)


def _sum_bound(name: str, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> torch.Tensor | None:
    """Return √n Σ|x| for an operation that sums n numbers x, or None."""
    floats = [place for place, value in enumerate(args) if _floating(value)]
    if name not in _PRODUCTS | _SUMS | _SCATTERS or not floats:
        return None
    if name == "index_put" and not (len(args) > 3 and args[3]):
        return None  # it writes, and adds nothing

    def sums(values: Mapping[int, torch.Tensor]) -> torch.Tensor:
        options = {key: value for key, value in keywords.items() if key != "out"}
        total: torch.Tensor = getattr(_aten, name)(*(values.get(k, value) for k, value in enumerate(args)), **options)
        return total

    bound = sums({place: args[place].abs() for place in floats})
    first, last = floats[0], floats[-1]
    if name in _PRODUCTS:
        number = float(args[floats[-2]].shape[-1] + len(floats) - 2)
    elif name in _SUMS:
        number = args[first].numel() / max(bound.numel(), 1)
    else:
        number = 1 + largest(sums({first: torch.zeros_like(args[first]), last: torch.ones_like(args[last])}))
    return bound * math.sqrt(number)


def _rounds(func: torch._ops.OpOverload, name: str, args: tuple[Any, ...]) -> bool:
    """Return True if each entry of the result is rounded, by an elementwise operation or from an integer."""
    if name == "_to_copy":
        return not _floating(args[0])
    return torch.Tag.pointwise in func.tags and name not in _EXACT


def _floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
