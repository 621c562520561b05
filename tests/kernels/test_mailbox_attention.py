"""mailbox_attention: sizes, forms, projected attention, dropout, garbage in empty slots, single gradients, refusals."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.kernels import fusion, temporal_attention
from mspipe_triton.kernels.mailbox_attention_backward import mail_slots
from mspipe_triton.kernels.neighbour_rows import mixed, products
from tests.kernels.attention_case import DRAWS, Agree, Named, check, leaky, softmax
from tests.kernels.mailbox_case import MailCase


@pytest.mark.parametrize("width", [0, 3, 172])
@pytest.mark.parametrize("slots", [1, 6, 10])
@pytest.mark.parametrize("nodes", [1, 123])
def test_sizes(nodes: int, slots: int, width: int, agree: Agree) -> None:
    check(MailCase(nodes, slots, width), agree)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("counts", ["some", "none", "all"])
@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("mailboxes", [None, 1, 17])
def test_forms(mailboxes: int | None, indexed_features: bool, counts: str, dropout: float, agree: Agree) -> None:
    case = MailCase(33, mailboxes=mailboxes, indexed_features=indexed_features, counts=counts, dropout=dropout)
    check(case, agree)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_gradient_of_a_full_case_says_something(dropout: float, agree: Agree) -> None:
    expected = check(MailCase(123, mailboxes=50, indexed_features=True, dropout=dropout), agree)
    assert expected.keys() == {"context", "total", "query", "bias", "frequency", "phase"}
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())


@pytest.mark.parametrize(("heads", "dim", "times"), [(1, 1, 1), (3, 200, 100)])
def test_other_widths(heads: int, dim: int, times: int, agree: Agree) -> None:
    check(MailCase(33, heads=heads, dim=dim, times=times), agree)


def projected(case: MailCase, leaves: Named) -> torch.Tensor:
    """Keys and values of every mail, then attention over them, a node and a head at a time; [U, K, size]."""
    scale, outputs = case.multipliers(), []
    for node in range(case.roots):
        x = case.neighbours(node)
        for head in range(case.heads):
            k = x @ leaves["W_k"][head].T + leaves["b_k"][head]
            v = x @ leaves["W_v"][head].T + leaves["b_v"][head]
            a = softmax(leaky(k @ leaves["q"][node, head])) * scale[node, head, : len(x)]
            outputs.append(a @ v)
    return torch.stack(outputs).view(case.roots, case.heads, -1)


def absorbed(case: MailCase, leaves: Named) -> torch.Tensor:
    """The same through the operation: W_k goes into the query, W_v comes after the sum."""
    query = torch.einsum("uks,ksx->ukx", leaves["q"], leaves["W_k"])
    context, total = case.actual(query, torch.einsum("uks,ks->uk", leaves["q"], leaves["b_k"]))
    return torch.einsum("ukx,ksx->uks", context, leaves["W_v"]) + total[..., None] * leaves["b_v"]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("nodes", "slots", "width"), [(1, 1, 0), (33, 6, 3), (50, 10, 172)])
def test_absorbed_form_is_projected_attention(nodes: int, slots: int, width: int, dropout: float, agree: Agree) -> None:
    case = MailCase(nodes, slots, width, counts="all" if nodes == 1 else "some", dropout=dropout, mailboxes=nodes + 2)
    wide, size = case.dim + width + case.times, 5
    leaves = {
        "q": case.normal(nodes, case.heads, size),
        "W_k": case.normal(case.heads, size, wide) / 3, "b_k": case.normal(case.heads, size),
        "W_v": case.normal(case.heads, size, wide) / 3, "b_v": case.normal(case.heads, size),
    }  # fmt: skip
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    leaves |= {name: case.leaves[name] for name in ("frequency", "phase")}
    probe, results = case.normal(nodes, case.heads, size), []
    for form in (absorbed, projected):
        output = form(case, leaves)
        gradients = torch.autograd.grad((output * probe).sum(), list(leaves.values()))
        results.append({"output": output.detach(), **dict(zip(leaves, gradients, strict=True))})
    agree(*results)
    if nodes > 1:
        assert all(float(value.abs().max()) > 1e-3 for value in results[1].values())


def test_it_is_temporal_attention_over_a_table_of_slots() -> None:
    """The same bits, dropout included, with a node's slots as rows of a table."""
    case = MailCase(33, mailboxes=20, indexed_features=True, dropout=0.3)
    assert case.mail_rows is not None
    rows = case.mail_rows[:, None] * case.fanout + torch.arange(case.fanout)
    twin = temporal_attention(
        case.mails.view(-1, case.dim), rows, case.features, case.feature_rows, case.deltas, case.filled,
        case.leaves["frequency"], case.leaves["phase"], case.leaves["query"], None, case.leaves["bias"],
        case.dropout, case.draws,
    )  # fmt: skip
    for ours, theirs in zip(case.actual(), twin, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(case.actual()[1] == 0, twin[1] == 0)


def test_the_order_of_mails_carries_no_meaning(agree: Agree) -> None:
    case = MailCase(33, counts="all")
    before = case.with_gradients(case.actual())
    case.mails, case.deltas = case.mails.flip(1), case.deltas.flip(1)
    case.features = case.features.view(33, 6, 3).flip(1).reshape(-1, 3)
    agree(case.with_gradients(case.actual()), before)


@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("width", [0, 3])
def test_no_nodes(width: int, indexed_features: bool) -> None:
    case = MailCase(0, width=width, indexed_features=indexed_features)
    context, total = case.actual()
    assert context.shape == (0, 2, 7 + width)
    assert total.shape == (0, 2)
    gradients = torch.autograd.grad(context.sum() + total.sum(), list(case.leaves.values()))
    assert not any(bool(gradient.any()) for gradient in gradients)


def test_empty_mailboxes_give_zeros_and_pass_no_gradient() -> None:
    case = MailCase(33, counts="none", mailboxes=4)
    case.mail_rows = torch.full((33,), -1)  # ignored where the mailbox is empty
    named = case.with_gradients(case.actual())
    assert all(not value.any() for value in named.values()), "nothing may be NaN or leak from an empty slot"


def test_dropout_repeats_itself_and_changes_with_the_draws() -> None:
    case = MailCase(123, dropout=0.5)
    first, second = case.with_gradients(case.actual()), case.with_gradients(case.actual())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["total"], MailCase(123, dropout=0.0).actual()[1])
    for word in range(4):
        case.draws = DRAWS + (torch.arange(4) == word)
        assert not torch.equal(first["total"], case.actual()[1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("indexed_features", [True, False])
def test_empty_slots_may_hold_anything(indexed_features: bool, dropout: float) -> None:
    case = MailCase(123, indexed_features=indexed_features, dropout=dropout)
    before = case.with_gradients(case.actual())
    assert bool(case.empty.any())
    case.mails = torch.where(case.empty[:, :, None], case.normal(123, 6, 4) * 1e9, case.mails)
    case.deltas = torch.where(case.empty, case.normal(123, 6) * 1e9, case.deltas)
    if case.feature_rows is None:
        case.features = torch.where(case.empty.view(-1, 1), case.normal(123 * 6, 3) * 1e9, case.features)
    else:
        case.feature_rows = torch.where(case.empty, -40, case.feature_rows)
    after = case.with_gradients(case.actual())
    for name, value in before.items():
        assert torch.equal(after[name], value), name


def test_feature_row_below_zero_in_a_filled_slot_is_row_zero(agree: Agree) -> None:
    case = MailCase(33, indexed_features=True, counts="all")
    assert case.feature_rows is not None
    case.feature_rows[:, ::2] = -1
    check(case, agree)


@pytest.mark.parametrize("mailboxes", [None, 40])
@pytest.mark.parametrize("indexed_features", [True, False])
def test_int32_indices_and_rows_apart(indexed_features: bool, mailboxes: int | None, agree: Agree) -> None:
    case = MailCase(33, mailboxes=mailboxes, indexed_features=indexed_features)
    expected = case.with_gradients(case.expected())
    case.filled = case.filled.int()
    case.mail_rows = None if case.mail_rows is None else case.mail_rows.int()
    case.feature_rows = None if case.feature_rows is None else case.feature_rows.int()
    case.features = torch.cat([case.features, case.features], 1)[:, :3]
    case.mails = torch.cat([case.mails, case.mails], 1)[:, :6]
    assert case.mails.stride() == (48, 4, 1)
    agree(case.with_gradients(case.actual()), expected)


def test_bfloat16_rows_are_read_as_they_are(agree: Agree) -> None:
    case = MailCase(33, mailboxes=9, indexed_features=True).to(torch.float64, torch.bfloat16)
    check(case, agree)


@pytest.mark.parametrize("name", ["query", "bias", "frequency", "phase"])
def test_gradient_of_one_leaf_alone(name: str, agree: Agree) -> None:
    case = MailCase(33)
    expected = case.with_gradients(case.expected())[name]
    for other, leaf in case.leaves.items():
        leaf.requires_grad_(other == name)
    context, total = case.actual()
    loss = (context * case.probes[0]).sum() + (total * case.probes[1]).sum()
    agree({name: torch.autograd.grad(loss, case.leaves[name])[0]}, {name: expected})


@pytest.mark.parametrize("which", [0, 1])
def test_gradient_of_one_result_as_a_plain_sum(which: int, agree: Agree) -> None:
    """The incoming gradient is one number, expanded, and the other result's is none."""
    case = MailCase(33, dropout=0.3)
    leaves = list(case.leaves.values())
    actual = torch.autograd.grad(case.actual()[which].sum(), leaves)
    expected = torch.autograd.grad(case.expected()[which].sum(), leaves, materialize_grads=True)
    agree(dict(zip(case.leaves, actual, strict=True)), dict(zip(case.leaves, expected, strict=True)))


def test_inputs_stay_as_they_are() -> None:
    case = MailCase(33, mailboxes=9, indexed_features=True, dropout=0.3)
    inputs = [case.mails, case.mail_rows, case.deltas, case.filled, case.features, case.feature_rows]
    tensors = [tensor for tensor in [*inputs, *case.leaves.values()] if tensor is not None]
    before = [tensor.detach().clone() for tensor in tensors]
    case.with_gradients(case.actual())
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradcheck(dropout: float) -> None:
    case = MailCase(4, 3, 2, dim=2, times=2, mailboxes=3, dropout=dropout)
    case.deltas = case.deltas / 50  # times for which numerical differences in w are good
    assert int(case.filled.max()) > 1

    def function(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        case.leaves = dict(zip(case.leaves, leaves, strict=True))
        return case.actual()

    assert torch.autograd.gradcheck(function, tuple(case.leaves.values()))


def test_loops_that_read_mailboxes_in_place_are_right(agree: Agree) -> None:
    """Compiled, both sums over x_j read mails by their rows, and convert them."""
    case = MailCase(9, mailboxes=20, indexed_features=True).to(torch.float64, torch.float32)
    counts, encoded = torch.full((9,), 6), case.normal(9, 6, 3)
    given = (case.mails, case.mail_rows, case.features, case.feature_rows, counts, encoded)
    query, weights = case.leaves["query"].detach(), case.normal(9, 2, 6)
    seconds = fusion.compile_seconds()
    fusion.enable_fusion(True)
    read = mail_slots(*given)
    fused = {"products": products(query, *read), "mixed": torch.cat(mixed(weights, *read), 2)}
    assert fusion.fusion_failure() is None
    fusion.enable_fusion(False)
    assert fusion.compile_seconds() > seconds, "nothing was compiled"
    assert read.table is case.mails, "nothing may be gathered before"
    copied = mail_slots(*given)
    assert copied.rows is None
    agree(fused, {"products": products(query, *copied), "mixed": torch.cat(mixed(weights, *copied), 2)})
