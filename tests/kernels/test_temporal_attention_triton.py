"""temporal_attention as kernels: against torch forward and backward, as operations, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mspipe_triton.kernels import enable_debug, launch, temporal_attention
from mspipe_triton.kernels.temporal_attention import _operation, attention_kernel
from mspipe_triton.kernels.temporal_attention_backward import attention_backward_kernel, temporal_attention_backward
from tests.kernels.attention_case import Agree, Case, Named

Derived = Callable[[Named, Named, Named], None]

# Of a root without neighbours the kernel subtracts −∞ from −∞, and takes none of it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")

FORMS: dict[str, dict[str, Any]] = {
    "one of each": dict(roots=1, fanout=1, width=1, heads=1, dim=1, times=1, counts="all", dropout=0.1),
    "a row a slot": dict(roots=5),
    "shared queries": dict(roots=9, queries=4, indexed_features=True),
    "dropout": dict(roots=3, fanout=4, heads=1, queries=2, counts="all", dropout=0.3),
    "no edge features": dict(roots=3, width=0),
    "no neighbours": dict(roots=3, counts="none"),
    "wiki": dict(roots=2, fanout=10, width=172, dim=100, times=100, queries=2),
    "wide": dict(roots=2, fanout=3, width=413, heads=1, dim=3, times=172, indexed_features=True),
    "four heads": dict(roots=2, fanout=17, heads=4, dim=16, times=8),
}


@pytest.fixture(params=["atomic", "deterministic"])
def sums(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to sum gradients over roots and slots."""
    torch.use_deterministic_algorithms(request.param == "deterministic")
    yield request.param
    torch.use_deterministic_algorithms(False)


def three(case: Case) -> tuple[Named, Named, Named]:
    """With gradients: by the kernels, by torch in the same dtype, by torch in float64."""
    actual = case.with_gradients(case.actual())
    launch.use_triton(False)
    wide = case.to(torch.float64)
    return actual, case.with_gradients(case.actual()), wide.with_gradients(wide.actual())


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("form", FORMS)
def test_float32(form: str, derived: Derived) -> None:
    derived(*three(Case(**FORMS[form]).to(torch.float32)))


@pytest.mark.usefixtures("interpreter", "poisoned", "sums")
@pytest.mark.parametrize("form", ["one of each", "shared queries", "dropout"])
def test_float64(form: str, agree: Agree) -> None:
    case = Case(**FORMS[form])
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned", "sums")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bfloat16_rows(dtype: torch.dtype, derived: Derived, agree: Agree) -> None:
    case = Case(4, queries=2, indexed_features=True).to(dtype, torch.bfloat16)
    actual, same, truth = three(case)
    assert actual["table"].dtype == torch.bfloat16
    if dtype == torch.float32:
        derived(actual, same, truth)
    else:
        assert torch.equal(actual.pop("table"), same.pop("table"))
        agree(actual, same)


@pytest.mark.usefixtures("interpreter")
def test_large_time_differences(derived: Derived) -> None:
    case = Case(**FORMS["dropout"])
    case.deltas = case.deltas * 1e5
    derived(*three(case.to(torch.float32)))


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize(("block", "held"), [(4, 0), (8, 1000)])
def test_columns_in_several_blocks(block: int, held: int, monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    """Node, edge and time columns lie apart or share a block; a row's blocks are kept or read again."""
    for kernel in (attention_kernel, attention_backward_kernel):
        monkeypatch.setitem(kernel.chosen, "float64", launch.Config({"BLOCK": block, "HELD": held}))
    case = Case(2, 3, 4, queries=2, dim=5, times=6, counts="all", dropout=0.3)
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned", "sums")
@pytest.mark.parametrize("queries", [None, 3])
def test_no_roots(queries: int | None) -> None:
    case = Case(0, queries=queries)
    named = case.with_gradients(case.actual())
    assert named["context"].shape == (0, 2, 10)
    assert not any(bool(value.any()) for value in named.values())


@pytest.mark.usefixtures("interpreter", "poisoned", "sums")
def test_int32_indices_padding_and_rows_apart(agree: Agree) -> None:
    case = Case(5, queries=3, indexed_features=True)
    assert case.feature_rows is not None
    assert case.query_rows is not None
    case.feature_rows[:, ::2] = -1  # in filled slots: row 0
    expected = case.with_gradients(case.expected())
    case.rows = torch.where(case.empty, -1, case.rows).int()
    case.feature_rows = torch.where(case.empty, -40, case.feature_rows).int()
    case.filled, case.query_rows = case.filled.int(), case.query_rows.int()
    case.features = torch.cat([case.features, case.features], 1)[:, :3]
    case.leaves["table"] = case.leaves["table"].detach().repeat(1, 2)[:, :4].requires_grad_()
    case.leaves["query"] = case.leaves["query"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not case.leaves["query"].is_contiguous()
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_empty_slots_are_not_read(agree: Agree) -> None:
    case = Case(5)
    expected = case.with_gradients(case.expected())
    case.deltas[case.empty], case.rows[case.empty] = torch.nan, 2**40
    case.features[case.empty.view(-1)] = torch.nan
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("name", ["table", "query", "bias", "frequency", "phase"])
def test_gradient_of_one_leaf_alone(name: str, agree: Agree) -> None:
    case = Case(2, queries=2)
    expected = case.with_gradients(case.expected())[name]
    for other, leaf in case.leaves.items():
        leaf.requires_grad_(other == name)
    context, total = case.actual()
    loss = (context * case.probes[0]).sum() + (total * case.probes[1]).sum()
    agree({name: torch.autograd.grad(loss, case.leaves[name])[0]}, {name: expected})


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("which", [0, 1])
def test_gradient_of_one_result_as_a_plain_sum(which: int, agree: Agree) -> None:
    """The incoming gradient is one number, expanded, and the other result's is none."""
    case = Case(3)
    leaves = list(case.leaves.values())
    actual = torch.autograd.grad(case.actual()[which].sum(), leaves)
    expected = torch.autograd.grad(case.expected()[which].sum(), leaves, materialize_grads=True)
    agree(dict(zip(case.leaves, actual, strict=True)), dict(zip(case.leaves, expected, strict=True)))


def arguments(case: Case, save: bool = True) -> tuple[Any, ...]:
    leaves = case.leaves
    return (
        leaves["table"], case.rows, case.features, case.feature_rows, case.deltas, case.filled, leaves["frequency"],
        leaves["phase"], leaves["query"], case.query_rows, leaves["bias"], case.dropout, case.draws, save,
    )  # fmt: skip


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize(("dropout", "dtype"), [(0.6, torch.float32), (0.3, torch.float64)])
def test_dropout_is_that_of_torch_to_the_bit(dropout: float, dtype: torch.dtype) -> None:
    """One neighbour a root: its weight is 1, and the total is its multiplier."""
    case = Case(2, 1, 0, 4, 1, 1, counts="all", dropout=dropout).to(dtype)
    with torch.no_grad():
        actual = _operation(*arguments(case))
        launch.use_triton(False)
        expected = _operation(*arguments(case))
    assert torch.equal(actual[1], expected[1])
    assert torch.equal(actual[3] < 0, expected[3] < 0)
    assert bool((actual[3] < 0).any())


@pytest.mark.parametrize("triton", [True, False])
def test_nothing_is_saved_without_a_gradient(triton: bool, request: pytest.FixtureRequest) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    case, seen = Case(3), []
    for leaf in case.leaves.values():
        leaf.requires_grad_(False)
    saved = _operation(*arguments(case, save=False))[2:]
    assert [tensor.numel() for tensor in saved] == [0, 0, 0]
    case.leaves["bias"].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor.shape), lambda _: None):
        with torch.no_grad():
            assert not case.actual()[0].requires_grad
        assert not seen
        assert case.actual()[0].requires_grad
    assert (3, 2, 6) in seen


@pytest.mark.parametrize(("form", "save"), [("no edge features", True), ("dropout", True), ("shared queries", False)])
def test_operation_is_well_formed(form: str, save: bool) -> None:
    case = Case(**FORMS[form])
    if not save:
        for leaf in case.leaves.values():
            leaf.requires_grad_(False)
    torch.library.opcheck(_operation, arguments(case, save))


@pytest.mark.parametrize(("form", "needs"), [("no edge features", True), ("dropout", True), ("shared queries", False)])
def test_backward_operation_is_well_formed(form: str, needs: bool) -> None:
    case = Case(**FORMS[form])
    with torch.no_grad():
        _, _, *saved = _operation(*arguments(case))
    tensors = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments(case)[:10]]
    given = (*case.probes, *tensors, *saved, case.dropout, needs, needs)
    torch.library.opcheck(temporal_attention_backward, given)


def test_a_second_derivative_is_refused() -> None:
    case = Case(2)
    (slope,) = torch.autograd.grad(case.actual()[0].sum(), case.leaves["query"], create_graph=True)
    with pytest.raises(RuntimeError, match="temporal_attention_backward: no second derivative"):
        torch.autograd.grad(slope.sum(), case.leaves["query"])


@pytest.mark.parametrize("form", ["a row a slot", "dropout"])
def test_compiles_as_one_graph(form: str, agree: Agree) -> None:
    case = Case(**FORMS[form])
    expected = case.with_gradients(case.actual())
    compiled = torch.compile(case.actual, fullgraph=True, backend="aot_eager")
    agree(case.with_gradients(compiled()), expected)


def call(**changes: Any) -> None:
    case = Case(3, queries=2, indexed_features=True, dropout=0.1)
    names = (
        "table rows features feature_rows deltas counts frequency phase query query_rows bias dropout draws".split()  # noqa: SIM905
    )
    named = dict(zip(names, arguments(case)[:13], strict=True))
    temporal_attention(**{name: changes.get(name, value) for name, value in named.items()})


F64, I64 = torch.float64, torch.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(2, 2, 10, dtype=torch.bfloat16)}, "query is torch.bfloat16; give float32 or float64"),
        ({"bias": torch.zeros(2, 2)}, "bias is torch.float32 beside query in torch.float64"),
        ({"table": torch.zeros(40, 4, dtype=torch.float16)}, "table is torch.float16"),
        ({"rows": torch.zeros(3, 6, dtype=torch.int16)}, "rows is torch.int16; give int32 or int64"),
        ({"counts": torch.zeros(3)}, "counts is torch.float32"),
        ({"draws": torch.zeros(4)}, "draws is torch.float32"),
        ({"table": torch.zeros(4, 40, dtype=F64).T}, r"table \(40, 4\) has strides \(1, 40\)"),
        ({"deltas": torch.zeros(6, 3, dtype=F64).T}, r"deltas \(3, 6\) has strides"),
        ({"table": torch.zeros(40, 5, dtype=F64)}, "query has width 10, neighbour rows have 11"),
        ({"deltas": torch.zeros(3, 5, dtype=F64)}, r"deltas has shape \(3, 5\); give \(3, 6\)"),
        ({"counts": torch.zeros(2, dtype=I64)}, r"counts has shape \(2,\); give \(3,\)"),
        ({"bias": torch.zeros(2, 1, dtype=F64)}, r"bias has shape \(2, 1\); give \(2, 2\)"),
        ({"feature_rows": None}, r"features has shape \(50, 3\); give \(18, 3\)"),
        ({"query_rows": None}, r"query has shape \(2, 2, 10\); give \(3, 2, 10\)"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "not -0.1"),
        ({"draws": None}, "dropout needs draws"),
        ({"rows": torch.zeros(3, 6, dtype=I64, device="meta")}, "rows is on meta, not on cpu; move it with"),
        ({"table": torch.zeros(40, 4, dtype=F64, device="meta")}, "table is on meta"),
    ],
)  # fmt: skip
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"temporal_attention: .*{message}"):
        call(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": torch.full((3, 6), 40)}, r"rows holds 40, outside \[0, 40\)"),
        ({"query_rows": torch.full((3,), 2)}, r"query_rows holds 2, outside \[0, 2\)"),
        ({"feature_rows": torch.full((3, 6), 50)}, r"feature_rows holds 50, outside \[0, 50\); negatives are padding"),
        ({"counts": torch.full((3,), 7)}, r"counts holds 7, outside \[0, 7\)"),
    ],
    ids=["rows", "query_rows", "feature_rows", "counts"],
)
def test_debugging_finds_ids_outside_their_tables(changes: dict[str, Any], message: str) -> None:
    enable_debug()
    try:
        call()
        with pytest.raises(ValueError, match=message):
            call(**{"counts": torch.full((3,), 6), **changes})
    finally:
        enable_debug(False)


@pytest.mark.parametrize("name", ["features", "table"])
def test_rows_in_pageable_host_memory_are_refused(name: str) -> None:
    case = Case(3, dropout=0.1)
    on_device = {
        key: value.detach().to("meta") if isinstance(value, torch.Tensor) else value
        for key, value in zip(
            ("table", "rows", "features", "feature_rows", "deltas", "counts", "frequency", "phase", "query",
             "query_rows", "bias", "dropout", "draws"), arguments(case)[:13], strict=True,
        )
    }  # fmt: skip
    host = case.features if name == "features" else case.leaves["table"].detach()
    with pytest.raises(ValueError, match=rf"{name} is in pageable host memory.*{name}\.pin_memory\(\)"):
        temporal_attention(**{**on_device, name: host})
    if name == "table":
        with pytest.raises(ValueError, match="table is on cpu, not on meta"):
            temporal_attention(**{**on_device, name: host.requires_grad_()})
