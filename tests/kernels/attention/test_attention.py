"""Both attentions in torch: sizes, forms, dropout, garbage in empty slots, single gradients, refused arguments."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.attention.attention_case import ATTENTIONS, DRAWS, Case
from tests.kernels.comparing import Agree
from tests.kernels.runtime.operation_case import check

pytestmark = ATTENTIONS


@pytest.mark.parametrize("width", [0, 3, 172])
@pytest.mark.parametrize("fanout", [1, 6, 10])
@pytest.mark.parametrize("roots", [1, 123])
def test_sizes(kind: type[Case], roots: int, fanout: int, width: int, agree: Agree) -> None:
    check(kind(roots, fanout, width), agree)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("counts", ["some", "none", "all"])
@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("choices", [None, 1, 17])
def test_forms(
    kind: type[Case], choices: int | None, indexed_features: bool, counts: str, dropout: float, agree: Agree
) -> None:
    check(kind(33, choices=choices, indexed_features=indexed_features, counts=counts, dropout=dropout), agree)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_gradient_of_a_full_case_is_nonzero(kind: type[Case], dropout: float, agree: Agree) -> None:
    expected = check(kind(123, choices=50, indexed_features=True, dropout=dropout), agree)
    table = {"table"} if kind is Case else set()
    assert expected.keys() == {"context", "total", "query", "bias", "frequency", "phase", *table}
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())


@pytest.mark.parametrize(("heads", "dim", "times"), [(1, 1, 1), (3, 200, 100)])
def test_other_widths(kind: type[Case], heads: int, dim: int, times: int, agree: Agree) -> None:
    check(kind(33, heads=heads, dim=dim, times=times), agree)


@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("width", [0, 3])
def test_no_roots(kind: type[Case], width: int, indexed_features: bool) -> None:
    case = kind(0, width=width, indexed_features=indexed_features)
    context, total = case.actual()
    assert context.shape == (0, 2, 7 + width)
    assert total.shape == (0, 2)
    gradients = torch.autograd.grad(context.sum() + total.sum(), list(case.leaves.values()))
    assert not any(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("choices", [None, 4])
def test_roots_without_neighbours_give_zeros_and_pass_no_gradient(kind: type[Case], choices: int | None) -> None:
    case = kind(33, counts="none", choices=choices)
    case.spoil(1e9, -1)
    results = case.with_gradients(case.actual())
    assert all(not value.any() for value in results.values()), "nothing may be NaN or leak from an empty slot"


def test_weights_of_a_root_with_neighbours_sum_to_one(kind: type[Case]) -> None:
    case = kind(123)
    total = case.actual()[1]
    expected = (case.filled > 0).double()[:, None].expand(-1, 2)
    # A sum of F ≤ 6 weights, each of them rounded, is off by at most F units in the last place.
    assert bool(((total - expected).abs() <= 6 * torch.finfo(torch.float64).eps).all())


def test_dropout_multipliers_average_to_one(kind: type[Case]) -> None:
    case = kind(2000, 1, 0, 4, counts="all", dropout=0.4)
    total = case.actual()[1].detach()  # one neighbour, of weight 1: the total is its multiplier
    nonzero = total != 0
    assert torch.equal(total[nonzero], torch.full_like(total[nonzero], 1 / 0.6))
    assert abs(float(total.mean()) - 1) < 5 * (0.4 / 0.6 / total.numel()) ** 0.5  # five standard errors, seed fixed


def test_dropout_repeats_itself_and_changes_with_the_draws(kind: type[Case]) -> None:
    case = kind(123, dropout=0.5)
    first, second = case.with_gradients(case.actual()), case.with_gradients(case.actual())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["total"], kind(123, dropout=0.0).actual()[1])
    for word in range(4):
        case.draws = DRAWS + (torch.arange(4) == word)
        assert not torch.equal(first["total"], case.actual()[1])


def test_draws_without_dropout_change_nothing(kind: type[Case]) -> None:
    with_draws, plain = kind(33).actual(), kind(33, draws=None).actual()
    assert all(torch.equal(a, b) for a, b in zip(with_draws, plain, strict=True))


@pytest.mark.parametrize(("choices", "row"), [(None, 39), (None, -1), (40, -40)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("indexed_features", [True, False])
def test_empty_slots_may_hold_any_value(
    kind: type[Case], indexed_features: bool, dropout: float, choices: int | None, row: int
) -> None:
    case = kind(123, choices=choices, indexed_features=indexed_features, dropout=dropout)
    before = case.with_gradients(case.actual())
    assert bool(case.empty.any())
    case.spoil(1e9, row)
    after = case.with_gradients(case.actual())
    for name, value in before.items():
        assert torch.equal(after[name], value), name


def test_a_negative_feature_row_in_a_filled_slot_is_row_zero(kind: type[Case], agree: Agree) -> None:
    case = kind(33, indexed_features=True, counts="all")
    assert case.feature_rows is not None
    case.feature_rows[:, ::2] = -1
    check(case, agree)


@pytest.mark.parametrize("choices", [None, 9])
@pytest.mark.parametrize("indexed_features", [True, False])
def test_int32_indices_and_gaps_between_rows(
    kind: type[Case], indexed_features: bool, choices: int | None, agree: Agree
) -> None:
    case = kind(33, choices=choices, indexed_features=indexed_features)
    expected = case.with_gradients(case.expected())
    case.narrow()
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.parametrize("index", [0, 1])
def test_gradient_of_the_plain_sum_of_one_result(kind: type[Case], index: int, agree: Agree) -> None:
    """Pass an expanded scalar as the gradient of one result, and no gradient for the other."""
    agree(*kind(33, dropout=0.3).gradients_of_sum(index))


def test_inputs_are_unchanged(kind: type[Case]) -> None:
    case = kind(33, choices=9, indexed_features=True, dropout=0.3)
    tensors = [value for value in case.keywords().values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == len(case.keywords()) - 1
    before = [tensor.detach().clone() for tensor in tensors]
    case.with_gradients(case.actual())
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize("wrong", [9, 11])
def test_a_query_of_the_wrong_width_is_refused(kind: type[Case], wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"query has width {wrong},.* 10; give query 10 columns$"):
        kind(3).actual(query=torch.zeros(3, 2, wrong, dtype=torch.float64))


def test_dropout_without_draws_is_refused(kind: type[Case]) -> None:
    with pytest.raises(ValueError, match="dropout needs draws"):
        kind(3, dropout=0.1, draws=None).actual()


def small(kind: type[Case], dropout: float = 0.0) -> Case:
    """A small case whose times are short enough for numerical differences in w."""
    case = kind(4, 3, 2, dim=2, times=2, choices=3, dropout=dropout)
    case.deltas = case.deltas / 50
    return case


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradcheck(kind: type[Case], dropout: float) -> None:
    case = small(kind, dropout)
    assert int(case.filled.max()) > 1

    def function(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return case.actual(**dict(zip(case.leaves, leaves, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(case.leaves.values()))
