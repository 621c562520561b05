"""Checks of one operation's kernels on their device; each row holds the errors and what is allowed."""

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

# Widths of 1 and 3, no edge features, one neighbour; an odd number of roots; the widest rows; small sizes.
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
    """List the shapes at which values are checked, with distinct names."""
    return [QUICK] if setup.quick else [TINY, NARROW, ODD, WIDE, WIKI[1]]


def values(setup: Setup, name: str, shape: str) -> Rows:
    """Check an operation's outputs, mutated tables and gradients at a named shape."""
    yield from (("correctness", row) for row in Checker(name, setup).values(shape))


def behaviour(setup: Setup, name: str) -> Rows:
    """Check an operation's counts, races, captured graph, pinned tables and refusals."""
    yield from (("correctness", row) for row in Checker(name, setup).behaviour())


def deterministic(setup: Setup, name: str) -> Rows:
    """Check an operation in deterministic mode."""
    yield "correctness", Checker(name, setup).deterministic()


@dataclass(frozen=True)
class Checker:
    """Checks of one operation, each on its own random inputs.

    Args:
        name: in OPERATIONS. setup: says where its kernels run.
    """

    name: str
    setup: Setup

    @property
    def seed(self) -> int:
        """Seed of the operation's first check."""
        return self.setup.seed + 1000 * list(OPERATIONS).index(self.name)

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return torch.device(self.setup.device)

    @property
    def variant(self) -> str:
        """Main variant of the kernels."""
        return "interpreter" if self.setup.target == "cpu" else "triton"

    @property
    def variants(self) -> list[str]:
        """All variants of the operation's kernels."""
        split = self.name == "memory_gru" and self.setup.target != "cpu"
        return [self.variant, *(["triton-split"] if split else [])]

    @property
    def large(self) -> Shape:
        """Shape of the checks that need a real size."""
        return QUICK if self.setup.quick else WIKI[1]

    def values(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield rows on outputs and gradients at the shape of this name."""
        index, shape = next((index, shape) for index, shape in enumerate(shapes(self.setup)) if shape.name == name)
        number = 100 * index
        for settings in self._settings(shape):
            for how in self.variants:
                number += 1
                yield self._row("values", shape, self.seed + number, self._values, how=how, **settings)

    def behaviour(self) -> Iterator[dict[str, Any]]:
        """Yield rows of all other checks, except deterministic mode."""
        small = shapes(self.setup)[0]
        if self.name in UPDATERS:
            for how in self.variants:
                yield self._row("count", small, self.seed + 900, self._count, how=how)
        if self.name in RACING:
            yield self._row("races", self.large, self.seed + 901, self._races)
        if self.setup.gpu:
            yield self._row("graph", self.large, self.seed + 902, self._graph)
        if self.setup.target != "cpu" and OPERATIONS[self.name].tables:
            yield self._row("pinned", ODD, self.seed + 903, self._pinned)
        yield self._row("refusals", small, self.seed + 904, self._refusals)

    def deterministic(self) -> dict[str, Any]:
        """Check that every run gives the same bits under torch.use_deterministic_algorithms."""
        return self._row("deterministic", self.large, self.seed + 905, self._races, deterministic=True)

    def _settings(self, shape: Shape) -> list[dict[str, Any]]:
        """List dtypes of computation and tables, int32 rows with padded tables, and TF32.

        Each needs another compilation, so the extreme widths have one or two.
        """
        narrow = {"indices": torch.int32, "padding": 5}
        settings: list[dict[str, Any]] = [
            {"dtype": FLOAT32, **(narrow if self.setup.quick else {})}, {"dtype": FLOAT64},
            {"dtype": FLOAT32, "table_dtype": BFLOAT16},
        ]  # fmt: skip
        if shape in (NARROW, WIDE):
            return settings[:: 2 if shape is WIDE else 3]
        if not self.setup.quick:
            settings.append({"dtype": FLOAT32, **narrow})
        if self.setup.target != "cpu" and OPERATIONS[self.name].leaves:
            settings.append({"dtype": FLOAT32, "precision": "high"})
        return settings

    def _row(self, check: str, shape: Shape, seed: int, body: Callable[..., Errors], **settings: Any) -> dict[str, Any]:
        """Run one check and return its row, with its errors or its exception."""
        text = {key: value if isinstance(value, (int, str)) else str(value) for key, value in settings.items()}
        row = {"operation": self.name, "check": check, "shape": str(shape), "seed": seed, "settings": text}
        try:
            errors = body(shape, seed, **settings)
            if self.setup.gpu:
                torch.cuda.synchronize()
        except Exception as error:  # one check must not stop the others
            where = traceback.format_exc(limit=-3)
            return {**row, "passed": False, "message": f"{type(error).__name__}: {error}"[:600], "where": where}
        return {**row, "passed": self.setup.verdict(not failures(errors)), "results": errors}

    def _arguments(self, shape: Shape, seed: int, **settings: Any) -> dict[str, Any]:
        """Build inputs; only those at the real size have long time differences."""
        arguments = build(self.name, shape, seed=seed, device=self.device, **settings)
        return arguments if shape is WIKI[1] else short(arguments)

    def _judge(self, operation: Operation, arguments: dict[str, Any], seed: int) -> Judge:
        """Compute the results to compare with; a stub has nothing to compare."""
        return (unjudged if self.setup.stub else judge)(operation, arguments, seed, self.device)

    def _values(self, shape: Shape, seed: int, how: str, precision: str = "highest", **settings: Any) -> Errors:
        """Compare outputs, mutated tables and every gradient with float64, on poisoned outputs."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed, **settings)
        with matmul_precision(precision):
            judgement = self._judge(operation, arguments, seed)
            return judgement(result(operation, how, arguments, judgement.grads))

    def _count(self, shape: Shape, seed: int, how: str) -> Errors:
        """Check a memory updater on inputs with meaningless rows beyond `count`."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed)
        nodes = arguments["deltas"].numel()
        longer = {
            key: torch.cat([arguments[key], arguments[key].new_full((7,), junk)])
            for key, junk in (
                ("memory_rows", -1), ("partner_rows", -1), ("feature_rows", -1), ("deltas", 1e6), ("has_mail", 0),
            )
        }  # fmt: skip
        judgement = self._judge(operation, arguments, seed)
        grads = {
            key: torch.cat([value, value.new_ones(7, value.shape[1])]) for key, value in (judgement.grads or {}).items()
        }
        inputs = {**arguments, **longer, "count": torch.full((1,), nodes, device=self.device)}
        actual = result(operation, how, inputs, grads)
        beyond = {"beyond": actual["h"][nodes:]}
        zeros = {"beyond": torch.zeros_like(beyond["beyond"])}
        expected_zeros = expected(lambda: {"beyond": zeros["beyond"].double()}, zeros)
        return judgement({**actual, "h": actual["h"][:nodes]}) | expected_zeros.errors(beyond)

    def _races(self, shape: Shape, seed: int, deterministic: bool = False) -> Errors:
        """Compare twenty runs on the same inputs: all correct, and the same bits unless floats are added atomically."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed)
        judgement = self._judge(operation, arguments, seed)
        same_bits = deterministic or not operation.leaves
        first: Named = {}
        errors: Errors = {}
        with variant(self.variant), poisoned(), _deterministic(deterministic):
            for _ in range(20 if self.setup.gpu and not self.setup.quick else 2):
                actual = outcome(operation, callee(operation, self.variant), arguments, judgement.grads)
                first = first or actual
                for name, entry in judgement(actual).items():
                    changed = not torch.equal(actual[name], first[name])
                    entry["changed_runs"] = errors.get(name, {}).get("changed_runs", 0) + changed
                    entry["passed"] = entry["passed"] and not (same_bits and changed)
                    worst = name not in errors or entry["error"] >= errors[name]["error"] or not entry["passed"]
                    errors[name] = entry if worst else {**errors[name], "changed_runs": entry["changed_runs"]}
        return errors

    def _graph(self, shape: Shape, seed: int) -> Errors:
        """Check that a call never waits for the device, and that a replay of its captured graph gives its results."""
        operation, arguments = OPERATIONS[self.name], self._arguments(shape, seed)
        judgement = self._judge(operation, arguments, seed)
        with variant(self.variant):
            call = callee(operation, self.variant)

            def run() -> Named:
                return outcome(operation, call, arguments, judgement.grads)

            run()
            waits = synchronises(run)
            if waits is not None:
                raise RuntimeError(f"a call waits for the device: {waits}")
            replay, results = captured([run])
        for value in results[0].values():
            value.fill_(torch.nan if value.is_floating_point() else -7)
        replay()
        return judgement(results[0])

    def _pinned(self, shape: Shape, seed: int) -> Errors:
        """Check tables in pinned host memory, and the gradients of all other inputs."""
        tables = OPERATIONS[self.name].tables
        leaves = tuple(name for name in OPERATIONS[self.name].leaves if name not in tables)
        operation, arguments = replace(OPERATIONS[self.name], leaves=leaves), self._arguments(shape, seed)
        judgement = self._judge(operation, arguments, seed)
        if self.setup.gpu:
            arguments |= {name: arguments[name].to(CPU).pin_memory() for name in tables}
        return judgement(result(operation, self.variant, arguments, judgement.grads))

    def _refusals(self, shape: Shape, seed: int) -> Errors:
        """Check that each wrong argument raises a ValueError, and that the device still works afterwards."""
        operation = OPERATIONS[self.name]
        arguments = self._arguments(shape, seed)
        call, results = callee(operation, self.variant), {}
        with variant(self.variant):
            for key in operation.indices:
                right = arguments[key]
                wrong = {"dtype": right.float(), "layout": torch.stack([right, right], -1)[..., 0]}
                if self.setup.gpu and len(arguments) > 2:  # not unique_nodes, which has only one tensor
                    wrong["device"] = right.to(CPU)
                for kind, value in wrong.items():
                    if kind == "layout" and value.is_contiguous():
                        continue
                    results[f"{key} {kind}"] = _refusal(lambda key=key, value=value: call(**{**arguments, key: value}))
            call(**cloned(arguments))
        alive = torch.arange(10, device=self.device).sum()
        results["alive"] = {"passed": int(alive) == 45}
        return results


def _refusal(attempt: Callable[[], Any]) -> dict[str, Any]:
    try:
        attempt()
    except ValueError as error:
        return {"passed": True, "message": str(error)}
    except Exception as error:  # any other exception fails the check
        return {"passed": False, "message": f"{type(error).__name__}: {error}"[:300]}
    return {"passed": False, "message": "was accepted"}


@contextmanager
def _deterministic(enabled: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
