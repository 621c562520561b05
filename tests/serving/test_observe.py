"""Events that a predictor takes in: new nodes, ties, late events, features, batches, and calls that are refused."""

from __future__ import annotations

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
from mspipe_triton.data.new_events import new_events_of
from mspipe_triton.errors import InputError
from tests.data.live_stream import live_stream
from tests.serving.served import APRIL, ONES, SIZE, WEB, columns, state, trained


def close(one: Predictor, other: Predictor) -> None:
    """Check that two predictors have the same state, but for the order of additions."""
    assert (len(one), one.time, one.nodes) == (len(other), other.time, other.nodes)
    np.testing.assert_allclose(one.embed(), other.embed(), rtol=1e-9, atol=1e-9)
    pairs = ([1, 2, 3, 4], [20, 25, 27, 29])
    np.testing.assert_allclose(one.score(*pairs), other.score(*pairs), rtol=1e-9, atol=1e-9)


def test_new_nodes_follow_in_the_order_of_events(predictor: Predictor, shop_run: Path) -> None:
    last = predictor.time
    assert predictor.observe([5000, 1, "5001"], [70, 6000, 5000], last + 1, [ONES] * 3) == 3
    assert predictor.nodes[90:] == [5000, 6000, 5001]
    assert predictor.embed([5000, 6000]).shape == (2, predictor.dim)
    assert dict(predictor.rank(1, top=None)).keys() >= {6000, 5000}
    bought = load(shop_run)
    bought.observe(["zoe", "u1", 7], [100, 999, "998"], APRIL, [WEB] * 3)
    assert bought.nodes[24:] == [("user", "zoe"), ("item", 999), ("user", "7"), ("item", 998)]
    assert isinstance(bought.score("zoe", 998), float)
    assert bought.embed().shape[0] == 28


def test_loops_repetitions_and_ties(predictor: Predictor, run: Path, small_stream: EventStream) -> None:
    last = predictor.time
    src, dst = [5, 5, 5, 5000, 70], [5, 70, 70, 5000, 5]
    assert predictor.observe(src, dst, last, [ONES] * 5) == 5
    assert (len(predictor), predictor.time, len(predictor.nodes)) == (1205, last, 91)
    before = predictor.score(5, 70, last)
    assert before != predictor.score(5, 70, last + 1), "events at the last time are not yet neighbours"
    table = load(run, stream=small_stream)
    frame = {"src": src, "dst": dst, "t": [last] * 5, "f0": [1.0] * 5, "f1": [1.0] * 5, "f2": [1.0] * 5}
    table.predict_table(new_events_of(frame, table.reading))
    close(predictor, table)


REFUSED: list[tuple[str, Any, str]] = [
    ("late", (1, 70, -1, ONES), "event 0 is late: its time is"),
    ("late inside", ([5000, 2], [70, 70], [9, 8], [ONES] * 2), "event 1 is late"),
    ("no id", ([5000, None], [70, 70], 1, [ONES] * 2), "src is empty; give an id"),
    ("text", ([5000, 5001], [70, "x"], 1, [ONES] * 2), "dst is 'x', not an integer of int64"),
    ("many", (list(range(5000, 5400)), [*range(399), None], 1, [ONES] * 400), "dst is empty"),
    ("pairs", ([[1, 2]], [[70, 71]], 1, [ONES]), "one dimension"),
    ("lengths", ([5000, 2], [70], 1, [ONES] * 2), "src has 2 ids and dst has 1"),
    ("one source", (5000, [70, 71], 1, [ONES] * 2), "src has 1 ids and dst has 2"),
    ("times", ([5000, 2], [70, 71], [1, 2, 3], [ONES] * 2), "t has 3 values for 2 events"),
    ("no time", (5000, 70, None, ONES), "time is None"), ("not finite", (5000, 70, math.nan, ONES), "t is nan"),
    ("missing", (5000, 70, 1), "features are missing: the run's events have width 3; pass features="),
    ("width", (5000, 70, 1, [1, 2]), "features have width 2; the run's have 3"),
    ("rows", ([5000, 2], [70, 71], 1, [ONES]), "features have shape [1, 3]; give a matrix with a row for each of 2"),
    ("ragged", ([5000, 2], [70, 71], 1, [[1], [1, 2]]), "features are no matrix of numbers"),
    ("words", (5000, 70, 1, ["a", "b", "c"]), "features are no matrix of numbers"),
    ("NaN", ([1, 5000], [70, 71], 1, [ONES, [1, 2, math.nan]]), "features of event 1 are not finite"),
    ("beyond float32", (5000, 70, 1, [1e300, 0, 0]), "features of event 0 are not finite in float32"),
    ("names", (5000, 70, 1, {"f0": 1}), "the run's features have no names; pass a matrix"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_a_refused_call_changes_nothing(arguments: Any, message: str, predictor: Predictor) -> None:
    before, (src, dst, t, *features) = state(predictor), arguments
    if isinstance(t, int | list):
        t = (np.array(t) + predictor.time).tolist()
    for act in (predictor.observe, predictor.predict):
        with pytest.raises(InputError) as caught:
            act(src, dst, t, *features)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert state(predictor) == before
    with pytest.raises(InputError, match="late must be refuse or drop, not 'keep'"):
        predictor.observe(1, 70, predictor.time, ONES, late="keep")


@pytest.mark.parametrize(
    ("candidates", "message"),
    [([[71], [72]], "a row of ids for each of the 1 events"), ([[None]], "candidates is empty"), ([["x"]], "not an"),
     ([71], "a row of ids for each"), (71, "a row of ids for each"), (["71"], "a row of ids"), ([[]], "without ids"),
     ([[71, [72]]], "give every row a list")],
)  # fmt: skip
def test_refused_candidates_change_nothing(candidates: Any, message: str, predictor: Predictor) -> None:
    before = state(predictor)
    with pytest.raises(InputError) as caught:
        predictor.predict(5000, 6000, predictor.time, ONES, candidates)
    assert message in str(caught.value)
    assert state(predictor) == before


def test_candidates_in_every_form(run: Path, small_stream: EventStream) -> None:
    rows = [[71, 72], [73, 74]]
    forms = [rows, ((each for each in row) for row in rows), np.array(rows), torch.tensor(rows), pa.array(rows),
             pd.DataFrame(rows), pl.DataFrame(rows, orient="row"), [pa.array(row) for row in rows]]  # fmt: skip
    scores = []
    for form in forms:
        predictor = load(run, stream=small_stream)
        scores.append(predictor.predict([1, 2], [70, 71], predictor.time, [ONES] * 2, form))
    assert all(np.array_equal(each, scores[0]) for each in scores)
    predictor = load(run, stream=small_stream)
    for each, (source, time) in zip(scores[0], [(1, predictor.time), (2, predictor.time)], strict=True):
        assert each.shape == (3,)
        assert np.isfinite(each).all()
        assert isinstance(predictor.score(source, 70, time), float)


def test_a_candidate_without_events_is_no_other_node(run: Path, small_stream: EventStream) -> None:
    predictor = load(run, stream=small_stream)
    last, blank = predictor.time, predictor.score(1, 12345, predictor.time + 1, new=True)
    count = 3 * SIZE
    dst = [6000 + n // 2 for n in range(count)]  # 150 new nodes, each with two events
    others = [[6000 + (n + 120) % 150, 99999] for n in range(count)]
    src, times = [1] * count, [last + 1] * count
    scores = predictor.predict(src, dst, times, [ONES] * count, others)
    assert scores[0] == pytest.approx([blank] * 3, abs=1e-9)
    assert np.isfinite(scores).all()
    seen = load(run, stream=small_stream)
    seen.observe(src[:SIZE], dst[:SIZE], times[:SIZE], [ONES] * SIZE)
    expected = seen.score(1, [6000, 12345], last + 1, new=True)
    place = next(n for n in range(SIZE, 2 * SIZE) if others[n][0] == 6000)
    np.testing.assert_allclose(scores[place, 1:], expected, rtol=1e-9, atol=1e-9)


def test_late_events_are_left_out(run: Path, small_stream: EventStream) -> None:
    split = small_stream.split()
    rest = columns(small_stream, split.train_end, len(small_stream))
    count = len(rest["src"])
    random = np.random.default_rng(3)
    late = np.sort(random.choice(np.arange(1, count), 60, replace=False))
    mixed = {name: list(values) for name, values in rest.items()}
    keeps = []
    for name, values in mixed.items():
        for offset, place in enumerate(late.tolist()):
            former = {"src": 777000 + place, "dst": 70, "t": rest["t"][place - 1] - 1000, "features": np.ones(3)}
            values.insert(place + offset, former[name])
        keeps = [True] * len(values)
    for offset, place in enumerate(late.tolist()):
        keeps[place + offset] = False
    clean = load(run, stream=small_stream, at="training")
    expected = clean.predict(**rest)
    for form in (list, pd.Series, lambda values: np.array(values) if np.ndim(values) == 1 else np.stack(values)):
        predictor = load(run, stream=small_stream, at="training")
        arguments = {name: form(values) if name != "features" else np.stack(values) for name, values in mixed.items()}
        scores = predictor.predict(**arguments, late="drop")
        assert np.isnan(scores).tolist() == [not each for each in keeps]
        assert np.array_equal(scores[keeps], expected)
        close(predictor, clean)
    observed = load(run, stream=small_stream, at="training")
    assert observed.observe(**mixed, late="drop") == count
    close(observed, clean)


def test_all_late(predictor: Predictor) -> None:
    before = state(predictor)
    early = predictor.time - 1
    assert predictor.observe([1, None], [70, 71], early, [ONES] * 2, late="drop") == 0
    assert np.isnan(predictor.predict(5000, 70, early, ONES, late="drop")).tolist() == [True]
    assert predictor.predict([1, 2], [70, 71], early, [ONES] * 2, [[1], [2]], late="drop").shape == (2, 2)
    assert state(predictor) == before


def test_no_events(predictor: Predictor) -> None:
    before = state(predictor)
    for features in (np.empty((0, 3)), [], torch.empty(0, 3)):
        assert predictor.observe([], [], [], features) == 0
        assert predictor.predict([], [], [], features).shape == (0,)
        assert predictor.predict([], [], predictor.time, features, []).shape == (0, 2)
    assert state(predictor) == before


def listed(values: list[Any]) -> Any:
    return (each for each in values)


@pytest.mark.parametrize(
    "form",
    [list, tuple, listed, np.array, torch.tensor, pa.array, pl.Series, lambda ids: pd.Series(ids, index=[9, 3, 5])],
    ids=["list", "tuple", "generator", "numpy", "tensor", "arrow", "polars", "pandas"],
)  # fmt: skip
def test_events_of_every_form(form: Callable[[list[Any]], Any], run: Path, small_stream: EventStream) -> None:
    predictor, same = load(run, stream=small_stream), load(run, stream=small_stream)
    last = predictor.time
    times = [last, last + 1, last + 1]
    assert predictor.observe(form([1, 5000, 2]), form([70, 71, 6000]), form(times), np.ones((3, 3))) == 3
    for event in zip([1, 5000, 2], [70, 71, 6000], times, strict=True):
        assert isinstance(event[0], int)
    same.observe([1, 5000, 2], [70, 71, 6000], times, [ONES] * 3)
    assert state(predictor) == state(same)


def test_a_long_call_is_calls_of_batches(run: Path, small_stream: EventStream) -> None:
    split = small_stream.split()
    whole, parts = (load(run, stream=small_stream, at="training") for _ in range(2))
    start, stop = split.train_end, len(small_stream)
    assert whole.observe(**columns(small_stream, start, stop)) == stop - start > 3 * SIZE
    for first in range(start, stop, SIZE):
        parts.observe(**columns(small_stream, first, min(first + SIZE, stop)))
    assert state(whole) == state(parts)


@pytest.mark.parametrize(
    "model", ["tgn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jodie", "apan")), "tgat"]
)
def test_many_small_calls_grow_as_one_run(model: str, small_stream: EventStream, tmp_path: Path) -> None:
    stream = live_stream(5, 400, torch.int64)
    layers = {"layers": 1} if model in ("tgn", "tgat") else {}
    run = trained(tmp_path, stream, model, "float64", batch_size=4, **layers)
    end, early = load(run, stream=stream), load(run, stream=stream, at=int(stream.t[5]))
    assert len(early) < 6
    for first in range(len(early), len(stream), 4):
        early.observe(**columns(stream, first, min(first + 4, len(stream))))
    assert len(early) == len(end)
    if model == "tgat":  # its state is the events alone
        close(early, end)
    again = load(run, stream=stream, at=int(stream.t[5]))
    again.observe(**columns(stream, len(again), len(stream)))
    assert state(early) == state(again)
