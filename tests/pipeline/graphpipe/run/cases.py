"""Cases of the tests of pipelined runs: small modules by name, with seeded weights and mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from tests.pipeline.graphpipe.run.models import (
    DLRM,
    MMT,
    Diamond,
    Dropped,
    FanOut,
    Frozen,
    Normalised,
    SeparateLosses,
    Skip,
    Summed,
    Twins,
    TwoBranch,
    TwoLosses,
)

BATCH = 12
Inputs = tuple[Tensor, ...]
Result = TypeVar("Result")


def _reals(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape)


def _labels(classes: int, *shape: int) -> Tensor:
    return torch.randint(classes, (BATCH, *shape))


def _towers() -> Inputs:
    return _reals(6), _reals(5), _labels(3), _reals()


class Case(NamedTuple):
    """A module's class, and a function that draws a mini-batch for it."""

    module: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]


CASES = {
    "two-branch": Case(TwoBranch, lambda: (_reals(6), _reals(5), _reals())),
    "diamond": Case(Diamond, lambda: (_reals(6), _labels(3))),
    "fan-out": Case(FanOut, lambda: (_reals(6), _reals())),
    "dlrm": Case(DLRM, lambda: (_reals(5), _labels(11, 3), _labels(7, 2), _labels(2).to(torch.get_default_dtype()))),
    "mmt": Case(MMT, lambda: (_reals(5, 8), _reals(4, 8), _labels(4))),
    "two-losses": Case(TwoLosses, _towers),
    "separate-losses": Case(SeparateLosses, _towers),
    "summed": Case(Summed, _towers),
    "skip": Case(Skip, lambda: (_reals(6), _reals())),
    "frozen": Case(Frozen, lambda: (_labels(9), _reals())),
    "normalised": Case(Normalised, lambda: (_reals(6), _reals())),
    "dropped": Case(Dropped, lambda: (_reals(6), _reals())),
    "twins": Case(Twins, lambda: (_reals(6),)),
}


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a module of `CASES`; its weights are always the same ones."""
    return _seeded(CASES[name].module, 1, dtype)


def batches(name: str, dtype: torch.dtype, count: int) -> Iterator[Inputs]:
    """Yield mini-batches of `BATCH` samples, always the same ones."""
    for number in range(count):
        yield _seeded(CASES[name].inputs, 100 + number, dtype)


def _seeded(function: Callable[[], Result], seed: int, dtype: torch.dtype) -> Result:
    """Call a function with a seed of its own and a default dtype, without effect on other random numbers."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            return function()
        finally:
            torch.set_default_dtype(before)
