"""Queries of predictors: forms of ids and times, rankings, embeddings, and embeddings that are kept."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import InputError
from tests.serving.served import shop, trained

USERS, ITEMS = [1, 2, 3], [70, 71, 75]
FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda ids: (each for each in ids),
    "numpy": np.array,
    "strings": lambda ids: np.array(list(map(str, ids))),
    "floats": lambda ids: np.array(ids, dtype=np.float64),
    "objects": lambda ids: np.array(ids, dtype=object),
    "tensor": torch.tensor,
    "pandas": lambda ids: pd.Series(ids, index=range(len(ids), 0, -1)),
    "polars": pl.Series,
    "arrow": pa.array,
    "chunks": lambda ids: pa.chunked_array([ids[:1], ids[1:]]),
}
DAY = datetime.datetime(2024, 4, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def run(small_stream: EventStream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs"), small_stream, "tgn", "float64")


@pytest.fixture(scope="module")
def predictor(run: Path, small_stream: EventStream) -> Predictor:
    """A predictor that no test changes."""
    return load(run, stream=small_stream)


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """One of dated purchases of items by users, which no test changes."""
    return load(shop(tmp_path_factory.mktemp("shop")))


@pytest.mark.parametrize("form", FORMS)
def test_ids_and_times_of_every_form(form: str, predictor: Predictor) -> None:
    make, last = FORMS[form], predictor.time
    times = [last, last + 7, last + 100]
    single = [predictor.score(*each) for each in zip(USERS, ITEMS, times, strict=True)]
    scores = predictor.score(make(USERS), make(ITEMS), make(times))
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, single, rtol=1e-9, atol=1e-9)
    ranked = predictor.rank(1, candidates=make(ITEMS), top=None)
    assert {type(each) for each, _ in ranked} == {{"strings": str, "floats": float}.get(form, int)}
    assert sorted(int(each) for each, _ in ranked) == ITEMS
    assert predictor.embed(make(USERS)).tobytes() == predictor.embed(USERS).tobytes()


def test_one_value_stands_for_all(predictor: Predictor) -> None:
    last = predictor.time
    for arguments in ((1, ITEMS, None), (USERS, 70, last), (1, 70, [last, last + 1, last + 2]), (USERS, ITEMS, last)):
        many = predictor.score(*arguments)
        rows = np.broadcast_arrays(*(np.array(each) for each in arguments))
        single = [predictor.score(*(each.item() if isinstance(each, np.generic) else each for each in row))
                  for row in zip(*rows, strict=True)]  # fmt: skip
        np.testing.assert_allclose(many, single, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "one",
    [int, str, float, np.int64, np.array, torch.tensor, pa.scalar],
    ids=["int", "str", "float", "numpy", "array", "tensor", "arrow"],
)
def test_single_arguments_give_a_float(one: Callable[[Any], Any], predictor: Predictor) -> None:
    score = predictor.score(one(1), one(70), one(predictor.time))
    assert type(score) is float
    assert score == predictor.score([1], [70], [predictor.time])[0]
    for each in ((1, 70, [predictor.time]), ([1], 70), (1, [70])):
        assert np.shape(predictor.score(*each)) == (1,)
    assert predictor.embed(one(1)).shape == (predictor.dim,)


def test_nothing_in_nothing_out(predictor: Predictor) -> None:
    empty = np.array([])
    for arguments in (([], []), ([], [], []), (empty, 70), (1, empty, predictor.time), (1, 70, [])):
        scores = predictor.score(*arguments)
        assert (scores.shape, scores.dtype) == ((0,), np.float64)
    assert predictor.rank(1, candidates=[]) == []
    rows = predictor.embed([])
    assert (rows.shape, rows.dtype) == ((0, predictor.dim), np.float64)
    with pytest.raises(InputError, match="src has 2 values for 0 events"):
        predictor.score([1, 2], [])


def test_a_probability_is_sigma_of_the_logit(predictor: Predictor, small_stream: EventStream, tmp_path: Path) -> None:
    logits, shares = predictor.score(USERS, ITEMS), predictor.score(USERS, ITEMS, probability=True)
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-logits)), rtol=1e-9)
    assert predictor.score(1, 70, probability=True) == pytest.approx(1 / (1 + math.exp(-predictor.score(1, 70))))
    softmax = load(trained(tmp_path, small_stream, "jodie", loss="softmax"), stream=small_stream)
    assert softmax.score(USERS, ITEMS).dtype == np.float32
    with pytest.raises(InputError, match="probability is for loss bce"):
        softmax.score(1, 70, probability=True)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (2000, "src: 2000 is new, since no event so far has it; new=True takes it for a node without events"),
        ((each for each in (1, 2000)), "src: 2000 is new"), (torch.tensor([1, 2000]), "src: 2000 is new"),
        (pa.array([1, 2000]), "src: 2000 is new"), (pd.Series([1, 2000], index=[9, 3]), "src: 2000 is new"),
        (None, "src is empty; give an id"), ([1, None], "src is empty"), (math.nan, "src is empty"),
        ("", "src is empty"),
        ("abc", "src is 'abc', not an integer of int64, as the run's ids are; correct it"), (1.5, "src is 1.5, not an"),
        (True, "src is True, not an integer"), (2**70, "not an integer of int64"), ("001", "do you mean 1?"),
        ([[1, 2]], "one dimension"), (np.array([[1]]), "one dimension"), ({"a": 1}, "type dict"), (object(), "object"),
    ],
)  # fmt: skip
def test_ids_that_no_node_has(ids: Any, message: str, predictor: Predictor) -> None:
    with pytest.raises(InputError) as caught:
        predictor.score(ids, 70)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_new_id_is_a_node_without_events(predictor: Predictor) -> None:
    scores = predictor.score([1, 5000, 6000], [9000, 70, 9001], new=True)
    assert np.isfinite(scores).all()
    assert scores[2] == predictor.score(7777, 8888, new=True)
    assert [each for each, _ in predictor.rank(5000, candidates=[70, 9000], new=True, top=1)] in ([70], [9000])
    assert len(predictor.nodes) == 90
    for misfit in (None, "abc", 1.5, math.nan):
        with pytest.raises(InputError, match=r"^candidates is (empty|.*not an integer)"):
            predictor.rank(1, candidates=[70, misfit], new=True)


def test_a_ranking_is_that_of_the_scores(predictor: Predictor, small_stream: EventStream) -> None:
    everything = sorted(set(small_stream.dst.tolist()))
    for time in (None, predictor.time, predictor.time + 1000):
        ranked = predictor.rank(3, time, None)
        assert sorted(each for each, _ in ranked) == everything
        assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
        scores = predictor.score(3, [each for each, _ in ranked], time)
        np.testing.assert_allclose([score for _, score in ranked], scores, rtol=1e-9, atol=1e-9)
    assert predictor.rank(3) == predictor.rank(3, top=None)[:10]
    assert predictor.rank(3, top=np.int64(4)) == predictor.rank(3, top=4)
    assert predictor.rank(3, top=10**6) == predictor.rank(3, top=None)


def test_destinations_are_those_that_have_received_an_event(run: Path, small_stream: EventStream) -> None:
    split = small_stream.split()
    early = load(run, stream=small_stream, at=int(small_stream.t[60]))
    count = len(early)
    received = set(small_stream.dst[:count].tolist())
    assert {each for each, _ in early.rank(1, top=None)} == received
    assert early.destinations == len(received) < 30
    new = next(each for each in small_stream.src[:count].tolist() if each not in received)
    early.observe(1, new, early.time, np.zeros(3))
    assert {each for each, _ in early.rank(1, top=None)} == received | {new}
    assert split.train_end > count


def test_candidates_come_back_as_they_are_written(predictor: Predictor) -> None:
    ranked = predictor.rank(1, candidates=["70", 70, 71.0, 70, "71"], top=None)
    assert sorted(map(repr, (each for each, _ in ranked))) == ["'70'", "'71'", "70", "70", "71.0"]
    scores = {int(each): set() for each, _ in ranked}
    for each, score in ranked:
        scores[int(each)].add(score)
    assert all(max(each) - min(each) < 1e-9 for each in scores.values())
    assert [each for each, _ in predictor.rank(1, candidates=70)] == [70]
    assert [each for each, _ in predictor.rank(1, candidates="70")] == ["70"]
    assert predictor.rank(1, candidates=[]) == predictor.rank(1, candidates=[], mode="cached") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be a whole number of at least 1, not 0; None returns all"), ({"top": True}, "not True"),
        ({"top": 2.0}, "not 2.0"), ({"top": "3"}, "not '3'"),
        ({"mode": "fast"}, "mode must be exact or cached, not 'fast'"),
        ({"src": [1]}, "src is a list; rank takes one source"), ({"t": [1, 2]}, "before the first event"),
        ({"t": []}, "t has 0 times; rank takes one"), ({"candidates": [70, 9999]}, "candidates: 9999 is new"),
        ({"candidates": [[70]]}, "one dimension"),
    ],
)  # fmt: skip
def test_rankings_that_are_refused(options: dict[str, Any], message: str, predictor: Predictor) -> None:
    with pytest.raises(InputError) as caught:
        predictor.rank(**{"src": 1} | options)
    assert message in str(caught.value)


def test_embeddings(predictor: Predictor, dated: Predictor) -> None:
    rows = predictor.embed()
    assert rows.shape == (90, predictor.dim)
    np.testing.assert_allclose(predictor.embed([5, 80, 5]), rows[[5, 80, 5]], rtol=1e-9, atol=1e-9)
    assert not np.array_equal(predictor.embed(5, predictor.time + 10**6), rows[5])
    assert len(dated.nodes) == dated.embed().shape[0] == 24
    place = dated.nodes.index(("item", 100))
    np.testing.assert_allclose(dated.embed(["100"], kind="item")[0], dated.embed()[place], rtol=1e-5, atol=1e-5)
    for options, message in (
        ({"nodes": 100}, "kind is missing, and nodes are of two kinds; name user or item"),
        ({"nodes": 100, "kind": "shop"}, "kind 'shop' is not one of user, item"),
        ({"nodes": 100, "kind": "user"}, "nodes: there is no user 100; 100 is of kind item"),
        ({"nodes": ["u1", "nobody"], "kind": "user"}, "nodes: user 'nobody' is new, since no event so far has it; obs"),
        ({"nodes": "u1", "kind": "user", "t": ["2024-04-01"] * 2}, "t has 2 times; embed takes one"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            dated.embed(**options)
        assert message in str(caught.value)
    with pytest.raises(InputError, match="all nodes are of one kind; omit kind"):
        predictor.embed(1, kind="user")


SAME = int(DAY.timestamp())


@pytest.mark.parametrize(
    "time",
    [
        SAME, SAME + 0.9, float(SAME), str(SAME), np.int64(SAME), np.float64(SAME), "2024-04-01T12:00:00",
        "2024-04-01 12:00", "2024-04-01T14:00:00+02:00", DAY, DAY.replace(tzinfo=None),
        DAY.astimezone(datetime.timezone(datetime.timedelta(hours=-5))), np.datetime64("2024-04-01T12:00:00.5"),
        pd.Timestamp(DAY), pd.Timestamp("2024-04-01 12:00"), pa.scalar(DAY), [DAY], ["2024-04-01T12:00:00Z"],
        np.array(["2024-04-01T12:00"], "datetime64[ns]"), pd.Series([pd.Timestamp(DAY)], index=[4]), pl.Series([DAY]),
        pa.array([DAY]), pd.Series(pd.to_datetime(["2024-04-01 12:00"])), torch.tensor([SAME]), 20240401120000,
        "20240401120000", [20240401120000], (each for each in [SAME]),
    ],
    ids=lambda time: type(time).__name__,
)  # fmt: skip
def test_times_of_every_form(time: Any, dated: Predictor) -> None:
    assert np.ravel(dated.score("u1", 100, time))[0] == pytest.approx(dated.score("u1", 100, SAME), rel=1e-6)


def test_a_time_is_a_day_or_a_number(dated: Predictor, predictor: Predictor) -> None:
    day = datetime.date(2024, 4, 1)
    assert len({dated.score("u1", 100, each) for each in (day, "2024-04-01", 20240401, 1711929600)}) == 1
    last = predictor.time
    assert predictor.score(1, 70, last + 0.99) == predictor.score(1, 70, last)
    assert predictor.score(1, 70) == pytest.approx(predictor.score(1, 70, last + 1), abs=0.01)
    assert (dated.time_of("2024-04-01T10:00+02:00"), dated.time_of(None)) == ("2024-04-01T08:00:00", dated.time)


@pytest.mark.parametrize(
    "time",
    [math.nan, math.inf, "nan", "", "soon", b"5", True, [True], {"a": 1}, {5: 1}, 2**63, [2**63], 2**70, 1e300, [1e300],
     [[1, 2]], [[1], [1, 2]], [None], [pd.NaT], np.datetime64("NaT"), [1 + 2j], object(), "2030-01-01", DAY],
    ids=lambda time: type(time).__name__,
)  # fmt: skip
def test_what_is_no_time_is_refused(time: Any, predictor: Predictor) -> None:
    with pytest.raises(InputError, match=r"^(t|time) (is|has) ") as caught:
        predictor.score(1, 70, time)
    assert "\n" not in str(caught.value)


def test_a_query_cannot_go_back(dated: Predictor, predictor: Predictor) -> None:
    line = (
        "t is 2024-03-10, before the last event, at 2024-03-17T15:00:00; a model that has seen it cannot go back; "
        "load(run, at=...) has the state of an earlier time"
    )
    for ask in (dated.score, dated.rank, dated.embed):
        arguments = {dated.score: ("u1", 100), dated.rank: ("u1",), dated.embed: (None,)}[ask]
        with pytest.raises(InputError) as caught:
            ask(*arguments, "2024-03-10")
        assert str(caught.value) == line
    with pytest.raises(InputError) as caught:
        predictor.score(1, 70, [predictor.time, 5])
    assert str(caught.value) == "t is 5, before the first event, at 39876; no state is that old, so give a later time"


def test_embeddings_of_a_kind_and_of_pairs(dated: Predictor) -> None:
    kinds = [kind for kind, _ in dated.nodes]
    for kind in ("user", "item"):
        rows = dated.embed()[[each == kind for each in kinds]]
        np.testing.assert_allclose(dated.embed(kind=kind), rows, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dated.embed(dated.nodes[3:6]), dated.embed()[3:6], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="kind 'shop' is not one of user, item"):
        dated.embed(kind="shop")


@pytest.mark.parametrize("scale", [10**3, 10**6, 10**9])
def test_times_of_another_unit(scale: int, dated: Predictor) -> None:
    before = dated.time
    for act in (lambda t: dated.score("u1", 100, t), lambda t: dated.rank("u1", t)):
        with pytest.raises(InputError, match=r"which looks like Unix .*seconds; the run's times are Unix seconds, so"):
            act(SAME * scale)
    assert dated.time == before
