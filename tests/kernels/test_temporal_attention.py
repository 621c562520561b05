"""temporal_attention: sizes, forms, dropout, garbage in empty slots, single gradients, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from tests.kernels.attention_case import DRAWS, Agree, Case, check


@pytest.mark.parametrize("width", [0, 3, 172])
@pytest.mark.parametrize("fanout", [1, 6, 10])
@pytest.mark.parametrize("roots", [1, 123])
def test_sizes(roots: int, fanout: int, width: int, agree: Agree) -> None:
    check(Case(roots, fanout, width), agree)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("counts", ["some", "none", "all"])
@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("queries", [None, 1, 17])
def test_forms(queries: int | None, indexed_features: bool, counts: str, dropout: float, agree: Agree) -> None:
    check(Case(33, queries=queries, indexed_features=indexed_features, counts=counts, dropout=dropout), agree)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_gradient_of_a_full_case_says_something(dropout: float, agree: Agree) -> None:
    expected = check(Case(123, queries=50, indexed_features=True, dropout=dropout), agree)
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())


@pytest.mark.parametrize(("heads", "dim", "times"), [(1, 1, 1), (3, 100, 100)])
def test_other_widths(heads: int, dim: int, times: int, agree: Agree) -> None:
    check(Case(33, heads=heads, dim=dim, times=times), agree)


@pytest.mark.parametrize("indexed_features", [True, False])
@pytest.mark.parametrize("width", [0, 3])
def test_no_roots(width: int, indexed_features: bool) -> None:
    case = Case(0, width=width, indexed_features=indexed_features)
    context, total = case.actual()
    assert context.shape == (0, 2, 7 + width)
    assert total.shape == (0, 2)
    gradients = torch.autograd.grad(context.sum() + total.sum(), list(case.leaves.values()))
    assert not any(bool(gradient.any()) for gradient in gradients)


def test_roots_without_neighbours_give_zeros_and_pass_no_gradient() -> None:
    case = Case(33, counts="none")
    named = case.with_gradients(case.actual())
    assert all(not value.any() for value in named.values()), "nothing may be NaN or leak from an empty slot"


def test_totals_are_one_where_there_are_neighbours() -> None:
    case = Case(123)
    total = case.actual()[1]
    expected = (case.filled > 0).double()[:, None].expand(-1, 2)
    # A sum of F ≤ 6 weights that are each rounded: no more than F units of the last place.
    assert bool(((total - expected).abs() <= 6 * torch.finfo(torch.float64).eps).all())


def test_dropout_multiplies_weights_that_average_to_one() -> None:
    case = Case(2000, 1, 0, 4, counts="all", dropout=0.4)
    total = case.actual()[1].detach()  # one neighbour: its weight is 1, the total is its multiplier
    kept = total != 0
    assert torch.equal(total[kept], torch.full_like(total[kept], 1 / 0.6))
    assert abs(float(total.mean()) - 1) < 5 * (0.4 / 0.6 / total.numel()) ** 0.5  # five standard errors, seed fixed


def test_dropout_repeats_itself_and_changes_with_the_draws() -> None:
    case = Case(123, dropout=0.5)
    first, second = case.with_gradients(case.actual()), case.with_gradients(case.actual())
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = Case(123, dropout=0.0)
    assert not torch.equal(first["total"], plain.actual()[1])
    for word in range(4):
        case.draws = DRAWS + (torch.arange(4) == word)
        assert not torch.equal(first["total"], case.actual()[1])


def test_draws_without_dropout_change_nothing() -> None:
    drawn, plain = Case(33).actual(), Case(33, draws=None).actual()
    assert all(torch.equal(a, b) for a, b in zip(drawn, plain, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("indexed_features", [True, False])
def test_empty_slots_may_hold_anything(indexed_features: bool, dropout: float) -> None:
    case = Case(123, indexed_features=indexed_features, dropout=dropout)
    before = case.with_gradients(case.actual())
    assert bool(case.empty.any())
    case.rows = torch.where(case.empty, case.integers(40, 123, 6), case.rows)
    case.deltas = torch.where(case.empty, case.normal(123, 6) * 1e9, case.deltas)
    if case.feature_rows is None:
        case.features = torch.where(case.empty.view(-1, 1), case.normal(123 * 6, 3) * 1e9, case.features)
    else:
        case.feature_rows = torch.where(case.empty, case.integers(50, 123, 6), case.feature_rows)
    after = case.with_gradients(case.actual())
    for name, value in before.items():
        assert torch.equal(after[name], value), name


@pytest.mark.parametrize("padding", [-1, -40])
def test_padding_below_zero_in_empty_slots(padding: int, agree: Agree) -> None:
    case = Case(123, indexed_features=True)
    assert case.feature_rows is not None
    expected = case.with_gradients(case.expected())
    case.rows = torch.where(case.empty, padding, case.rows)
    case.feature_rows = torch.where(case.empty, padding, case.feature_rows)
    agree(case.with_gradients(case.actual()), expected)


def test_feature_row_below_zero_in_a_filled_slot_is_row_zero(agree: Agree) -> None:
    case = Case(33, indexed_features=True, counts="all")
    assert case.feature_rows is not None
    case.feature_rows[:, ::2] = -1
    check(case, agree)


def test_int32_indices_and_padded_tables(agree: Agree) -> None:
    case = Case(33, queries=9, indexed_features=True)
    expected = case.with_gradients(case.expected())
    assert case.feature_rows is not None
    assert case.query_rows is not None
    case.rows, case.feature_rows = case.rows.int(), case.feature_rows.int()
    case.filled, case.query_rows = case.filled.int(), case.query_rows.int()
    case.features = torch.cat([case.features, case.features], 1)[:, :3]
    wide = torch.cat([case.leaves["table"], case.leaves["table"]], 1).detach()
    case.leaves["table"] = wide[:, :4].requires_grad_()
    assert case.leaves["table"].stride(0) == 8
    agree(case.with_gradients(case.actual()), expected)


@pytest.mark.parametrize("name", ["table", "query", "bias", "frequency", "phase"])
def test_gradient_of_one_leaf_alone(name: str, agree: Agree) -> None:
    case = Case(33)
    expected = case.with_gradients(case.expected())[name]
    for other, leaf in case.leaves.items():
        leaf.requires_grad_(other == name)
    context, total = case.actual()
    loss = (context * case.probes[0]).sum() + (total * case.probes[1]).sum()
    agree({name: torch.autograd.grad(loss, case.leaves[name])[0]}, {name: expected})


@pytest.mark.parametrize("which", [0, 1])
def test_gradient_through_one_result_alone(which: int, agree: Agree) -> None:
    case = Case(33, dropout=0.3)
    case.probes = tuple(probe * (i == which) for i, probe in enumerate(case.probes))
    leaves = [case.leaves[name] for name in ("table", "query", "bias")]
    actual = torch.autograd.grad((case.actual()[which] * case.probes[which]).sum(), leaves)
    expected = case.with_gradients(case.expected())
    agree(
        dict(zip(("table", "query", "bias"), actual, strict=True)),
        {name: expected[name] for name in ("table", "query", "bias")},
    )


def test_gradient_of_a_plain_sum(agree: Agree) -> None:
    """The incoming gradient is then one number, expanded: a tensor without strides of its own."""
    case = Case(33, dropout=0.3)
    context, total = case.actual()
    gradients = torch.autograd.grad(context.sum() + total.sum(), list(case.leaves.values()))
    case.probes = (torch.ones_like(case.probes[0]), torch.ones_like(case.probes[1]))
    expected = case.with_gradients(case.expected())
    agree(dict(zip(case.leaves, gradients, strict=True)), {name: expected[name] for name in case.leaves})


def test_inputs_stay_as_they_are() -> None:
    case = Case(33, queries=9, indexed_features=True, dropout=0.3)
    inputs = [case.rows, case.deltas, case.filled, case.features, case.feature_rows, case.query_rows]
    tensors = [tensor for tensor in [*inputs, *case.leaves.values()] if tensor is not None]
    before = [tensor.detach().clone() for tensor in tensors]
    case.with_gradients(case.actual())
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize("wrong", [9, 11])
def test_widths_that_do_not_add_up_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"query has width {wrong},.* 10$"):
        Case(3).actual(torch.zeros(3, 2, wrong, dtype=torch.float64))


def test_dropout_without_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="dropout needs draws"):
        Case(3, dropout=0.1, draws=None).actual()


def function_of_leaves(case: Case) -> Callable[..., tuple[torch.Tensor, ...]]:
    def function(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        case.leaves = dict(zip(case.leaves, leaves, strict=True))
        return case.actual()

    return function


def small(dropout: float = 0.0) -> Case:
    """Few numbers, and times for which numerical differences in w are good."""
    case = Case(4, 3, 2, dim=2, times=2, queries=3, dropout=dropout)
    case.deltas = case.deltas / 50
    return case


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradcheck(dropout: float) -> None:
    case = small(dropout)
    assert int(case.filled.max()) > 1
    assert torch.autograd.gradcheck(function_of_leaves(case), tuple(case.leaves.values()))


def right_or_refused(function: Callable[..., tuple[torch.Tensor, ...]], leaves: Sequence[torch.Tensor]) -> bool:
    loss = sum(result.square().sum() for result in function(*leaves))
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    try:
        sum(gradient.square().sum() for gradient in gradients).backward()
    except RuntimeError as error:  # once_differentiable's
        return "differentiate twice" in str(error)
    return torch.autograd.gradgradcheck(function, leaves, raise_exception=False)


def test_second_derivative_is_right_or_refused() -> None:
    case = small()
    function, leaves = function_of_leaves(case), tuple(case.leaves.values())
    assert right_or_refused(function, leaves), "the second derivative is wrong without a word"
