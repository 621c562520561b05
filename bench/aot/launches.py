"""Specialisations of every kernel: cases, and the launches of one training iteration in each.

Nothing runs: launches are recorded for compilation ahead of time.
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
from bench.variants import callee, name_outputs, with_leaves
from mspipe_triton.kernels.runtime.launch import Launch, recording


@dataclass(frozen=True)
class Case:
    """One specialisation: arithmetic "float32" (TF32), "ieee" or "float64", width of edge rows, dtype of tables.

    `staged` calls operations as training in stages does: tables hold fetched rows, one per node or slot.
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
# By operation: the tables that training fetches beforehand, and the arguments that number their rows.
STAGED = {
    **{name: {"memory": "memory_rows", "partner": "partner_rows", "features": "feature_rows"} for name in UPDATERS},
    "temporal_attention": {"features": "feature_rows"},
    "attention_layer": {"features": "feature_rows"},
    "mailbox_attention": {"mails": "rows", "features": "feature_rows"},
}
# By operation with dropout: its arguments for draws.
DRAWS = {
    "temporal_attention": ("draws",),
    "attention_layer": ("draws", "output_draws"),
    "mailbox_attention": ("draws",),
}
WITH_COUNT = (*UPDATERS, "link_loss")  # operations with an optional number of real rows


def fetch_rows(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace the tables among an operation's arguments by the rows that it reads from them."""
    for table, rows in STAGED[name].items():
        places = arguments[rows].clamp(min=0).view(-1)
        arguments |= {table: arguments[table].index_select(0, places), rows: None}
    return arguments


def launches(case: Case) -> Iterator[Launch]:
    """Record the launches of one training iteration, in all variants of the operations; nothing runs."""
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
            arguments = fetch_rows(name, arguments) if case.staged else arguments
            leaves = operation.trained if tables is not None else operation.leaves
            arguments = with_leaves(arguments, tuple(key for key in leaves if key != "features"))
            arguments |= _optional(name, arguments) if optional and not (name in UPDATERS and case.staged) else {}
            torch.use_deterministic_algorithms(deterministic)
            with recording() as log, matmul_precision(precision):
                outputs = name_outputs(operation, callee(operation, variant)(**arguments))
                losses = [output.sum() for output in outputs.values() if output.requires_grad]
                if losses:
                    sum(losses).backward()
            torch.use_deterministic_algorithms(False)
            yield from log


def _optional(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Optional arguments of an operation: draws of dropout, places of roots, a count."""
    if name in DRAWS:
        return {"dropout": 0.1, **{key: torch.zeros(4, dtype=torch.int64) for key in DRAWS[name]}}
    if name == "sample_uniform":
        return {"places": torch.arange(arguments["roots"].numel())}
    return {"count": torch.zeros(1, dtype=torch.int64)} if name in WITH_COUNT else {}


def distinct(log: Iterable[Launch]) -> Iterator[Launch]:
    """First launch of each specialisation: kernel, constants, types of the arguments, absent arguments."""
    seen = set()
    for launch in log:
        kinds = [getattr(argument, "dtype", argument is None) for argument in launch.arguments]
        key = (launch.kernel.name, str(sorted(launch.constants.items(), key=str)), str(kinds))
        if key not in seen:
            seen.add(key)
            yield launch
