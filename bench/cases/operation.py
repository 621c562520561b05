"""Operations as the benchmarks see them: arguments on a random batch, outputs, least work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.cases.random_batch import Numbers, RandomBatch


@dataclass(frozen=True)
class Work:
    """Least bytes moved and floating-point operations done, in the forward pass and in the backward pass alone.

    The backward pass is training's: gradients of weights and computed values, not of tables of data or a fixed φ.
    """

    bytes: int
    flops: int = 0
    backward_bytes: int = 0
    backward_flops: int = 0


@dataclass(frozen=True)
class Operation:
    """Benchmark case of a public operation.

    Args:
        name: name of the function; outputs: names of the values that it returns.
        arguments: makes its keyword arguments from a random batch; work: computes its least work there, from the bytes
            per number of tables and of the computation.
        leaves: arguments that may need a gradient; trained: those that need one in training.
        mutated: arguments (tensors or lists of tensors) that it writes.
        indices: arguments that may be int32.
        tables: arguments that may be in pinned host memory.
        fuses: the reference has loops that fusion compiles.
    """

    name: str
    arguments: Callable[[RandomBatch, Numbers], dict[str, Any]]
    work: Callable[[RandomBatch, int, int], Work]
    outputs: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    mutated: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    fuses: bool = True
