"""link_loss in torch: against autograd on torch's own cross-entropy, padding, extreme scores, refused arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mspipe_triton.kernels import link_loss
from mspipe_triton.kernels.runtime.checks import enable_debug
from tests.kernels.link.link_case import FORMS, Case, close

F64 = torch.float64
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@forms
@pytest.mark.parametrize(
    ("events", "dim", "count"),
    [(0, 3, None), (1, 1, None), (5, 3, None), (123, 20, None), (0, 3, 0), (1, 3, 1), (123, 20, 61), (123, 20, 122)],
)
def test_loss_scores_and_gradients(events: int, dim: int, count: int | None, form: dict[str, Any]) -> None:
    case = Case(events, dim, count, **form)
    close(case.with_gradients(case.actual()), case.with_gradients(case.expected()))


@forms
@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf])
def test_padding_events_do_not_count_whatever_they_hold(count: int, junk: float, form: dict[str, Any]) -> None:
    case, clean = Case(5, 3, count, junk, **form), Case(5, 3, count, 0.0, **form)
    actual = case.with_gradients(case.actual())
    close(actual, clean.with_gradients(clean.expected()))
    assert actual["scores"][:, count:].eq(0).all()
    assert actual["embedded"][case.padding].eq(0).all()


@forms
def test_a_count_of_all_events_equals_no_count(form: dict[str, Any]) -> None:
    case, whole = Case(5, count=5, **form), Case(5, **form)
    close(case.with_gradients(case.actual()), whole.with_gradients(whole.actual()))


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_the_loss_without_output_weights(dtype: torch.dtype) -> None:
    """With all scores b_out the loss is softplus(−b) + softplus(b), its slope σ(b) − σ(−b), even if e^|b| overflows."""
    for bias in (0.0, 3.0, -40.0, 1e4, -1e4):
        case = Case(5).to(dtype)
        case.leaves["weight_out"].data.zero_()
        case.leaves["bias_out"].data.fill_(bias)
        loss, scores = case.actual()
        assert scores.eq(bias).all()
        expected = abs(bias) + 2 * math.log1p(math.exp(-abs(bias)))
        # At most ten roundings: two functions (2 units in the last place each), their sum, four additions, a division.
        tolerance = 5 * torch.finfo(dtype).eps
        assert loss.item() == pytest.approx(expected, rel=tolerance)
        (slope,) = torch.autograd.grad(loss, case.leaves["bias_out"])
        assert slope.item() == pytest.approx(math.tanh(bias / 2), abs=tolerance)  # its terms are at most 1


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("score", [0.0, 3.0, -40.0, 1e4, -1e4])
def test_the_softmax_without_output_weights(score: float, dtype: torch.dtype) -> None:
    """With all scores equal, the loss is log 4 for three negatives, and no score's size matters."""
    case = Case(5, negatives=3, softmax=True).to(dtype)
    case.log_weights = torch.zeros(5, 3, dtype=dtype)
    case.leaves["weight_out"].data.zero_()
    case.leaves["bias_out"].data.fill_(score)
    loss, _ = case.actual()
    # log 3 is added to and taken from the score, then come about ten roundings as above.
    assert loss.item() == pytest.approx(math.log(4), abs=(abs(score) + 10) * torch.finfo(dtype).eps)
    (slope,) = torch.autograd.grad(loss, case.leaves["bias_out"])
    assert slope.item() == pytest.approx(0, abs=(abs(score) + 10) * torch.finfo(dtype).eps)


def test_a_negative_of_log_weight_log_2_counts_twice() -> None:
    case, twice = Case(4, negatives=1, softmax=True), Case(4, negatives=2, softmax=True)
    case.log_weights = torch.full((4, 1), math.log(2), dtype=F64)
    twice.log_weights = torch.zeros(4, 2, dtype=F64)
    ends, negatives = case.leaves["embedded"].detach().split([8, 4])
    twice.leaves = {**case.leaves, "embedded": torch.cat([ends, negatives.repeat_interleave(2, 0)])}
    assert case.actual()[0].item() == pytest.approx(twice.actual()[0].item(), rel=1e-13)


def test_scores_are_by_candidate() -> None:
    """With weights of 1, a score is the candidate's own number plus that of its pair."""
    one, none = torch.ones(1, 1), torch.zeros(1)
    embedded = torch.tensor([[0.0], [0.0], [1.0], [2.0], [10.0], [11.0], [20.0], [21.0]])
    pairs = torch.tensor([[[0.1], [0.2], [0.3]], [[0.4], [0.5], [0.6]]])
    _, scores = link_loss(embedded, pairs, None, one, none, one, none, one, none, one, 2, None)
    torch.testing.assert_close(scores, torch.tensor([[1.1, 2.4], [10.2, 20.5], [11.3, 21.6]]))


def test_rows_may_have_gaps() -> None:
    case, strided = Case(5, 3, 4), Case(5, 3, 4)
    wide = torch.cat([case.leaves["embedded"], case.leaves["embedded"]], 1).detach()
    strided.leaves["embedded"] = wide[:, :3].requires_grad_()
    assert strided.leaves["embedded"].stride() == (6, 1)
    close(strided.with_gradients(strided.actual()), case.with_gradients(case.expected()))


@forms
@pytest.mark.parametrize("count", [None, 3])
def test_gradcheck(count: int | None, form: dict[str, Any]) -> None:
    case = Case(4, 3, count, junk=0.5, **form)

    def loss(*leaves: torch.Tensor) -> torch.Tensor:
        return case.actual(**dict(zip(case.leaves, leaves, strict=True)))[0]

    torch.autograd.gradcheck(loss, list(case.leaves.values()))


def test_scores_have_no_gradient_and_the_loss_has_one() -> None:
    loss, scores = Case(4).actual()
    assert loss.requires_grad
    assert not scores.requires_grad
    case = Case(4)
    for leaf in case.leaves.values():
        leaf.requires_grad_(False)
    assert torch.equal(case.actual()[0], loss.detach())
    assert not case.actual()[0].requires_grad


def test_gradients_of_some_leaves() -> None:
    """Freeze all but the embeddings, or all but some weights of the predictor."""
    whole = Case(5, count=4, negatives=2, features=3)
    expected = whole.with_gradients(whole.expected())
    for names in (("embedded",), ("weight_dst", "bias_out"), ("weight_pair",)):
        case = Case(5, count=4, negatives=2, features=3)
        for name, leaf in case.leaves.items():
            leaf.requires_grad_(name in names)
        close(case.with_gradients(case.actual()), {key: expected[key] for key in ("loss", "scores", *names)})


def pairs(*shape: int) -> dict[str, Any]:
    """Features of pairs of this shape, and a weight for two features."""
    return {"pairs": torch.zeros(shape, dtype=F64), "weight_pair": torch.zeros(3, 2, dtype=F64)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedded": torch.zeros(13, 3, dtype=F64)}, r"embedded has shape \(13, 3\); give 3 rows per event"),
        ({"embedded": torch.zeros(12, 0, dtype=F64)}, r"embedded has shape \(12, 0\); .* with at least one column"),
        ({"embedded": torch.zeros(12, dtype=F64)}, r"embedded has shape \(12,\); give 2 dimensions"),
        ({"embedded": torch.zeros(12, 3)}, r"embedded is torch\.float32 beside weight_src in torch\.float64"),
        ({"embedded": torch.zeros(3, 12, dtype=F64).t()}, r"embedded \(12, 3\) has strides .*contiguous"),
        ({"embedded": torch.zeros(12, 3, dtype=F64, device="meta")}, "weight_src is on cpu, not on meta"),
        ({"negatives": 0}, "negatives is 0; give the number of negatives per event, at least 1"),
        ({"negatives": 3}, r"embedded has shape \(12, 3\); give 5 rows per event .* 3 negatives\)"),
        ({"pairs": torch.zeros(4, 2, 2, dtype=F64)}, "pairs without weight_pair; give both or neither"),
        ({"weight_pair": torch.zeros(3, 2, dtype=F64)}, "weight_pair without pairs; give both or neither"),
        (pairs(4, 3, 2), r"pairs has shape \(4, 3, 2\); give \(4, 2, 2\)"),
        (pairs(4, 2), r"pairs has shape \(4, 2\); give 3 dimensions"),
        (pairs(4, 2, 2) | {"weight_pair": torch.zeros(2, 2, dtype=F64)}, r"weight_pair has .*\(2, 2\); give \(3, 2\)"),
        (
            {**pairs(4, 2, 2), "pairs": torch.zeros(4, 2, 2)},
            "pairs is torch.float32 beside weight_src in torch.float64",
        ),
        ({**pairs(4, 2, 2), "pairs": torch.zeros(2, 2, 4, dtype=F64).permute(2, 0, 1)}, "pairs .* has strides"),
        ({"count": torch.tensor([1, 2])}, r"count has shape \(2,\); give \(1,\)"),
        ({"count": torch.tensor([1.0])}, "count is torch.float32; give int32 or int64"),
        ({"weight_src": torch.zeros(3, 4, dtype=F64)}, r"weight_src has shape \(3, 4\); give \(3, 3\)"),
        ({"weight_src": torch.zeros(3, 3, dtype=torch.float16)}, "weight_src is torch.float16; give float32 or"),
        ({"weight_dst": torch.zeros(3, 3)}, "weight_dst is torch.float32 beside weight_src in torch.float64"),
        ({"bias_dst": torch.zeros(1, dtype=F64)}, r"bias_dst has shape \(1,\); give \(3,\)"),
        ({"weight_out": torch.zeros(3, dtype=F64)}, r"weight_out has shape \(3,\); give \(1, 3\)"),
        ({"bias_out": torch.zeros((), dtype=F64)}, r"bias_out has shape \(\); give \(1,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"link_loss: {message}"):
        link_loss(**{**Case(4).keywords(), **changes})


def test_debugging_finds_a_count_outside_the_batch() -> None:
    enable_debug()
    try:
        Case(4, count=4).actual()
        for count in (-1, 5):
            with pytest.raises(ValueError, match=rf"link_loss: count holds {count}, outside \[0, 5\)"):
                link_loss(**{**Case(4).keywords(), "count": torch.tensor([count])})
    finally:
        enable_debug(False)
