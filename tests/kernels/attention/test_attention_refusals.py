"""Arguments that both attentions refuse: dtypes, layouts, shapes, devices, ids outside tables, pageable memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.kernels import enable_debug
from tests.kernels.attention.attention_case import ATTENTIONS, Case, MailCase

F64, I64 = torch.float64, torch.int64


def call(kind: type[Case], **changes: Any) -> None:
    """Call an attention on three roots, three queries or mailboxes, 40 table rows and 50 features."""
    kind(3, choices=3, indexed_features=True, dropout=0.1).actual(**changes)


def check_refusal(kind: type[Case], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind(0).name}: .*{message}"):
        call(kind, **changes)


@ATTENTIONS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(3, 2, 10, dtype=torch.bfloat16)}, "query is torch.bfloat16; give float32 or float64"),
        ({"bias": torch.zeros(3, 2)}, "bias is torch.float32 beside query in torch.float64"),
        ({"feature_rows": torch.zeros(3, 6, dtype=torch.int16)}, "feature_rows is torch.int16; give int32 or int64"),
        ({"counts": torch.zeros(3)}, "counts is torch.float32"),
        ({"draws": torch.zeros(4)}, "draws is torch.float32"),
        ({"deltas": torch.zeros(6, 3, dtype=F64).T}, r"deltas \(3, 6\) has strides"),
        ({"bias": torch.zeros(3, 1, dtype=F64)}, r"bias has shape \(3, 1\); give \(3, 2\)"),
        ({"counts": torch.zeros(2, dtype=I64)}, r"counts has shape \(2,\); give \(3,\)"),
        ({"feature_rows": None}, r"features has shape \(50, 3\); give \(18, 3\)"),
        ({"deltas": torch.zeros(3, 5, dtype=F64)}, r"deltas has shape \(3, 5\); give \(3, 6\)"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "not -0.1"),
        ({"draws": None}, "dropout needs draws"),
        ({"counts": torch.zeros(3, dtype=I64, device="meta")}, "counts is on meta, not on cpu; move it with"),
    ],
)  # fmt: skip
def test_refusals(kind: type[Case], changes: dict[str, Any], message: str) -> None:
    check_refusal(kind, changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": torch.zeros(40, 4, dtype=torch.float16)}, "table is torch.float16"),
        ({"table": torch.zeros(4, 40, dtype=F64).T}, r"table \(40, 4\) has strides \(1, 40\)"),
        ({"table": torch.zeros(40, 5, dtype=F64)}, "query has width 10, neighbour rows have 11"),
        ({"rows": torch.zeros(3, 6, dtype=torch.int16)}, "rows is torch.int16; give int32 or int64"),
        ({"rows": torch.zeros(3, 6, dtype=I64, device="meta")}, "rows is on meta, not on cpu; move it with"),
        (
            {"query": torch.zeros(2, 2, 10, dtype=F64), "bias": torch.zeros(2, 2, dtype=F64), "query_rows": None},
            r"query has shape \(2, 2, 10\); give \(3, 2, 10\)",
        ),
        ({"table": torch.zeros(40, 4, dtype=F64, device="meta")}, "table is on meta"),
    ],
)
def test_refusals_of_temporal_attention(changes: dict[str, Any], message: str) -> None:
    check_refusal(Case, changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mails": torch.zeros(4, 6, 4, dtype=torch.float16)}, "mails is torch.float16"),
        ({"mails": torch.zeros(24, 4, dtype=F64)}, r"mails has shape \(24, 4\); give 3 dimensions"),
        ({"mails": torch.zeros(6, 4, 4, dtype=F64).transpose(0, 1)}, r"mails \(4, 6, 4\) has strides \(4, 16, 1\); a"),
        ({"mails": torch.zeros(4, 6, 8, dtype=F64)[:, :, :4]}, r"mails \(4, 6, 4\) has strides \(48, 8, 1\); a"),
        ({"rows": torch.zeros(3, dtype=torch.int16)}, "rows is torch.int16; give int32 or int64"),
        ({"rows": torch.zeros(3, dtype=I64, device="meta")}, "rows is on meta, not on cpu; move it with"),
        ({"rows": torch.zeros(3, 2, dtype=I64)[:, 0]}, r"rows \(3,\) has strides \(2,\)"),
        ({"mails": torch.zeros(4, 6, 5, dtype=F64)}, "query has width 10, mails have 11"),
        ({"mails": torch.zeros(4, 5, 4, dtype=F64)}, r"deltas has shape \(3, 6\); give \(3, 5\)"),
        ({"rows": torch.zeros(2, dtype=I64)}, r"rows has shape \(2,\); give \(3,\)"),
        ({"rows": None, "mails": torch.zeros(4, 6, 4, dtype=F64)}, "mails has 4 mailboxes for 3 nodes; give rows"),
        ({"mails": torch.zeros(4, 6, 4, dtype=F64, device="meta")}, "mails is on meta"),
    ],
)
def test_refusals_of_mailbox_attention(changes: dict[str, Any], message: str) -> None:
    check_refusal(MailCase, changes, message)


OUTSIDE = [
    (Case, {"rows": torch.full((3, 6), 40)}, r"rows holds 40, outside \[0, 40\)"),
    (Case, {"query_rows": torch.full((3,), 3)}, r"query_rows holds 3, outside \[0, 3\)"),
    (MailCase, {"rows": torch.full((3,), 3)}, r"rows holds 3, outside \[0, 3\)"),
    *[
        (kind, {name: torch.full(shape, high)}, f"{name} holds {high}, outside {bounds}")
        for kind in (Case, MailCase)
        for name, shape, high, bounds in (
            ("feature_rows", (3, 6), 50, r"\[0, 50\); negatives are padding"),
            ("counts", (3,), 7, r"\[0, 7\)"),
        )
    ],
]


@pytest.mark.parametrize(("kind", "changes", "message"), OUTSIDE)
def test_debugging_finds_ids_outside_their_tables(kind: type[Case], changes: dict[str, Any], message: str) -> None:
    enable_debug()
    try:
        call(kind)
        if kind is MailCase:
            call(kind, rows=torch.full((3,), -1), counts=torch.zeros(3, dtype=I64))
        with pytest.raises(ValueError, match=message):
            call(kind, **{"counts": torch.full((3,), 6), **changes})
    finally:
        enable_debug(False)


@pytest.mark.parametrize(
    ("kind", "name"), [(Case, "features"), (Case, "table"), (MailCase, "features"), (MailCase, "mails")]
)
def test_rows_in_pageable_host_memory_are_refused(kind: type[Case], name: str) -> None:
    case = kind(3, dropout=0.1)
    arguments = case.detached_keywords()
    on_meta = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in arguments.items()}
    with pytest.raises(ValueError, match=rf"{name} is in pageable host memory.*{name}\.pin_memory\(\)"):
        case.function(**{**on_meta, name: arguments[name]})
    if name == "table":
        with pytest.raises(ValueError, match="table is on cpu, not on meta"):
            case.function(**{**on_meta, name: arguments[name].requires_grad_()})
