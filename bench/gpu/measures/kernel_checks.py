"""Checks of one operation's kernels on the device that they run on; each is recorded with its errors and allowances."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.cases.operation import Operation
from bench.cases.random_batch import TINY, WIKI, Shape
from bench.cases.registry import OPERATIONS, build, short
from bench.cases.updaters import UPDATERS
from bench.gpu.setup import Rows, Setup
from bench.roofline import matmul_precision
from bench.timing import captured, cloned, synchronises
from bench.variants import (
    CPU,
    Errors,
    Judge,
    Named,
    callee,
    expected,
    failures,
    judge,
    outcome,
    poisoned,
    result,
    unjudged,
    variant,
)

# Widths of 1 and 3, no edge features, one neighbour; an odd number of roots; the widest rows; the real sizes.
NARROW = Shape("NARROW", 40, 200, 0, 5, dim=1, times=3, fanout=1)
ODD = Shape("ODD", 300, 2000, 172, 41)
WIDE = Shape("WIDE", 500, 3000, 413, 50, dim=172, times=100)
QUICK = Shape("QUICK", 12, 40, 2, 2, dim=5, times=3, fanout=3)
RACING = (
    "unique_nodes", "aggregate_messages", "aggregate_messages-mean", "deliver_mails", "deliver_mails-mean",
    "temporal_attention", "attention_layer",
)  # fmt: skip
FLOAT32, FLOAT64, BFLOAT16 = torch.float32, torch.float64, torch.bfloat16


def shapes(setup: Setup) -> list[Shape]:
    """The shapes at which values are checked, each with a name of its own."""
    return [QUICK] if setup.quick else [TINY, NARROW, ODD, WIDE, WIKI[1]]


def values(setup: Setup, name: str, shape: str) -> Rows:
    """Outputs, what is mutated and gradients of an operation at the shape of a name."""
    yield from (("correctness", row) for row in Checker(name, setup).values(shape))


def others(setup: Setup, name: str) -> Rows:
    """An operation's counts, races, captured graph, pinned tables and refusals."""
    yield from (("correctness", row) for row in Checker(name, setup).others())


def deterministic(setup: Setup, name: str) -> Rows:
    """An operation in deterministic mode."""
    yield "correctness", Checker(name, setup).deterministic()


@dataclass(frozen=True)
class Checker:
    """Runs one operation's checks.

    Args:
        name: in OPERATIONS. setup: where its kernels run. Every check draws inputs of its own.
    """

    name: str
    setup: Setup

    @property
    def seed(self) -> int:
        """The seed of the operation's first check."""
        return self.setup.seed + 1000 * list(OPERATIONS).index(self.name)

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return torch.device(self.setup.device)

    @property
    def how(self) -> str:
        """The variant that is checked."""
        return "interpreter" if self.setup.target == "cpu" else "triton"

    @property
    def hows(self) -> list[str]:
        """The variants of the operation's kernels."""
        split = self.name == "memory_gru" and self.setup.target != "cpu"
        return [self.how, *(["triton-split"] if split else [])]

    @property
    def large(self) -> Shape:
        """The shape of checks that need the real size."""
        return QUICK if self.setup.quick else WIKI[1]

    def values(self, name: str) -> Iterator[dict[str, Any]]:
        """Records of outputs and gradients at the shape of this name."""
        place, shape = next((place, shape) for place, shape in enumerate(shapes(self.setup)) if shape.name == name)
        number = 100 * place
        for settings in self._settings(shape):
            for how in self.hows:
                number += 1
                yield self._record("values", shape, self.seed + number, self._values, how=how, **settings)

    def others(self) -> Iterator[dict[str, Any]]:
        """Records of all else, but for deterministic mode."""
        small = shapes(self.setup)[0]
        if self.name in UPDATERS:
            for how in self.hows:
                yield self._record("count", small, self.seed + 900, self._count, how=how)
        if self.name in RACING:
            yield self._record("races", self.large, self.seed + 901, self._races)
        if self.setup.gpu:
            yield self._record("graph", self.large, self.seed + 902, self._graph)
        if self.setup.target != "cpu" and OPERATIONS[self.name].tables:
            yield self._record("pinned", ODD, self.seed + 903, self._pinned)
        yield self._record("refusals", small, self.seed + 904, self._refusals)

    def deterministic(self) -> dict[str, Any]:
        """The same bits, run after run, under torch.use_deterministic_algorithms."""
        return self._record("deterministic", self.large, self.seed + 905, self._races, deterministic=True)

    def _settings(self, shape: Shape) -> list[dict[str, Any]]:
        """Dtypes of computation and tables, int32 rows and padded tables, TF32 where it is asked for.

        Each is another compilation, so the extreme widths have one or two.
        """
        narrow = {"indices": torch.int32, "padding": 5}
        made: list[dict[str, Any]] = [
            {"dtype": FLOAT32, **(narrow if self.setup.quick else {})}, {"dtype": FLOAT64},
            {"dtype": FLOAT32, "table_dtype": BFLOAT16},
        ]  # fmt: skip
        if shape in (NARROW, WIDE):
            return made[:: 2 if shape is WIDE else 3]
        if not self.setup.quick:
            made.append({"dtype": FLOAT32, **narrow})
        if self.setup.target != "cpu" and OPERATIONS[self.name].leaves:
            made.append({"dtype": FLOAT32, "precision": "high"})
        return made

    def _record(
        self, check: str, shape: Shape, seed: int, body: Callable[..., Errors], **settings: Any
    ) -> dict[str, Any]:
        """Run one check; whatever goes wrong in it becomes part of its record."""
        shown = {key: value if isinstance(value, (int, str)) else str(value) for key, value in settings.items()}
        record = {"operation": self.name, "check": check, "shape": str(shape), "seed": seed, "settings": shown}
        try:
            found = body(shape, seed, **settings)
            if self.setup.gpu:
                torch.cuda.synchronize()
        except Exception as error:  # a check that fails must not keep the others from running
            where = traceback.format_exc(limit=-3)
            return {**record, "passed": False, "message": f"{type(error).__name__}: {error}"[:600], "where": where}
        return {**record, "passed": self.setup.verdict(not failures(found)), "results": found}

    def _arguments(self, shape: Shape, seed: int, **settings: Any) -> dict[str, Any]:
        """Inputs; with long time differences at the real size alone."""
        made = build(self.name, shape, seed=seed, device=self.device, **settings)
        return made if shape is WIKI[1] else short(made)

    def _judge(self, operation: Operation, arguments: dict[str, Any], seed: int) -> Judge:
        """The results to compare with; a stub computes nothing to compare."""
        return (unjudged if self.setup.stub else judge)(operation, arguments, seed, self.device)

    def _values(self, shape: Shape, seed: int, how: str, precision: str = "highest", **settings: Any) -> Errors:
        """Outputs, mutated tables and every gradient against float64; outputs are poisoned before."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed, **settings)
        with matmul_precision(precision):
            judged = self._judge(operation, arguments, seed)
            return judged(result(operation, how, arguments, judged.grads))

    def _count(self, shape: Shape, seed: int, how: str) -> Errors:
        """A memory updater with rows beyond `count`, whose numbers mean nothing."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed)
        nodes = arguments["deltas"].numel()
        padded = {
            key: torch.cat([arguments[key], arguments[key].new_full((7,), junk)])
            for key, junk in (
                ("memory_rows", -1), ("partner_rows", -1), ("feature_rows", -1), ("deltas", 1e6), ("has_mail", 0),
            )
        }  # fmt: skip
        judged = self._judge(operation, arguments, seed)
        grads = {
            key: torch.cat([value, value.new_ones(7, value.shape[1])]) for key, value in (judged.grads or {}).items()
        }
        given = {**arguments, **padded, "count": torch.full((1,), nodes, device=self.device)}
        actual = result(operation, how, given, grads)
        beyond = {"beyond": actual["h"][nodes:]}
        zeros = {"beyond": torch.zeros_like(beyond["beyond"])}
        nothing = expected(lambda: {"beyond": zeros["beyond"].double()}, zeros)
        return judged({**actual, "h": actual["h"][:nodes]}) | nothing.errors(beyond)

    def _races(self, shape: Shape, seed: int, deterministic: bool = False) -> Errors:
        """Twenty runs on the same inputs: right each time, and the same bits wherever no float is added atomically."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed)
        judged = self._judge(operation, arguments, seed)
        same_bits = deterministic or not operation.leaves
        first: Named = {}
        found: Errors = {}
        with variant(self.how), poisoned(), _deterministic(deterministic):
            for _ in range(20 if self.setup.gpu and not self.setup.quick else 2):
                actual = outcome(operation, callee(operation, self.how), arguments, judged.grads)
                first = first or actual
                for name, entry in judged(actual).items():
                    changed = not torch.equal(actual[name], first[name])
                    entry["changed_runs"] = found.get(name, {}).get("changed_runs", 0) + changed
                    entry["passed"] = entry["passed"] and not (same_bits and changed)
                    worst = name not in found or entry["error"] >= found[name]["error"] or not entry["passed"]
                    found[name] = entry if worst else {**found[name], "changed_runs": entry["changed_runs"]}
        return found

    def _graph(self, shape: Shape, seed: int) -> Errors:
        """Nothing waits for the device, and the replay of a captured graph computes what the call does."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed)
        judged = self._judge(operation, arguments, seed)
        with variant(self.how):
            call = callee(operation, self.how)

            def run() -> Named:
                return outcome(operation, call, arguments, judged.grads)

            run()
            waits = synchronises(run)
            if waits is not None:
                raise RuntimeError(f"a call waits for the device: {waits}")
            replay, results = captured([run])
        for value in results[0].values():
            value.fill_(torch.nan if value.is_floating_point() else -7)
        replay()
        return judged(results[0])

    def _pinned(self, shape: Shape, seed: int) -> Errors:
        """Tables in pinned host memory; gradients of all but them."""
        tables = OPERATIONS[self.name].tables
        kept = tuple(name for name in OPERATIONS[self.name].leaves if name not in tables)
        operation, arguments = replace(OPERATIONS[self.name], leaves=kept), self._arguments(shape, seed)
        judged = self._judge(operation, arguments, seed)
        if self.setup.gpu:
            arguments |= {name: arguments[name].to(CPU).pin_memory() for name in tables}
        return judged(result(operation, self.how, arguments, judged.grads))

    def _refusals(self, shape: Shape, seed: int) -> Errors:
        """Each wrong argument raises a ValueError that names the operation, and the device works on."""
        operation = OPERATIONS[self.name]
        arguments = self._arguments(shape, seed)
        call, found = callee(operation, self.how), {}
        with variant(self.how):
            for key in operation.indices:
                right = arguments[key]
                wrong = {"dtype": right.float(), "layout": torch.stack([right, right], -1)[..., 0]}
                if self.setup.gpu and len(arguments) > 2:  # more than unique_nodes' one tensor
                    wrong["device"] = right.to(CPU)
                for kind, value in wrong.items():
                    if kind == "layout" and value.is_contiguous():
                        continue
                    found[f"{key} {kind}"] = _refusal(lambda key=key, value=value: call(**{**arguments, key: value}))
            call(**cloned(arguments))
        alive = torch.arange(10, device=self.device).sum()
        found["alive"] = {"passed": int(alive) == 45}
        return found


def _refusal(attempt: Callable[[], Any]) -> dict[str, Any]:
    try:
        attempt()
    except ValueError as error:
        return {"passed": True, "message": str(error)}
    except Exception as error:  # any other kind is what this check looks for
        return {"passed": False, "message": f"{type(error).__name__}: {error}"[:300]}
    return {"passed": False, "message": "was taken"}


@contextmanager
def _deterministic(enabled: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
