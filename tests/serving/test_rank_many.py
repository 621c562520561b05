"""Rankings for many sources at once: those of one source at a time, for every model, mode and form of arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import InputError
from mspipe_triton.models.layers import LinkPredictor
from mspipe_triton.serving import destinations
from tests.serving.served import columns, trained

MODES = ("exact", "cached")
ENDS = [(70, 1), (71, 2), (3, 1), (1, 3), (5, 5), (70, 75)]  # events after those of the run: replies and a loop
SOURCES = [3, 1, 70, 3, 59, 75, 5, 70, 88, 2, 9001, 9000]  # some repeat, have sent nothing, or have no event


class Case(NamedTuple):
    """A model, and what its scores may differ by."""

    model: str
    settings: dict[str, Any]
    dtype: str = "float64"

    @property
    def tolerance(self) -> float:
        return 1e-12 if self.dtype == "float64" else 1e-5


NO_PAIRS = {"pair_features": False}
CASES = {
    "tgn": Case("tgn", {}),
    "tgn without pairs": Case("tgn", NO_PAIRS),
    "tgn float32": Case("tgn", {}, "float32"),
    "tgn of two layers": Case("tgn", {"layers": 2}),
    "jodie": Case("jodie", {}),
    "jodie without pairs": Case("jodie", NO_PAIRS),
    "apan": Case("apan", {}),
    "apan without pairs": Case("apan", NO_PAIRS),
    "tgat": Case("tgat", {"layers": 1}),
    "tgat of two layers without pairs": Case("tgat", {"layers": 2} | NO_PAIRS, "float32"),
    "tgn uniform": Case("tgn", {"sampler": "uniform"}),
    "tgat uniform of two layers": Case("tgat", {"sampler": "uniform", "layers": 2}),
}


# Every model, setting and type of numbers; the others combine them.
QUICK = ("tgn", "jodie without pairs", "apan", "tgat of two layers without pairs", "tgn uniform")


class Ready(NamedTuple):
    """A predictor that has observed events, and the tolerance of its scores."""

    predictor: Predictor
    tolerance: float


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)
def ready(request: pytest.FixtureRequest, small_stream: EventStream, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """A predictor of each case, which no test changes."""
    case = CASES[request.param]
    run = trained(tmp_path_factory.mktemp("runs"), small_stream, case.model, case.dtype, **case.settings)
    predictor = load(run, stream=small_stream)
    for number, (src, dst) in enumerate(ENDS):
        predictor.observe(src, dst, predictor.time + number // 2, np.ones(3))
    return Ready(predictor, case.tolerance)


def same(many: Sequence[tuple[Any, float]], one: Sequence[tuple[Any, float]], tolerance: float) -> None:
    """Check that rankings of all destinations are the same, but for rounding and for the order of equal scores."""
    scores = dict(one)
    assert scores.keys() == {each for each, _ in many}
    assert len(many) == len(one)
    for (other, score), (_, expected) in zip(many, one, strict=True):
        assert score == pytest.approx(expected, rel=tolerance, abs=tolerance)
        assert score == pytest.approx(scores[other], rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_rankings_are_those_of_one_source_at_a_time(ready: Ready, mode: str) -> None:
    predictor = ready.predictor
    for time in (None, predictor.time, predictor.time + 5000):
        many = predictor.rank_many(SOURCES, time, None, mode=mode, new=True)
        assert len(many) == len(SOURCES)
        for source, ranked in zip(SOURCES, many, strict=True):
            same(ranked, predictor.rank(source, time, None, mode=mode, new=True), ready.tolerance)
        for top in (1, 4, 10**6):
            for ranked, whole in zip(predictor.rank_many(SOURCES, time, top, mode=mode, new=True), many, strict=True):
                scores, expected = ([score for _, score in each] for each in (ranked, whole[:top]))
                np.testing.assert_allclose(scores, expected, ready.tolerance, ready.tolerance)


def test_rankings_are_those_of_the_scores(ready: Ready) -> None:
    predictor, allowed = ready.predictor, 10 * ready.tolerance
    for time in (None, predictor.time):
        for source, ranked in zip(SOURCES, predictor.rank_many(SOURCES, time, None, new=True), strict=True):
            if not predictor._live.session.sampler.uniform:  # whose neighbours each call draws for itself
                scores = predictor.score(source, [each for each, _ in ranked], time, new=True)
                np.testing.assert_allclose([score for _, score in ranked], scores, allowed, allowed)
            assert len({each for each, _ in ranked}) == len(ranked) == predictor.destinations


def test_one_source_and_none(ready: Ready) -> None:
    predictor = ready.predictor
    for mode in MODES:
        for arguments in (([],), (np.array([]),), (iter(()),), ((), predictor.time, None)):
            assert predictor.rank_many(*arguments, mode=mode) == []
        (many,) = predictor.rank_many([3], top=None, mode=mode)
        same(many, predictor.rank(3, top=None, mode=mode), ready.tolerance)


@pytest.mark.parametrize("pairs", [7, 100])  # of some 300 in all
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{}, NO_PAIRS], ids=["pairs", "no pairs"])
def test_many_pairs_are_split(
    settings: dict[str, Any], mode: str, pairs: int, small_stream: EventStream, run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = trained(tmp_path, small_stream, "tgn", "float64", **settings) if settings else run
    predictor = load(folder, stream=small_stream)
    predictor.observe(70, 1, predictor.time, np.ones(3))
    whole, few = (predictor.rank_many(SOURCES, None, top, mode=mode, new=True) for top in (None, 3))
    candidates = predictor.rank(1, None, None, range(80, 89), mode=mode)
    monkeypatch.setattr(destinations, "PAIRS", pairs)
    sizes: list[int] = []
    rank = LinkPredictor.rank

    def noted(self: LinkPredictor, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        sizes.append(len(src) * len(dst))
        return rank(self, src, dst)

    monkeypatch.setattr(LinkPredictor, "rank", noted)
    for ranked, expected in zip(predictor.rank_many(SOURCES, None, None, mode=mode, new=True), whole, strict=True):
        same(ranked, expected, 1e-12)
    assert sum(sizes) == len(set(SOURCES[:-2])) * predictor.destinations + predictor.destinations
    assert 1 < max(sizes) <= pairs
    for ranked, expected in zip(predictor.rank_many(SOURCES, None, 3, mode=mode, new=True), few, strict=True):
        np.testing.assert_allclose([each for _, each in ranked], [each for _, each in expected], 1e-12, 1e-12)
    same(predictor.rank(1, None, None, range(80, 89), mode=mode), candidates, 1e-12)


def test_destinations_are_embedded_once(run: Path, small_stream: EventStream) -> None:
    predictor = load(run, stream=small_stream, share=1e9)
    cached, later = predictor._ranking["cached"], predictor.time + 1000
    predictor.rank_many([1, 2, 3], later, mode="cached")
    every = predictor.destinations
    assert (cached.hits, cached.misses) == (0, every)
    predictor.rank_many([4, 5], later + 1, mode="cached")
    assert (cached.hits, cached.misses) == (every, every)


@pytest.mark.parametrize("mode", MODES)
def test_events_between_rankings_count(mode: str, run: Path, small_stream: EventStream) -> None:
    predictor = load(run, stream=small_stream, at=int(small_stream.t[1150]))
    for event in range(1150, 1165, 5):
        predictor.rank_many([1, 3], mode=mode)
        predictor.observe(**columns(small_stream, event, event + 5))
        for time in (predictor.time, predictor.time + 1):
            for source, ranked in zip([1, 3], predictor.rank_many([1, 3], time, None, mode=mode), strict=True):
                same(ranked, predictor.rank(source, time, None, mode=mode), 1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_two_kinds_of_nodes(mode: str, shop_run: Path) -> None:
    predictor = load(shop_run)
    users = ["u3", "u1", "nobody", "u19", "u3"]
    many = predictor.rank_many(users, "2024-04-01", None, mode=mode, new=True)
    assert {each for ranked in many for each, _ in ranked} <= set(range(100, 112))
    for user, ranked in zip(users, many, strict=True):
        same(ranked, predictor.rank(user, "2024-04-01", None, mode=mode, new=True), 1e-5)
    assert many[0] == many[4]
    assert many[0] is not many[4]


FORMS: dict[str, Callable[[list[int]], Any]] = {
    "tuple": tuple,
    "generator": lambda ids: (each for each in ids),
    "numpy": np.array,
    "text": lambda ids: np.array(list(map(str, ids))),
    "floats": lambda ids: np.array(ids, dtype=np.float64),
    "tensor": torch.tensor,
    "pandas": lambda ids: pd.Series(ids, index=range(len(ids), 0, -1)),
    "polars": pl.Series,
    "arrow": pa.array,
    "chunks": lambda ids: pa.chunked_array([ids[:1], ids[1:]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_sources_of_every_form(form: str, predictor: Predictor) -> None:
    assert predictor.rank_many(FORMS[form]([3, 1, 3])) == predictor.rank_many([3, 1, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be a whole number of at least 1, not 0; None returns all"), ({"top": True}, "not True"),
        ({"mode": "fast"}, "mode must be exact or cached, not 'fast'"), ({"src": [], "mode": "fast"}, "not 'fast'"),
        ({"src": 3}, "src is 3, not a list; rank_many takes a list of sources, and rank one"),
        ({"src": "3"}, "src is '3', not a list"), ({"src": [3, 5000]}, "src: 5000 is new"),
        ({"src": [3, None]}, "src is empty"), ({"src": [[3]]}, "one dimension"), ({"t": 1}, "before the first event"),
        ({"t": []}, "t has 0 times; rank_many takes one"), ({"t": "x"}, "time is"),
    ],
)  # fmt: skip
def test_rankings_that_are_refused(options: dict[str, Any], message: str, predictor: Predictor) -> None:
    with pytest.raises(InputError) as caught:
        predictor.rank_many(**{"src": [1, 2]} | options)
    assert message in str(caught.value)


def test_times_are_one_for_all_sources(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="t has 2 times; rank_many takes one"):
        predictor.rank_many([1, 2], [predictor.time, predictor.time + 1])
