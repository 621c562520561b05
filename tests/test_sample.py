"""The marker `sample`: which combinations of a test's parameters are quick, and that none is lost."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["x", "y", "z"])
def letter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def is_slow(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("slow") is not None


@pytest.mark.sample(3)
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("word", "size"), [("one", 3), ("two", 3), ("three", 5)])
def test_places_along_the_axes_decide(
    letter: str, number: int, word: str, size: int, request: pytest.FixtureRequest
) -> None:
    """Take decorators and fixtures as axes, and names that share a decorator as one."""
    total = "xyz".index(letter) + number + ["one", "two", "three"].index(word)
    assert len(word) == size
    assert is_slow(request) == bool(total % 3)


@pytest.mark.parametrize("number", range(4))
def test_all_combinations_are_quick_without_it(number: int, request: pytest.FixtureRequest) -> None:
    assert not is_slow(request)
