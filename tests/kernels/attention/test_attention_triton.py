"""Both attentions as kernels against torch: results, gradients, dropout, blocks, saved tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mspipe_triton.kernels.runtime import launch
from tests.kernels.attention.attention_case import ATTENTIONS, Case, MailCase
from tests.kernels.comparing import Agree, Derived
from tests.kernels.runtime.operation_case import comparison

# For a root without neighbours the kernel computes −∞ − (−∞), and does not use the result.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")

FORMS: dict[str, dict[str, Any]] = {
    "one of each": dict(roots=1, fanout=1, width=1, heads=1, dim=1, times=1, counts="all", dropout=0.1),
    "one query per root": dict(roots=5),
    "by rows": dict(roots=6, choices=3, indexed_features=True),
    "dropout": dict(roots=3, fanout=4, heads=1, choices=2, counts="all", dropout=0.3),
    "no edge features": dict(roots=3, width=0),
    "no neighbours": dict(roots=3, counts="none"),
    "wiki": dict(roots=4, fanout=10, width=172, dim=200, times=100, choices=2),
    "wide rows": dict(roots=4, fanout=3, width=5, heads=2, dim=826, times=3, indexed_features=True),
    "wide edges": dict(roots=2, fanout=3, width=413, heads=1, dim=3, times=172, indexed_features=True),
    "four heads": dict(roots=2, fanout=17, heads=4, dim=16, times=8),
}


@pytest.fixture(
    params=[(Case, False), (Case, True), (MailCase, False)], ids=["temporal", "temporal deterministic", "mailbox"]
)
def attention(request: pytest.FixtureRequest) -> Iterator[type[Case]]:
    """Either attention, with both ways to sum a table's gradient over roots and slots."""
    kind, deterministic = request.param
    torch.use_deterministic_algorithms(deterministic)
    yield kind
    torch.use_deterministic_algorithms(False)


@pytest.mark.sample(2)
@ATTENTIONS
@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("form", FORMS)
def test_float32(kind: type[Case], form: str, derived: Derived) -> None:
    derived(*comparison(kind(**FORMS[form]).to(torch.float32)))


@pytest.mark.sample(2)
@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("form", ["one of each", "by rows", "dropout", "four heads"])
def test_float64(attention: type[Case], form: str, agree: Agree) -> None:
    case = attention(**FORMS[form])
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bfloat16_rows(attention: type[Case], dtype: torch.dtype, derived: Derived, agree: Agree) -> None:
    case = attention(4, choices=2, indexed_features=True).to(dtype, torch.bfloat16)
    actual, same, truth = comparison(case)
    if dtype == torch.float32:
        derived(actual, same, truth)
    else:
        tables = [results.pop("table", torch.zeros(1, dtype=torch.bfloat16)) for results in (actual, same)]
        assert tables[0].dtype == torch.bfloat16
        assert torch.equal(*tables)
        agree(actual, same)


@ATTENTIONS
@pytest.mark.usefixtures("interpreter")
def test_large_time_differences(kind: type[Case], derived: Derived) -> None:
    case = kind(**FORMS["dropout"])
    case.deltas = case.deltas * 1e5
    derived(*comparison(case.to(torch.float32)))


@ATTENTIONS
@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize(("block", "width"), [(4, 0), (8, 1000)])
def test_columns_in_several_blocks(
    kind: type[Case], block: int, width: int, monkeypatch: pytest.MonkeyPatch, agree: Agree
) -> None:
    """Put node, edge and time columns in separate blocks or in one; keep a row's blocks or read them again."""
    for name in ("attention_kernel", "attention_backward_kernel"):
        for variant in ("float64", "mails_float64"):
            monkeypatch.setitem(launch.KERNELS[name].chosen, variant, launch.Config({"BLOCK": block, "HELD": width}))
    case = kind(2, 3, 4, choices=2, dim=5, times=6, counts="all", dropout=0.3)
    agree(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("choices", [None, 3])
def test_no_roots(attention: type[Case], choices: int | None) -> None:
    case = attention(0, choices=choices)
    results = case.with_gradients(case.actual())
    assert results["context"].shape == (0, 2, 10)
    assert not any(bool(value.any()) for value in results.values())


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_int32_indices_padding_and_gaps_between_rows(attention: type[Case], agree: Agree) -> None:
    case = attention(5, choices=3, indexed_features=True)
    assert case.feature_rows is not None
    case.feature_rows[:, ::2] = -1  # in filled slots: row 0
    case.filled[2] = 0
    expected = case.with_gradients(case.expected())
    case.spoil(torch.nan, -40)
    case.narrow()
    case.leaves["query"] = case.leaves["query"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not case.leaves["query"].is_contiguous()
    agree(case.with_gradients(case.actual()), expected)


@ATTENTIONS
@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize(("choices", "indexed_features"), [(None, False), (5, True)])
def test_empty_slots_are_not_read(kind: type[Case], choices: int | None, indexed_features: bool, agree: Agree) -> None:
    case = kind(5, choices=choices, indexed_features=indexed_features)
    case.filled[2] = 0
    expected = case.with_gradients(case.expected())
    case.spoil(torch.nan, 2**40)
    agree(case.with_gradients(case.actual()), expected)


@ATTENTIONS
@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize("index", [0, 1])
def test_gradient_of_the_plain_sum_of_one_result(kind: type[Case], index: int, agree: Agree) -> None:
    """Pass an expanded scalar as the gradient of one result, and no gradient for the other."""
    agree(*kind(3).gradients_of_sum(index))


@ATTENTIONS
@pytest.mark.usefixtures("interpreter", "poisoned")
@pytest.mark.parametrize(("dropout", "dtype"), [(0.6, torch.float32), (0.3, torch.float64)])
def test_dropout_matches_torch_to_the_bit(kind: type[Case], dropout: float, dtype: torch.dtype) -> None:
    """Compare the total, which is the multiplier of a root's only neighbour; of several, compare which are dropped."""
    for slots in (1, 3):
        case = kind(2, slots, 0, 4, 1, 1, counts="all", dropout=dropout).to(dtype)
        with torch.no_grad():
            launch.use_triton(True)
            actual = case.operation(*case.arguments())
            launch.use_triton(False)
            expected = case.operation(*case.arguments())
        assert slots > 1 or torch.equal(actual[1], expected[1])
        assert torch.equal(actual[3] < 0, expected[3] < 0)
        assert bool((actual[3] < 0).any())


@ATTENTIONS
@pytest.mark.parametrize("triton", [True, False])
def test_nothing_is_saved_without_a_gradient(kind: type[Case], triton: bool, request: pytest.FixtureRequest) -> None:
    if triton:
        request.getfixturevalue("interpreter")
    case, shapes = kind(3), []
    for leaf in case.leaves.values():
        leaf.requires_grad_(False)
    tensors = case.operation(*case.arguments(save=False))[2:]
    assert [tensor.numel() for tensor in tensors] == [0, 0, 0]
    case.leaves["bias"].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: shapes.append(tensor.shape), lambda _: None):
        with torch.no_grad():
            assert not case.actual()[0].requires_grad
        assert not shapes
        assert case.actual()[0].requires_grad
    assert (3, 2, 6) in shapes
