"""Properties of mailbox_attention alone: temporal_attention over a table of slots, in any order, read in place."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.kernels import temporal_attention
from mspipe_triton.kernels.attention.slots import mail_slots, products, weighted_sums
from mspipe_triton.kernels.runtime import fusion
from tests.kernels.attention.attention_case import MailCase
from tests.kernels.comparing import Agree
from tests.kernels.runtime.operation_case import check


def test_it_equals_temporal_attention_over_a_table_of_slots() -> None:
    """Compare results and dropped weights with a node's slots as rows of a table."""
    case = MailCase(33, choices=20, indexed_features=True, dropout=0.3)
    assert case.choice is not None
    rows = case.choice[:, None] * case.fanout + torch.arange(case.fanout)
    twin = temporal_attention(
        case.mails.view(-1, case.dim), rows, case.features, case.feature_rows, case.deltas, case.filled,
        case.leaves["frequency"], case.leaves["phase"], case.leaves["query"], None, case.leaves["bias"],
        case.dropout, case.draws,
    )  # fmt: skip
    for ours, theirs in zip(case.actual(), twin, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(case.actual()[1] == 0, twin[1] == 0)


def test_the_order_of_mails_does_not_matter(agree: Agree) -> None:
    case = MailCase(33, counts="all")
    before = case.with_gradients(case.actual())
    case.mails, case.deltas = case.mails.flip(1), case.deltas.flip(1)
    case.features = case.features.view(33, 6, 3).flip(1).reshape(-1, 3)
    agree(case.with_gradients(case.actual()), before)


def test_bfloat16_rows_are_read_exactly(agree: Agree) -> None:
    case = MailCase(33, choices=9, indexed_features=True).to(torch.float64, torch.bfloat16)
    check(case, agree)


@pytest.mark.slow
def test_compiled_loops_read_mailboxes_in_place(agree: Agree) -> None:
    """Compile both sums over x_j, which read mails by their rows and convert them."""
    case = MailCase(9, choices=20, indexed_features=True).to(torch.float64, torch.float32)
    counts, encoded = torch.full((9,), 6), case.normal(9, 6, 3)
    arguments = (case.mails, case.choice, case.features, case.feature_rows, counts, encoded)
    query, weights = case.leaves["query"].detach(), case.normal(9, 2, 6)
    seconds = fusion.compile_seconds()
    fusion.enable_fusion(True)
    slots = mail_slots(*arguments)
    fused = {"products": products(query, None, *slots), "mixed": weighted_sums(weights, *slots)}
    assert fusion.fusion_failure() is None
    fusion.enable_fusion(False)
    assert fusion.compile_seconds() > seconds, "nothing was compiled"
    assert slots.table is case.mails, "mails were gathered before the loops"
    copy = mail_slots(*arguments)
    assert copy.rows is None
    agree(fused, {"products": products(query, None, *copy), "mixed": weighted_sums(weights, *copy)})
