"""What the benchmarks know of an operation: its arguments on a scene, its outputs, the least work that it must do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.cases.random_batch import Numbers, RandomBatch


@dataclass(frozen=True)
class Work:
    """The least bytes that must be moved and floating-point operations that must be done: forward, and backward alone.

    The backward pass is training's: to the weights and to what the model computed, not to tables of data or a fixed φ.
    """

    bytes: int
    flops: int = 0
    backward_bytes: int = 0
    backward_flops: int = 0


@dataclass(frozen=True)
class Operation:
    """A public operation as the benchmarks know it.

    Args:
        name: of the function; outputs: names of what it returns.
        arguments: its keyword arguments on a scene; work: its least work there, given bytes a number of tables and of
            computation.
        leaves: arguments that may need a gradient; trained: those that do in training.
        mutated: arguments (tensors or lists of them) that it writes.
        indices: arguments that may be int32.
        tables: arguments that may lie in pinned host memory.
        fuses: whether the reference has loops that fusion compiles.
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
