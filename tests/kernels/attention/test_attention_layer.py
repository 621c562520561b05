"""The attention layer in torch: forms, dropout, garbage in empty slots, single gradients, refused arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.kernels import attention_layer, enable_debug
from mspipe_triton.kernels.attention import layer
from tests.kernels.attention.layer_case import DRAWS, LayerCase
from tests.kernels.comparing import Agree
from tests.kernels.runtime.operation_case import check

PARAMETERS = [
    f"{name}_{kind}" for name in ("query", "key", "value", "output", "norm") for kind in ("weight", "bias")
]  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("counts", ["some", "none", "all"])
def test_forms(counts: str, indexed_features: bool, dropout: float, agree: Agree) -> None:
    check(LayerCase(9, indexed_features=indexed_features, counts=counts, dropout=dropout), agree)


@pytest.mark.parametrize(
    "sizes",
    [
        {"roots": 1, "fanout": 1, "width": 0, "heads": 1, "dim": 1, "times": 1, "distinct": 1},
        {"roots": 33, "fanout": 10, "width": 17, "heads": 4, "dim": 20, "times": 10, "distinct": 30},
        {"roots": 8, "dim": 3, "heads": 3, "eps": 0.5},
    ],
)
def test_sizes(sizes: dict[str, Any], agree: Agree) -> None:
    check(LayerCase(**sizes), agree)


def test_every_gradient_is_nonzero(agree: Agree) -> None:
    expected = check(LayerCase(33, indexed_features=True, dropout=0.3), agree)
    assert list(expected) == ["z", "table", "frequency", "phase", *PARAMETERS]
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())


def test_no_roots() -> None:
    for distinct in (0, 5):
        case = LayerCase(0)
        case.distinct = distinct
        results = case.with_gradients(case.actual())
        assert results["z"].shape == (0, 6)
        assert not any(bool(value.any()) for value in results.values())


def test_empty_slots_are_not_read(agree: Agree) -> None:
    for indexed_features in (True, False):
        case = LayerCase(9, indexed_features=indexed_features)
        expected = case.with_gradients(case.expected())
        case.spoil(1e9)
        agree(case.with_gradients(case.actual()), expected)


def test_int32_indices_and_gaps_between_rows(agree: Agree) -> None:
    case = LayerCase(9, indexed_features=True)
    expected = case.with_gradients(case.expected())
    case.narrow()
    agree(case.with_gradients(case.actual()), expected)


def test_bfloat16_rows_are_read_exactly(agree: Agree) -> None:
    case = LayerCase(9, indexed_features=True).to(torch.float64, torch.bfloat16)
    wide = case.to(torch.float64)
    actual, expected = case.with_gradients(case.actual()), wide.with_gradients(wide.actual())
    assert torch.equal(actual.pop("table"), expected.pop("table").bfloat16())
    agree(actual, expected)


def test_nothing_is_saved_without_a_gradient() -> None:
    case, shapes = LayerCase(3), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: shapes.append(tensor.shape), lambda _: None):
        with torch.no_grad():
            assert not case.actual().requires_grad
        assert not shapes
        assert case.actual().requires_grad
    assert shapes
    assert all(tensor.numel() == 0 for tensor in case.operation(*case.arguments(save=False))[1:])


def test_an_unused_result_gives_no_gradient() -> None:
    case = LayerCase(3)
    (gradient,) = torch.autograd.grad(
        (case.actual() * 0).sum() + case.leaves["table"].sum(), case.leaves["table"]
    )  # fmt: skip
    assert torch.equal(gradient, torch.ones_like(gradient))
    outputs = case.operation(*case.arguments())
    assert [output.requires_grad for output in outputs] == [True] + [False] * 11


F64, I64 = torch.float64, torch.int64
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"heads": 4}, "attention_layer: 4 heads do not divide the table's 6 columns; give a divisor of 6"),
    ({"heads": 0}, "0 heads do not divide"),
    ({"distinct": 31}, "distinct is 31; give at most the table's 30 rows"),
    ({"distinct": -1}, "distinct is -1"),
    ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
    ({"dropout": 0.1, "output_draws": DRAWS}, "dropout needs draws, the Philox words"),
    ({"dropout": 0.1, "draws": DRAWS}, "dropout needs output_draws, the Philox words"),
    ({"draws": DRAWS.int()}, "draws is torch.int32; give int64"),
    ({"output_draws": torch.zeros(5, dtype=I64)}, r"output_draws has shape \(5,\); give \(4,\)"),
    ({"table": torch.zeros(30, 6)[0]}, r"table has shape \(6,\); give 2 dimensions"),
    ({"table": torch.zeros(30, 6, dtype=I64)}, "table is torch.int64; give float32 or float64 or bfloat16"),
    ({"table": torch.zeros(30, 12, dtype=F64)[:, ::2]}, r"table \(30, 6\) has strides \(12, 2\)"),
    ({"table": torch.zeros(30, 6, dtype=F64, device="meta")}, "table is on meta, not on cpu"),
    ({"root_rows": torch.zeros(4, dtype=I64)}, r"root_rows has shape \(4,\); give \(3,\)"),
    ({"root_rows": torch.zeros(3)}, "root_rows is torch.float32; give int32 or int64"),
    ({"rows": torch.zeros(3, 4)}, "rows is torch.float32"),
    ({"features": torch.zeros(11, 3, dtype=F64)}, r"features has shape \(11, 3\); give \(12, 3\)"),
    ({"deltas": torch.zeros(3, 5, dtype=F64)}, r"deltas has shape \(3, 5\); give \(3, 4\)"),
    ({"frequency": torch.zeros(3)}, "frequency is torch.float32 beside query_weight in torch.float64"),
    ({"phase": torch.zeros(4, dtype=F64)}, r"phase has shape \(4,\); give \(3,\)"),
    ({"query_weight": torch.zeros(6, 8, dtype=F64)}, r"query_weight has shape \(6, 8\); give \(6, 9\)"),
    ({"query_weight": torch.zeros(6, 9).half()}, "query_weight is torch.float16; give float32 or float64"),
    ({"key_weight": torch.zeros(6, 13, dtype=F64)}, r"key_weight has shape \(6, 13\); give \(6, 12\)"),
    ({"value_weight": torch.zeros(12, 6, dtype=F64).t()}, r"value_weight has strides \(1, 6\); give value_weight.con"),
    ({"output_weight": torch.zeros(6, 6, dtype=F64)}, r"output_weight has shape \(6, 6\); give \(6, 12\)"),
    ({"output_bias": torch.zeros(6)}, "output_bias is torch.float32 beside query_weight in torch.float64"),
    ({"norm_bias": torch.zeros(5, dtype=F64)}, r"norm_bias has shape \(5,\); give \(6,\)"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_layer(**{**LayerCase(3).keywords(), **changes})


def test_rows_in_pageable_host_memory_are_refused() -> None:
    arguments = LayerCase(3).detached_keywords()
    on_meta = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in arguments.items()}
    for name in ("table", "features"):
        with pytest.raises(ValueError, match=rf"{name} is in pageable host memory.*{name}\.pin_memory\(\)"):
            attention_layer(**{**on_meta, name: arguments[name]})
    with pytest.raises(ValueError, match="table is on cpu, not on meta"):
        attention_layer(**{**on_meta, "table": arguments["table"].requires_grad_()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root_rows": torch.full((3,), 5)}, r"root_rows holds 5, outside \[0, 5\)"),
        ({"rows": torch.full((3, 4), 30)}, r"rows holds 30, outside \[0, 30\)"),
        ({"counts": torch.full((3,), 5)}, r"counts holds 5, outside \[0, 5\)"),
    ],
)
def test_debugging_finds_rows_outside_their_tables(changes: dict[str, Any], message: str) -> None:
    case = LayerCase(3, counts="all")
    enable_debug()
    try:
        case.actual()
        with pytest.raises(ValueError, match=message):
            case.actual(**changes)
    finally:
        enable_debug(False)


@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("size", [1, 4, 9, 100])
def test_roots_in_parts_are_embedded_alike(size: int, indexed_features: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = LayerCase(9, indexed_features=indexed_features)
    whole = attention_layer(**case.keywords()).detach()  # with a backward pass to follow, it is not cut
    monkeypatch.setattr(layer, "_ROOTS", size)
    with torch.no_grad():
        torch.testing.assert_close(attention_layer(**case.keywords()), whole, rtol=0, atol=1e-14)
