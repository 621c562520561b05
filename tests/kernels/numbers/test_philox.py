"""Philox against its published answers and a scalar version in Python integers; then dropout and bounded integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels.numbers.philox import dropout_scale, philox_integers, philox_words
from tests.kernels.numbers.plain_philox import expected_at, scalar_philox

WORD = st.integers(0, 2**32 - 1)

ANSWERS = [  # Random123's kat_vectors: counter, key, words
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words_of(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def to_signed(value: int) -> int:
    """Return the int64 with these 64 bits."""
    return value - 2**64 if value >= 2**63 else value


def words_at(draws: list[int], position: int) -> list[int]:
    """Words of the package's Philox at one position."""
    return [int(word) for word in philox_words(torch.tensor(draws), torch.tensor(to_signed(position)))]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_published_answers(counter: str, key: str, answer: str) -> None:
    low, high, epoch, iteration = words_of(counter)
    assert scalar_philox(words_of(counter), words_of(key)) == words_of(answer)
    assert words_at([*words_of(key), epoch, iteration], low + (high << 32)) == words_of(answer)


@settings(deadline=None)
@given(draws=st.lists(WORD, min_size=4, max_size=4), position=st.integers(0, 2**64 - 1))
def test_any_key_and_counter_against_python_integers(draws: list[int], position: int) -> None:
    assert words_at(draws, position) == expected_at(draws, position)


@pytest.mark.parametrize("count", [0, 1, 123, 1025])
def test_many_positions_equal_single_ones(count: int) -> None:
    draws = [7, 1, 2, 3]
    words = philox_words(torch.tensor(draws), torch.arange(count))
    assert all(word.dtype == torch.int64 and word.shape == (count,) for word in words)
    assert torch.stack(words, 1).tolist() == [expected_at(draws, position) for position in range(count)]


def test_draws_with_trailing_dimensions_broadcast_with_positions() -> None:
    draws = torch.tensor([[[7], [8]], [[1], [1]], [[0], [5]], [[3], [9]]])
    words = torch.stack(philox_words(draws, torch.arange(5)), -1)
    assert words.tolist() == [[expected_at(draws[:, i, 0].tolist(), p) for p in range(5)] for i in range(2)]


@settings(deadline=None)
@given(bound=st.integers(1, 2**31), draws=st.lists(WORD, min_size=4, max_size=4))
def test_integers_scale_the_first_word(bound: int, draws: list[int]) -> None:
    actual = philox_integers(torch.tensor(draws), torch.arange(9), bound).tolist()
    assert actual == [expected_at(draws, position)[0] * bound // 2**32 for position in range(9)]
    assert all(0 <= value < bound for value in actual)


def test_bound_zero_gives_zero_beside_other_bounds() -> None:
    bounds = torch.tensor([0, 1, 2, 2**31]).repeat(50)
    integers = philox_integers(torch.tensor([1, 2, 3, 4]), torch.arange(200), bounds).view(50, 4)
    assert not integers[:, :2].any()
    assert set(integers[:, 2].tolist()) == {0, 1}
    assert int(integers[:, 3].max()) > 2**30
    assert bool((integers < bounds.view(50, 4).clamp(min=1)).all())


@pytest.mark.parametrize("word", range(4))
def test_each_word_of_the_key_changes_the_draws(word: int) -> None:
    draws, other = torch.tensor([5, 6, 7, 8]), torch.tensor([5, 6, 7, 8])
    other[word] += 1
    same = philox_words(draws, torch.arange(100))[0] == philox_words(other, torch.arange(100))[0]
    assert int(same.sum()) == 0


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_rate_and_mean(probability: float) -> None:
    shape = (123, 7, 257)
    scale = dropout_scale(torch.tensor([11, 2, 0, 0]), shape, probability, torch.float64)
    count = scale.numel()
    # A multiplier is a Bernoulli variable over 1 − p: standard error √(p / (1 − p) / n); allow five, seed fixed.
    assert abs(float(scale.mean()) - 1.0) < 5 * (probability / (1 - probability) / count) ** 0.5
    survivors = scale[scale != 0]
    assert torch.equal(survivors, torch.full_like(survivors, 1.0 / (1.0 - probability)))


@pytest.mark.parametrize("count", [0, 1, 123, 1025])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_element_e_uses_word_e_mod_4_of_position_e_div_4(count: int, dtype: torch.dtype) -> None:
    draws = [3, 1, 4, 1]
    scale = dropout_scale(torch.tensor(draws), (count,), 0.3, dtype)
    survives = [expected_at(draws, element // 4)[element % 4] >= int(0.3 * 2**32) for element in range(count)]
    assert scale.dtype == dtype
    assert torch.equal(scale, torch.tensor(survives, dtype=torch.bool).to(dtype) / 0.7)


def test_dropout_shape_is_filled_in_row_major_order() -> None:
    draws = torch.tensor([3, 1, 4, 1])
    flat = dropout_scale(draws, (3 * 5 * 7,), 0.5, torch.float32)
    assert torch.equal(dropout_scale(draws, (3, 5, 7), 0.5, torch.float32), flat.view(3, 5, 7))
