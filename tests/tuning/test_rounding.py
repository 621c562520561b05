"""The tolerance of every kernel check: it allows rounding in any order of additions, and catches faults."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import layer_norm, logsigmoid

from mspipe_triton.kernels import memory_gru
from mspipe_triton.tuning.rounding import FACTOR, Expected, Named, Rounded, expected

ROOT = Path(__file__).resolve().parents[2]
F32, F64 = torch.float32, torch.float64
Compute = Callable[[Named], torch.Tensor]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def perturb(compute: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor, seed: int = 0) -> torch.Tensor:
    with Rounded(F32, seed):
        return compute(value.clone())


ROUNDED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: x + 1,
    "in place": lambda x: x.mul_(1.5),
    "function": torch.tanh,
    "cosine near its zero": lambda x: torch.cos(torch.full_like(x, torch.pi / 2)),
    "product": lambda x: x @ x.t(),
    "product with a sum": lambda x: torch.addmm(x[0], x, x[:, :4]),
    "batched product": lambda x: torch.baddbmm(x[None], x[None], x[None, :, :4][:, :4].repeat(1, 1, 1)[:, :4]),
    "product into": lambda x: torch.mm(x, x.t(), out=x.new_empty(4, 4)),
    "composite product": lambda x: torch.matmul(x, x[0]),
    "total": lambda x: x.sum(1),
    "mean": lambda x: x.mean(),
    "running total": lambda x: x.cumsum(0),
    "scattered": lambda x: x.index_add(0, torch.tensor([1, 1]), x[:2])[1],
    "scattered in place": lambda x: x.index_put_((torch.tensor([2, 2]),), x[:2].clone(), accumulate=True)[2],
    "softmax": lambda x: torch.softmax(x, 1),
    "norm": lambda x: layer_norm(x, (4,)),
    "gain": logsigmoid,
    "of integers": lambda x: torch.arange(1, 9).to(F64),
}
EXACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "view": lambda x: x.view(-1)[3:],
    "rows": lambda x: x[torch.tensor([2, 0])],
    "choice": lambda x: torch.where(x > 0, x, -x).relu().clamp(max=1.0),
    "joined": lambda x: torch.cat([x, x.abs()]),
    "written": lambda x: x.index_put((torch.tensor([1]),), x[:1]),
    "copied": lambda x: torch.zeros_like(x).copy_(x),
    "wider": lambda x: x.float().double(),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUNDED)
def test_operations_that_round_are_moved_by_a_few_roundings(name: str) -> None:
    value, compute = normal(4, 4), ROUNDED[name]
    true, first, again, other = compute(value.clone()), *(perturb(compute, value, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    error = float((first - true).abs().max())
    assert 0 < error < 64 * 2.0**-24 * max(1.0, float(true.abs().max()))


@pytest.mark.parametrize("name", EXACT)
def test_operations_that_move_or_select_are_exact(name: str) -> None:
    value, compute = normal(4, 4), EXACT[name]
    assert torch.equal(perturb(compute, value), compute(value.clone()))


def test_our_own_operations_are_decomposed() -> None:
    """The result moves by more than its own rounding, through those of the products and the gates."""
    weights = [normal(12, 11), normal(12, 4), normal(12), normal(12)]
    inputs = (normal(5, 4), None, normal(5, 4), None, normal(5, 1), None, normal(5).abs(), torch.arange(5) > 1)

    def update(table: torch.Tensor) -> torch.Tensor:
        return memory_gru(table, *inputs[1:], normal(2), normal(2), *weights)

    h, error = update(inputs[0]), perturb(update, inputs[0]) - update(inputs[0])
    assert float(error.abs().max()) > 2.0**-24 * float(h.abs().max())


def test_the_error_of_a_sum_grows_with_the_root_of_its_terms() -> None:
    """With 64 times as many equal terms the sum is 64 times as large, and its relative error 8 times."""
    like = {"sum": torch.ones(())}
    few, many = (expected(lambda n=n: {"sum": torch.ones(n, dtype=F64).sum()}, like) for n in (4, 256))
    assert many.change["sum"] / few.change["sum"] == pytest.approx(64 * 8)


def allowed_of_a_layer() -> float:
    x = normal(40, 30)
    return expected(lambda: {"z": layer_norm(torch.tanh(x @ x.t()), (40,))}, {"z": x.float()}).change["z"]


@pytest.mark.slow
def test_the_tolerance_is_the_same_on_every_processor() -> None:
    """Compare this processor with torch without vector instructions."""
    code = "from tests.tuning.test_rounding import allowed_of_a_layer; print(allowed_of_a_layer())"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert float(process.stdout) == pytest.approx(allowed_of_a_layer(), rel=1e-6)


def in_order(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over the first dimension, added one by one."""
    total = torch.zeros_like(values[0])
    for value in values:
        total = total + value
    return total


def product(inputs: Named, order: str = "torch") -> torch.Tensor:
    """Return x Wᵀ + b with an order of additions."""
    terms = (inputs["x"][:, None] * inputs["weight"]).permute(2, 0, 1)
    if order == "backwards":
        return in_order(terms.flip(0)) + inputs["bias"]
    if order == "forwards":
        return inputs["bias"] + in_order(terms)
    if order == "blocks":
        return in_order(torch.stack([in_order(block) for block in terms.split(16)])) + inputs["bias"]
    return torch.addmm(inputs["bias"], inputs["x"], inputs["weight"].t())


def activation(inputs: Named, order: str = "torch") -> torch.Tensor:
    return torch.softmax(torch.tanh(product(inputs, order)), 1)


def random_inputs(seed: int, rows: int = 17, width: int = 70) -> Named:
    shapes = {"x": (rows, width), "weight": (9, width), "bias": (9,)}
    return {name: normal(*shape, seed=10 * seed + k).to(F32) for k, (name, shape) in enumerate(shapes.items())}


def outcome(inputs: Named, compute: Compute) -> Named:
    """Return the result and the gradients of its sum of squares."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    result = compute(leaves)
    gradients = torch.autograd.grad((result**2).sum(), list(leaves.values()))
    return {"result": result.detach(), **dict(zip(leaves, gradients, strict=True))}


def expectation(inputs: Named, compute: Compute) -> Expected:
    wide = {name: value.double() for name, value in inputs.items()}
    return expected(lambda: outcome(wide, compute), outcome(inputs, compute))


def wrong(right: Expected, actual: Named) -> set[str]:
    return {name for name, entry in right.errors(actual).items() if not entry["passed"]}


@pytest.mark.parametrize("compute", [product, activation], ids=["product", "activation"])
@pytest.mark.parametrize("rows", [1, 17])
def test_every_order_of_additions_passes(compute: Callable[..., torch.Tensor], rows: int) -> None:
    largest = 0.0
    for seed in range(10):
        inputs = random_inputs(seed, rows)
        right = expectation(inputs, compute)
        for order in ("torch", "forwards", "backwards", "blocks"):
            errors = right.errors(outcome(inputs, lambda leaves, order=order: compute(leaves, order)))
            assert all(entry["passed"] for entry in errors.values()), (order, errors)
            largest = max(largest, *(entry["error"] / entry["allowed"] for entry in errors.values()))
    assert largest > 0.02, "the tolerance is not far above the rounding error"


def truncate(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Cut off the last bits of float32 numbers; the gradient passes through."""
    truncated = ((value.detach().view(torch.int32) >> bits) << bits).view(F32)
    return value + (truncated - value.detach())


FAULTS: dict[str, Compute] = {
    "a term left out": lambda case: product({**case, "x": case["x"][:, :-1], "weight": case["weight"][:, :-1]}),
    "a term twice": lambda case: product(case) + case["x"][:, :1] * case["weight"][:, 0],
    "a column's term of the next block": lambda case: product({**case, "weight": case["weight"].roll(1, 1)}),
    "the bias twice": lambda case: product(case) + case["bias"],
    "the bias left out": lambda case: product({**case, "bias": 0 * case["bias"]}),
    "the last row of a block masked": lambda case: product(case) * (torch.arange(len(case["x"])) % 16 != 15)[:, None],
    "factors in TF32": lambda case: product({**case, **{name: truncate(case[name], 13) for name in ("x", "weight")}}),
    "one factor in TF32": lambda case: product({**case, "x": truncate(case["x"], 13)}),
    "factors in bfloat16": lambda case: product({**case, "x": case["x"].bfloat16().float()}),
    "sums in float16": lambda case: product({name: value.half() for name, value in case.items()}, "forwards").float(),
    "the result in float16": lambda case: product(case).half().float(),
    "eight last bits lost": lambda case: truncate(product(case), 8),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_caught(name: str) -> None:
    inputs = random_inputs(1)
    assert "result" in wrong(expectation(inputs, product), outcome(inputs, FAULTS[name]))


def test_tf32_is_allowed_where_torch_allows_it_and_bfloat16_is_not() -> None:
    inputs, before = random_inputs(1), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        right = expectation(inputs, product)
    finally:
        torch.set_float32_matmul_precision(before)
    assert "result" not in wrong(right, outcome(inputs, FAULTS["factors in TF32"]))
    coarse = {**inputs, "x": truncate(inputs["x"], 18), "weight": truncate(inputs["weight"], 18)}
    assert "result" in wrong(right, {**outcome(inputs, product), "result": product(coarse)})
    assert "result" in wrong(right, outcome(inputs, FAULTS["a term left out"]))


def test_float32_within_a_float64_computation_is_caught() -> None:
    inputs = {name: value.double() for name, value in random_inputs(1).items()}
    right = expectation(inputs, product)
    assert not wrong(right, outcome(inputs, lambda leaves: product(leaves, "backwards")))
    narrow = {name: value.float() for name, value in inputs.items()}
    assert "result" in wrong(right, {**outcome(inputs, product), "result": product(narrow).double()})


def test_copies_are_exact_and_bfloat16_results_have_one_rounding() -> None:
    table = random_inputs(1)["x"]
    right = expected(lambda: {"rows": table.double()[:5]}, {"rows": table[:5]})
    assert not wrong(right, {"rows": table[:5]})
    assert wrong(right, {"rows": table[:5] * (1 + 2.0**-23)})
    stored = expected(lambda: {"rows": table.double()[:5]}, {"rows": table[:5].bfloat16()})
    assert not wrong(stored, {"rows": table[:5].bfloat16()})
    assert wrong(stored, {"rows": (table[:5] * 1.02).bfloat16()})


def test_dtypes_shapes_integers_and_nan() -> None:
    right = expected(lambda: {"x": normal(3) * 3, "n": torch.arange(3)}, {"x": normal(3).float(), "n": torch.arange(3)})
    good = {"x": (normal(3) * 3).float(), "n": torch.arange(3)}
    assert not wrong(right, good)
    assert wrong(right, {**good, "x": good["x"].double()}) == {"x"}
    assert wrong(right, {**good, "x": good["x"][:2]}) == {"x"}
    assert wrong(right, {**good, "x": torch.full((3,), torch.nan)}) == {"x"}
    assert right.errors({**good, "n": torch.tensor([0, 7, 8])})["n"] == {"passed": False, "error": 2.0, "allowed": 0.0}
    assert right.errors(good)["x"]["allowed"] > FACTOR * right.change["x"]
    double = replace(right, dtype=F64, dtypes={"x": F64, "n": torch.int64})
    assert double.errors({**good, "x": normal(3) * 3})["x"]["allowed"] > 2 * FACTOR * right.change["x"]
