"""The specialisations of every kernel: cases, and the launches that one training iteration makes in each.

Nothing runs: launches are recorded, for compilation ahead of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from bench.cases.random_batch import Shape
from bench.cases.registry import OPERATIONS, build
from bench.cases.updaters import UPDATERS
from bench.roofline import matmul_precision
from bench.variants import callee, returned, with_leaves
from mspipe_triton.kernels.runtime.launch import Launch, recording


@dataclass(frozen=True)
class Case:
    """One specialisation: arithmetic "float32" (TF32), "ieee" or "float64", width of edge rows, dtype of tables.

    `staged` is as training calls: rows have been fetched before, so that tables have a row for every node or slot.
    """

    arithmetic: str
    features: int
    tables: str = ""
    staged: bool = False

    def __str__(self) -> str:
        tables = f", {self.tables} tables" if self.tables else ""
        return f"{self.arithmetic}, {self.features} features{tables}{', staged rows' * self.staged}"


CASES = [
    Case("float32", 172),
    Case("float32", 0),
    Case("float32", 413),
    Case("float32", 172, "bfloat16"),
    Case("ieee", 172),
    Case("float64", 172),
    Case("float64", 413),
    *(Case(arithmetic, 172, staged=True) for arithmetic in ("float32", "ieee", "float64")),
]
# Of the operations that take a table with or without the rows to read from it, those that training fetches before.
STAGED = {
    **{name: {"memory": "memory_rows", "partner": "partner_rows", "features": "feature_rows"} for name in UPDATERS},
    "temporal_attention": {"features": "feature_rows"},
    "attention_layer": {"features": "feature_rows"},
    "mailbox_attention": {"mails": "rows", "features": "feature_rows"},
}
# Of the operations with dropout, the draws that they take.
DRAWS = {
    "temporal_attention": ("draws",),
    "attention_layer": ("draws", "output_draws"),
    "mailbox_attention": ("draws",),
}
COUNTED = (*UPDATERS, "link_loss")  # those that may be told how many rows are real


def staged(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """An operation's arguments with the rows of its tables in the tables' place."""
    for table, rows in STAGED[name].items():
        places = arguments[rows].clamp(min=0).view(-1)
        arguments |= {table: arguments[table].index_select(0, places), rows: None}
    return arguments


def launches(case: Case) -> Iterator[Launch]:
    """What one training iteration would launch, in all variants of the operations; nothing runs."""
    dtype = torch.float64 if case.arithmetic == "float64" else torch.float32
    tables = getattr(torch, case.tables) if case.tables else None
    shape = Shape("AOT", 200, 2000, case.features, 16)
    precision = "highest" if case.arithmetic == "ieee" else "high"
    for name, operation in OPERATIONS.items():
        if case.staged and name not in STAGED:
            continue
        variants = ["triton", "triton-split"] if name == "memory_gru" else ["triton"]
        modes = (False, True) if name in ("temporal_attention", "attention_layer") else (False,)
        for variant, deterministic, optional in product(variants, modes, (True, False)):
            arguments = build(name, shape, dtype=dtype, table_dtype=tables)
            arguments = staged(name, arguments) if case.staged else arguments
            leaves = operation.trained if tables is not None else operation.leaves
            arguments = with_leaves(arguments, tuple(key for key in leaves if key != "features"))
            arguments |= _optional(name) if optional and not (name in UPDATERS and case.staged) else {}
            torch.use_deterministic_algorithms(deterministic)
            with recording() as recorded, matmul_precision(precision):
                outputs = returned(operation, callee(operation, variant)(**arguments))
                losses = [output.sum() for output in outputs.values() if output.requires_grad]
                if losses:
                    sum(losses).backward()
            torch.use_deterministic_algorithms(False)
            yield from recorded


def _optional(name: str) -> dict[str, Any]:
    """What an operation may be given or not: draws of dropout, a count."""
    if name in DRAWS:
        return {"dropout": 0.1, **{key: torch.zeros(4, dtype=torch.int64) for key in DRAWS[name]}}
    return {"count": torch.zeros(1, dtype=torch.int64)} if name in COUNTED else {}


def distinct(recorded: Iterable[Launch]) -> Iterator[Launch]:
    """Of launches the first of each specialisation: kernel, constants, types of the arguments and which are absent."""
    seen = set()
    for launch in recorded:
        kinds = [getattr(argument, "dtype", argument is None) for argument in launch.arguments]
        key = (launch.kernel.name, str(sorted(launch.constants.items(), key=str)), str(kinds))
        if key not in seen:
            seen.add(key)
            yield launch
