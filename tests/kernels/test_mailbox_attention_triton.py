"""mailbox_attention as kernels: against torch forward and backward, as operations, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mspipe_triton.kernels import enable_debug, launch, mailbox_attention
from mspipe_triton.kernels.mailbox_attention import _operation, mailbox_kernel
from mspipe_triton.kernels.mailbox_attention_backward import mailbox_attention_backward, mailbox_backward_kernel
from tests.kernels.attention_case import Agree, Named
from tests.kernels.mailbox_case import MailCase

Derived = Callable[[Named, Named, Named], None]

# Of an empty mailbox the kernel subtracts −∞ from −∞, and takes none of it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")

FORMS: dict[str, dict[str, Any]] = {
    "one of each": dict(roots=1, fanout=1, width=1, heads=1, dim=1, times=1, counts="all", dropout=0.1),
    "a mailbox a node": dict(roots=5),
    "by rows": dict(roots=9, mailboxes=4, indexed_features=True),
    "dropout": dict(roots=3, fanout=4, heads=1, mailboxes=2, counts="all", dropout=0.3),
    "no edge features": dict(roots=3, width=0),
    "empty": dict(roots=3, counts="none"),
    "wiki": dict(roots=2, fanout=10, width=172, dim=200, times=100, mailboxes=2),
    "wide": dict(roots=2, fanout=3, width=413, heads=1, dim=826, times=172, indexed_features=True),
    "four heads": dict(roots=2, fanout=16, heads=4, dim=16, times=8),
}


def three(case: MailCase) -> tuple[Named, Named, Named]:
    """With gradients: by the kernels, by torch in the same dtype, by torch in float64."""
    actual = case.with_gradients(case.actual())
    launch.use_triton(False)
    wide = case.to(torch.float64)
    return actual, case.with_gradients(case.actual()), wide.with_gradients(wide.actual())


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("form", FORMS)
def test_float32(form: str, derived: Derived) -> None:
    derived(*three(MailCase(**FORMS[form]).to(torch.float32)))


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("form", ["one of each", "by rows", "dropout", "four heads"])
def test_float64(form: str, agree: Agree) -> None:
    case = MailCase(**FORMS[form])
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bfloat16_rows(dtype: torch.dtype, derived: Derived, agree: Agree) -> None:
    case = MailCase(4, mailboxes=2, indexed_features=True).to(dtype, torch.bfloat16)
    actual, same, truth = three(case)
    if dtype == torch.float32:
        derived(actual, same, truth)
    else:
        agree(actual, same)


@pytest.mark.usefixtures("interpreter")
def test_large_ages(derived: Derived) -> None:
    case = MailCase(**FORMS["dropout"])
    case.deltas = case.deltas * 1e5
    derived(*three(case.to(torch.float32)))


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize(("block", "held"), [(4, 0), (8, 1000)])
def test_columns_in_several_blocks(block: int, held: int, monkeypatch: pytest.MonkeyPatch, agree: Agree) -> None:
    """Mail, edge and time columns lie apart or share a block; a row's blocks are kept or read again."""
    for kernel in (mailbox_kernel, mailbox_backward_kernel):
        monkeypatch.setitem(kernel.chosen, "float64", launch.Config({"BLOCK": block, "HELD": held}))
    case = MailCase(2, 3, 4, mailboxes=2, dim=5, times=6, counts="all", dropout=0.3)
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("mailboxes", [None, 3])
def test_no_nodes(mailboxes: int | None) -> None:
    case = MailCase(0, mailboxes=mailboxes)
    named = case.with_gradients(case.actual())
    assert named["context"].shape == (0, 2, 10)
    assert not any(bool(value.any()) for value in named.values())


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_int32_indices_padding_and_rows_apart(agree: Agree) -> None:
    case = MailCase(5, mailboxes=3, indexed_features=True)
    assert case.feature_rows is not None
    assert case.mail_rows is not None
    case.feature_rows[:, ::2] = -1  # in filled slots: row 0
    case.filled[2] = 0
    expected = case.with_gradients(case.expected())
    case.feature_rows = torch.where(case.empty, -40, case.feature_rows).int()
    case.mail_rows = torch.where(case.filled > 0, case.mail_rows, -1).int()
    case.filled = case.filled.int()
    case.features = torch.cat([case.features, case.features], 1)[:, :3]
    case.mails = torch.cat([case.mails, case.mails], 1)[:, :6]
    case.leaves["query"] = case.leaves["query"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not case.mails.is_contiguous()
    assert not case.leaves["query"].is_contiguous()
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("mailboxes", [None, 5])
def test_empty_slots_are_not_read(mailboxes: int | None, agree: Agree) -> None:
    case = MailCase(5)
    expected = case.with_gradients(case.expected())
    case.deltas[case.empty], case.mails[case.empty] = torch.nan, torch.nan
    case.features[case.empty.view(-1)] = torch.nan
    case.mail_rows = None if mailboxes is None else torch.where(case.filled > 0, torch.arange(5), 2**40)
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("name", ["query", "bias", "frequency", "phase"])
def test_gradient_of_one_leaf_alone(name: str, agree: Agree) -> None:
    case = MailCase(2)
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
    case = MailCase(3)
    leaves = list(case.leaves.values())
    actual = torch.autograd.grad(case.actual()[which].sum(), leaves)
    expected = torch.autograd.grad(case.expected()[which].sum(), leaves, materialize_grads=True)
    agree(dict(zip(case.leaves, actual, strict=True)), dict(zip(case.leaves, expected, strict=True)))


NAMES = (
    "mails", "rows", "features", "feature_rows", "deltas", "counts", "frequency", "phase", "query", "bias", "dropout",
    "draws",
)  # fmt: skip


def arguments(case: MailCase, save: bool = True) -> tuple[Any, ...]:
    leaves = case.leaves
    return (
        case.mails, case.mail_rows, case.features, case.feature_rows, case.deltas, case.filled, leaves["frequency"],
        leaves["phase"], leaves["query"], leaves["bias"], case.dropout, case.draws, save,
    )  # fmt: skip


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize(("dropout", "dtype"), [(0.6, torch.float32), (0.3, torch.float64)])
def test_dropout_is_that_of_torch_to_the_bit(dropout: float, dtype: torch.dtype) -> None:
    """One mail a node: its weight is 1, and the total is its multiplier. Of several, the same are dropped."""
    for slots in (1, 3):
        case = MailCase(4, slots, 0, 4, 1, 1, counts="all", dropout=dropout).to(dtype)
        with torch.no_grad():
            launch.use_triton(True)
            actual = _operation(*arguments(case))
            launch.use_triton(False)
            expected = _operation(*arguments(case))
        assert slots > 1 or torch.equal(actual[1], expected[1])
        assert torch.equal(actual[3] < 0, expected[3] < 0)
        assert bool((actual[3] < 0).any())


@pytest.mark.parametrize("triton", [True, False])
def test_nothing_is_saved_without_a_gradient(triton: bool, request: pytest.FixtureRequest) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    case, seen = MailCase(3), []
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


@pytest.mark.parametrize(("form", "save"), [("no edge features", True), ("dropout", True), ("by rows", False)])
def test_operation_is_well_formed(form: str, save: bool) -> None:
    case = MailCase(**FORMS[form])
    if not save:
        for leaf in case.leaves.values():
            leaf.requires_grad_(False)
    torch.library.opcheck(_operation, arguments(case, save))


@pytest.mark.parametrize(("form", "needs"), [("no edge features", True), ("dropout", True), ("by rows", False)])
def test_backward_operation_is_well_formed(form: str, needs: bool) -> None:
    case = MailCase(**FORMS[form])
    with torch.no_grad():
        _, _, *saved = _operation(*arguments(case))
    tensors = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments(case)[:9]]
    torch.library.opcheck(mailbox_attention_backward, (*case.probes, *tensors, *saved, case.dropout, needs))


def test_a_second_derivative_is_refused() -> None:
    case = MailCase(2)
    (slope,) = torch.autograd.grad(case.actual()[0].sum(), case.leaves["query"], create_graph=True)
    with pytest.raises(RuntimeError, match="mailbox_attention_backward: no second derivative"):
        torch.autograd.grad(slope.sum(), case.leaves["query"])


@pytest.mark.parametrize("form", ["a mailbox a node", "dropout"])
def test_compiles_as_one_graph(form: str, agree: Agree) -> None:
    case = MailCase(**FORMS[form])
    expected = case.with_gradients(case.actual())
    compiled = torch.compile(case.actual, fullgraph=True, backend="aot_eager")
    agree(case.with_gradients(compiled()), expected)


def call(**changes: Any) -> None:
    case = MailCase(3, mailboxes=4, indexed_features=True, dropout=0.1)
    mailbox_attention(**{**dict(zip(NAMES, arguments(case)[:12], strict=True)), **changes})


F64, I64 = torch.float64, torch.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(3, 2, 10, dtype=torch.bfloat16)}, "query is torch.bfloat16; give float32 or float64"),
        ({"bias": torch.zeros(3, 2)}, "bias is torch.float32 beside query in torch.float64"),
        ({"mails": torch.zeros(4, 6, 4, dtype=torch.float16)}, "mails is torch.float16"),
        ({"rows": torch.zeros(3, dtype=torch.int16)}, "rows is torch.int16; give int32 or int64"),
        ({"counts": torch.zeros(3)}, "counts is torch.float32"),
        ({"draws": torch.zeros(4)}, "draws is torch.float32"),
        ({"mails": torch.zeros(24, 4, dtype=F64)}, r"mails has shape \(24, 4\); give 3 dimensions"),
        ({"mails": torch.zeros(6, 4, 4, dtype=F64).transpose(0, 1)}, r"mails \(4, 6, 4\) has strides \(4, 16, 1\); a"),
        ({"mails": torch.zeros(4, 6, 8, dtype=F64)[:, :, :4]}, r"mails \(4, 6, 4\) has strides \(48, 8, 1\); a"),
        ({"rows": torch.zeros(3, 2, dtype=I64)[:, 0]}, r"rows \(3,\) has strides \(2,\)"),
        ({"deltas": torch.zeros(6, 3, dtype=F64).T}, r"deltas \(3, 6\) has strides"),
        ({"mails": torch.zeros(4, 6, 5, dtype=F64)}, "query has width 10, mails have 11"),
        ({"mails": torch.zeros(4, 5, 4, dtype=F64)}, r"deltas has shape \(3, 6\); give \(3, 5\)"),
        ({"counts": torch.zeros(2, dtype=I64)}, r"counts has shape \(2,\); give \(3,\)"),
        ({"bias": torch.zeros(3, 1, dtype=F64)}, r"bias has shape \(3, 1\); give \(3, 2\)"),
        ({"feature_rows": None}, r"features has shape \(50, 3\); give \(18, 3\)"),
        ({"rows": torch.zeros(2, dtype=I64)}, r"rows has shape \(2,\); give \(3,\)"),
        ({"rows": None}, "mails has 4 mailboxes for 3 nodes; give rows"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"draws": None}, "dropout needs draws"),
        ({"rows": torch.zeros(3, dtype=I64, device="meta")}, "rows is on meta, not on cpu; move it with"),
        ({"mails": torch.zeros(4, 6, 4, dtype=F64, device="meta")}, "mails is on meta"),
    ],
)  # fmt: skip
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"mailbox_attention: .*{message}"):
        call(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": torch.full((3,), 4)}, r"rows holds 4, outside \[0, 4\)"),
        ({"feature_rows": torch.full((3, 6), 50)}, r"feature_rows holds 50, outside \[0, 50\); negatives are padding"),
        ({"counts": torch.full((3,), 7)}, r"counts holds 7, outside \[0, 7\)"),
    ],
    ids=["rows", "feature_rows", "counts"],
)
def test_debugging_finds_ids_outside_their_tables(changes: dict[str, Any], message: str) -> None:
    enable_debug()
    try:
        call(rows=torch.full((3,), -1), counts=torch.zeros(3, dtype=I64))
        with pytest.raises(ValueError, match=message):
            call(**{"counts": torch.full((3,), 6), **changes})
    finally:
        enable_debug(False)


@pytest.mark.parametrize("name", ["features", "mails"])
def test_rows_in_pageable_host_memory_are_refused(name: str) -> None:
    given = dict(zip(NAMES, arguments(MailCase(3, dropout=0.1))[:12], strict=True))
    on_device = {
        key: value.detach().to("meta") if isinstance(value, torch.Tensor) else value for key, value in given.items()
    }
    with pytest.raises(ValueError, match=rf"{name} is in pageable host memory.*{name}\.pin_memory\(\)"):
        mailbox_attention(**{**on_device, name: given[name]})
