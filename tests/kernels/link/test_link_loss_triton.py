"""The kernels of link_loss in Triton's interpreter: results and gradients, counts, widths, types, launches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mspipe_triton.kernels import link_loss
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.operation import OPERATIONS
from tests.kernels.comparing import Derived
from tests.kernels.link.link_case import FORMS, Case, Tensors, close
from tests.kernels.runtime.operation_case import comparison
from tests.kernels.sampling.graph_case import launches_of

F32, F64 = torch.float32, torch.float64


def judge(case: Case, dtype: torch.dtype, derived: Derived) -> Tensors:
    """Check the kernels against torch in float64, and return their tensors."""
    ours, *torchs = comparison(case.to(dtype))
    derived(ours, *torchs)
    return ours


@pytest.fixture
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use fewer programs, which the interpreter's time depends on; `test_results_and_gradients` runs shipped blocks."""
    for name, blocks in (
        ("link_scores_kernel", {"BLOCK_U": 32, "BLOCK_D": 128, "BLOCK_K": 64}),
        ("link_backward_kernel", {"BLOCK_U": 32, "BLOCK_N": 128, "BLOCK_K": 128, "PART": 512}),
        ("link_sum_kernel", {"BLOCK": 8192}),
    ):
        for variant in launch.KERNELS[name].chosen:
            monkeypatch.setitem(launch.KERNELS[name].chosen, variant, launch.Config(blocks))


@pytest.mark.parametrize(
    ("events", "dim", "dtype"),
    [(1, 3, F64), (5, 3, F32), (33, 20, F32), (17, 33, F64), (123, 3, F32), (129, 3, F64)],
    ids=str,
)
@pytest.mark.usefixtures("interpreter", "poisoned")
def test_results_and_gradients(events: int, dim: int, dtype: torch.dtype, derived: Derived) -> None:
    """Include sizes of one event over a block, one event over a part, and one number over a block."""
    judge(Case(events, dim), dtype, derived)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("events", "dim", "count", "dtype"), [(33, 20, 32, F32), (17, 33, None, F64), (5, 3, 0, F32), (0, 3, None, F64)]
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.usefixtures("interpreter", "poisoned")
def test_forms(
    events: int, dim: int, count: int | None, dtype: torch.dtype, form: dict[str, Any], derived: Derived
) -> None:
    """Padding holds NaN; with 32 real events of 33, the second block has none."""
    case = Case(events, dim, count, **form)
    ours = judge(case, dtype, derived)
    assert ours["scores"][:, case.real :].eq(0).all()
    assert ours["embedded"][case.padding].eq(0).all()


@pytest.mark.parametrize("features", [1, 40, 65])
@pytest.mark.usefixtures("interpreter", "poisoned")
def test_widths_of_pairs(features: int, derived: Derived) -> None:
    """Include one feature over a block, and more features than hidden numbers."""
    judge(Case(5, 20, 4, features=features, negatives=2), F32, derived)


@pytest.mark.parametrize(("events", "dim"), [(5, 100), (3, 172), (17, 129)])
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_widths(events: int, dim: int, derived: Derived) -> None:
    judge(Case(events, dim), F32, derived)


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_all_sizes_one(derived: Derived) -> None:
    judge(Case(1, 1), F32, derived)


@pytest.mark.parametrize(
    ("events", "count", "dtype"),
    [(0, None, F32), (0, 0, F64), (5, 0, F32), (5, 1, F64), (70, 33, F32), (70, 64, F64), (70, 70, F32)],
    ids=str,
)
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_padding_events_do_not_count(events: int, count: int | None, dtype: torch.dtype, derived: Derived) -> None:
    """Fill padding and unwritten memory with NaN; with 64 real events of 70, the third block has none."""
    case = Case(events, 3, count)
    ours = judge(case, dtype, derived)
    assert ours["scores"][:, case.real :].eq(0).all()
    assert ours["embedded"][case.padding].eq(0).all()
    if not case.real:
        assert all(value.eq(0).all() for value in ours.values())


@pytest.mark.parametrize("form", ["one negative", "softmax, pairs"])
@pytest.mark.parametrize("count", [None, 40])
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_sums_over_events_in_several_parts(
    count: int | None, form: str, derived: Derived, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sum five parts, of which the last one is short or the last two hold no real event."""
    kernels = {"link_backward_kernel": {"BLOCK_U": 16, "BLOCK_N": 16, "BLOCK_K": 16, "PART": 16}}
    kernels["link_loss_kernel"] = {"BLOCK": 16}
    for name, blocks in kernels.items():
        for variant in launch.KERNELS[name].chosen:
            monkeypatch.setitem(launch.KERNELS[name].chosen, variant, launch.Config(blocks))
    judge(Case(70, 3, count, **FORMS[form]), F32, derived)


@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_gaps_between_rows_and_an_int32_count(derived: Derived) -> None:
    case = Case(5, 3, 4)
    expected = case.with_gradients(case.expected())
    wide = torch.cat([case.leaves["embedded"], case.leaves["embedded"]], 1).detach()
    case.leaves["embedded"] = wide[:, :3].requires_grad_()
    arguments = case.keywords()
    close(case.with_gradients(case.actual()), expected)
    result = torch.ops.mspipe_triton.link_loss(*{**arguments, "count": arguments["count"].int()}.values(), True)
    close(case.with_gradients(result[:2]), expected)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
@pytest.mark.parametrize("bias", [-1e4, -60.0, 20.0, 1e4])
def test_extreme_scores(bias: float, dtype: torch.dtype, derived: Derived) -> None:
    """Match torch's loss and gradients even if e^|s| overflows or vanishes beside 1."""
    case = Case(5)
    case.leaves["bias_out"].data.fill_(bias)
    judge(case, dtype, derived)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_a_small_loss_keeps_its_digits(dtype: torch.dtype) -> None:
    """With s⁺ = 20 and s⁻ = −20 the loss is 2 log(1 + e⁻²⁰); computing 1 + e⁻²⁰ in float32 would lose all digits."""
    case = Case(5, 1).to(dtype)
    for name, value in (("weight_src", 0.0), ("bias_src", 0.0), ("weight_dst", 1.0), ("bias_dst", 0.0)):
        case.leaves[name].data.fill_(value)
    case.leaves["weight_out"].data.fill_(1.0)
    case.leaves["bias_out"].data.fill_(-20.0)
    case.leaves["embedded"].data[5:10], case.leaves["embedded"].data[10:] = 40.0, -1.0
    expected = 2 * math.log1p(math.exp(-20))
    assert case.actual()[0].item() == pytest.approx(expected, rel=20 * torch.finfo(dtype).eps, abs=0.0)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
@pytest.mark.parametrize("scale", [30.0, 1e3])
def test_distant_scores(scale: float, dtype: torch.dtype, derived: Derived) -> None:
    """Match torch's softmax even if its terms overflow or vanish."""
    case = Case(9, negatives=4, softmax=True)
    case.leaves["weight_out"].data.mul_(scale)
    judge(case, dtype, derived)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_a_small_loss_of_the_softmax_keeps_its_digits(dtype: torch.dtype) -> None:
    """With one score of 40 and two of 20 below it, the loss is log(1 + 2 e⁻²⁰) in the kernels and in torch."""
    one, none = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    embedded = torch.tensor([[0.0], [40.0], [20.0], [20.0]], dtype=dtype)
    arguments = (embedded, None, None, one, none, one, none, one, none, None, 2, torch.zeros(1, 2, dtype=dtype))
    for way in (link_loss, link_loss.reference):
        assert way(*arguments)[0].item() == pytest.approx(
            math.log1p(2 * math.exp(-20)), rel=40 * torch.finfo(dtype).eps, abs=0.0
        )


@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_nan_in_a_real_embedding_reaches_the_loss() -> None:
    case = Case(5)
    case.leaves["embedded"].data[2, 1] = torch.nan  # a source
    loss, scores = case.actual()
    assert loss.isnan()
    assert scores.isnan().nonzero().tolist() == [[0, 2], [1, 2]]


@pytest.mark.usefixtures("interpreter", "large_blocks")
def test_nan_in_a_real_negative_reaches_the_softmax() -> None:
    case = Case(5, negatives=3, softmax=True)
    case.leaves["embedded"].data[10 + 2 * 3 + 1, 1] = torch.nan  # of event 2
    loss, scores = case.actual()
    assert loss.isnan()
    assert scores.isnan().nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.usefixtures("interpreter", "poisoned", "large_blocks")
def test_without_gradients_loss_and_scores_are_the_same(form: dict[str, Any]) -> None:
    case = Case(20, count=17, **form)
    with_gradient = [value.detach() for value in case.actual()]
    for leaf in case.leaves.values():
        leaf.requires_grad_(False)
    assert all(torch.equal(*pair) for pair in zip(case.actual(), with_gradient, strict=True))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_four_launches_and_no_other_operation(form: dict[str, Any]) -> None:
    case = Case(5, count=4, **form)
    for leaf in case.leaves.values():
        leaf.requires_grad_(False)
    arguments = tuple(case.keywords().values())

    def both() -> None:
        loss, _, hidden, slopes = OPERATIONS["link_loss"].launch(*arguments, True)
        needs = [name in case.leaves for name in case.differentiable]
        OPERATIONS["link_loss_backward"].launch(*arguments, None, None, hidden, slopes, loss, needs)

    kernels, operations = launches_of(both)
    assert kernels == ["link_scores_kernel", "link_loss_kernel", "link_backward_kernel", "link_sum_kernel"]
    assert operations == {"new_empty"}, "something else was launched"
