"""The split of a stream: 70/15/15 or as its borders say, between times; every refusal names a split that works."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mspipe_triton.config import DataConfig
from mspipe_triton.data.describe import describe
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.source import data_of, load_stream
from mspipe_triton.errors import ConfigError, DataError
from tests.evaluation import plain_evaluation as plain

UNIX = 1_700_000_000
# Few times, so that most events share theirs: small ones, nanoseconds that float64 would round, fractions, Unix times.
KINDS = (
    lambda n: n, lambda n: 2**60 + n, lambda n: 0.1 * n, lambda n: -0.5 + n / 7, lambda n: float(UNIX + n)
)  # fmt: skip


def stream(t: list[Any], ends: list[tuple[int, int]] | None = None, **more: Any) -> EventStream:
    """A stream of these times; its nodes are 0 and 1 unless the ends are named."""
    src, dst = (torch.tensor(side) for side in zip(*(ends or [(0, 1)] * len(t)), strict=True))
    kind = torch.float64 if any(isinstance(time, float) for time in t) else torch.int64
    return EventStream(src, dst, torch.tensor(t, dtype=kind), **more)


def frame(t: Any, **options: Any) -> EventStream:
    return EventStream.of({"src": [1] * len(t), "dst": [2] * len(t), "t": t}, **options)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=30),
    st.sampled_from(KINDS),
)
def test_the_default_split_against_its_definition(events: list[tuple[int, int, int]], kind: Any) -> None:
    events.sort(key=lambda event: event[2])
    t, pairs = [kind(number) for *_, number in events], [(src, dst) for src, dst, _ in events]
    whole, expected = stream(t, pairs), plain.split(t)
    if not plain.has_empty_part(expected, len(t)):
        assert whole.split() == expected
        assert max(t[: expected[0]]) < min(t[expected[0] : expected[1]]) <= t[expected[1] - 1] < t[expected[1]]
        assert whole.unseen_in_training().tolist() == plain.unseen(pairs, expected[0])
        return
    with pytest.raises(DataError) as error:
        whole.split()
    _, _, fix = str(error.value).rpartition("; ")
    if len(set(t)) < 3:
        assert fix == "a split needs events at three different times or more, so give finer times if there are any"
        return
    borders = re.fullmatch(r"use borders=\((\d+), (\d+)\)", fix)
    assert borders is not None
    assert replace(whole, borders=Split(*map(int, borders.groups()))).split() == tuple(map(int, borders.groups()))
    with pytest.raises(DataError, match='use split_at="') as error:
        frame(t).split()
    text = re.search('split_at="(.*)"', str(error.value))
    assert text is not None
    assert frame(t, split_at=text[1]).split() == tuple(map(int, borders.groups()))


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([3, 4, 4, 4, 4, 4, 4, 4, 4, 5], "events 1 to 8 of 10 share the time 4, so validation would be empty; use"),
        ([3] * 8 + [4, 5], "events 0 to 7 of 10 share the time 3, so training would be empty; use borders=(8, 9)"),
        ([3] * 10, "events 0 to 9 of 10 share the time 3, so training would be empty; a split needs events at three"),
        ([1, 2, 3], "3 events are too few for a 70/15/15 split; use borders=(1, 2)"),
        ([1, 2], "2 events are too few for a 70/15/15 split; a split needs events at three different times or more"),
    ],
)
def test_an_empty_part_is_explained(t: list[int], message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(f'stream: {message}')}"):
        stream(t).split()


def test_an_empty_stream_has_no_split() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(DataError, match="0 events are too few"):
        EventStream(none, none, none).split()


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ((2, 4), r"the border 2 cuts a tie, since events 1 to 2 have the time 5; use borders=\(3, 4\)"),
        ((0, 3), r"borders are \(0, 3\), not two ascending numbers of events above 0 and below 5; use borders="),
        ((3, 3), r"borders are \(3, 3\)"),
        ((4, 3), r"borders are \(4, 3\)"),
        ((3, 5), r"borders are \(3, 5\)"),
        ((3,), r"borders are \(3,\)"),
        ("1,3", "borders are '1,3'"),
        ((1.0, 3.0), r"borders are \(1.0, 3.0\)"),
    ],
)  # fmt: skip
def test_wrong_borders(borders: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^stream: .*{message}"):
        stream([1, 5, 5, 6, 7], borders=borders)


def test_borders_of_a_stream() -> None:
    events = stream([1, 5, 5, 6, 7], borders=(1, 3))
    assert events.split() == Split(1, 3)
    assert isinstance(events.borders, Split)
    assert events.to_dtype(torch.float64).split() == (1, 3)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.integers(1, 99), st.integers(1, 99))
def test_fractions_move_to_the_start_of_their_tie(t: list[int], first: int, second: int) -> None:
    t.sort()
    borders = [len(t) * percent // 100 for percent in (first, second)]
    expected = tuple(sum(time < t[border] for time in t) for border in borders)
    text = f"{first / 100},{second / 100}"
    if first <= second and not plain.has_empty_part(expected, len(t)):
        assert frame(t, split_at=text).split() == expected
        return
    words = "is not before" if first >= second else "would be empty|are too few"
    with pytest.raises(ConfigError, match=f"^split_at '{re.escape(text)}': .*({words})"):
        frame(t, split_at=text)


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=20), st.integers(0, 9), st.integers(0, 9), st.sampled_from(KINDS)
)
def test_times_against_their_definition(t: list[int], first: int, second: int, kind: Any) -> None:
    times, pair = [kind(number) for number in sorted(t)], (kind(first), kind(second))
    if all(0 < time < 1 for time in pair):
        return  # fractions
    expected = plain.split_at(times, *pair)
    if first <= second and not plain.has_empty_part(expected, len(t)):
        assert frame(times, split_at=pair).split() == expected
        return
    with pytest.raises(ConfigError, match=r"^split_at .*(is not before|would be empty)"):
        frame(times, split_at=pair)


@pytest.mark.filterwarnings("error")
def test_columns_of_a_matrix_are_split() -> None:
    matrix = torch.arange(30).view(10, 3)
    events = EventStream(matrix[:, 0], matrix[:, 1], matrix[:, 2])
    assert events.split() == replace(events, borders=Split(7, 8)).split() == (7, 8)


@pytest.mark.parametrize(
    "pair",
    [
        ("2023-10-01", "2023-11-01"), (date(2023, 10, 1), datetime(2023, 11, 1)), (0.34, Decimal("0.67")),
        (pd.Timestamp("2023-10-01"), pd.Timestamp("2023-11-01", tz="UTC")), "2023-10-01,2023-11-01",
        [np.datetime64("2023-10-01", "ns"), np.datetime64("2023-11-01")], (np.float64(0.34), np.float32(0.67)),
        (np.int64(1696118400), torch.tensor(1698796800)),
    ],
)  # fmt: skip
def test_pairs_from_python(pair: Any) -> None:
    days = [f"2023-{9 + n // 4}-0{1 + n % 4}" for n in range(12)]
    assert frame(days, split_at=pair).split() == (4, 8)
    assert frame(pd.to_datetime(days), split_at=pair).split() == (4, 8)


@pytest.mark.parametrize("pair", [(1,), (1, 2, 3), (True, 2), 5, (None, 2), {"a": 1}])
def test_pairs_that_are_none(pair: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^split_at is .*; give two fractions of the events, .* such as \(0.7, 0.85\)"
    ):
        frame([1, 2, 3, 4], split_at=pair)


def test_temporal_data_is_split_at_times() -> None:
    class TemporalData:
        src = dst = torch.arange(6)
        t = torch.arange(6)

    assert EventStream.of(TemporalData(), split_at=(2, 4)).split() == (2, 4)
    with pytest.raises(ConfigError, match=r'^split_at \'2,9\': no event is at or after 9, .*; use split_at="4,5"$'):
        EventStream.of(TemporalData(), split_at="2,9")


def test_features_are_fitted_on_the_training_part() -> None:
    values = [1.0, 3.0, 5.0, 100.0, 7.0, 9.0]
    table = {"src": [1] * 6, "dst": [2] * 6, "t": list(range(6)), "f0": values}
    rows = EventStream.of(table, split_at=(3, 5)).edge_rows()
    mean, deviation = 3.0, (8 / 3) ** 0.5
    assert rows[:3, 0].tolist() == pytest.approx([(value - mean) / deviation for value in values[:3]], rel=1e-6)


def test_settings_that_split_a_stream_of_tensors_again() -> None:
    for times in ([1, 5, 5, 6, 7], [0.1, 0.1, 0.25, 0.5, 0.7], [0.0, 0.5, 0.5, 0.9, 1.5]):
        events = stream(times)
        for borders in ((1, 3), (2, 4), (1, 4), (3, 4), (2, 3)):
            if any(times[border - 1] == times[border] for border in borders):
                continue
            data = data_of(replace(events, borders=Split(*borders)), DataConfig())
            assert frame(times, split_at=data.split_at).split() == borders
    assert data_of(stream([1, 2, 3, 4]), DataConfig()).split_at == ""
    data = data_of(stream([1, 2, 3, 4], borders=(1, 2)), DataConfig("x.csv", split_at="0.5,0.6"))
    assert (Path(data.path).name, data.split_at) == ("x.csv", "2,3")


def test_the_built_in_stream_is_split_at_times_too() -> None:
    built_in = load_stream(DataConfig(split_at="1000000,2000000"))
    t = built_in.t.tolist()
    assert built_in.split() == plain.split_at(t, 1_000_000, 2_000_000)
    assert data_of(built_in, DataConfig()).split_at == "1000000,2000000"
    facts = describe(built_in)
    assert (facts["train_events"], facts["val_events"]) == (
        built_in.split()[0],
        built_in.split()[1] - built_in.split()[0],
    )
    with pytest.raises(
        ConfigError, match=r"^--split-at '2023-10-01,5': 2023-10-01 is a date, and the times of synthetic"
    ):
        load_stream(DataConfig(split_at="2023-10-01,5"))
    with pytest.raises(ConfigError, match="--sort is for a table"):
        load_stream(DataConfig(sort=True, split_at="0.5,0.6"))


@given(st.lists(st.integers(0, 9), min_size=4, max_size=30))
def test_the_share_of_ties(t: list[int]) -> None:
    times = sorted(t)
    if plain.has_empty_part(plain.split(times), len(times)):
        return
    assert describe(stream(times))["tie_share"] == pytest.approx(
        sum(times.count(time) > 1 for time in times) / len(times)
    )


@pytest.mark.parametrize("borders", [[1, 3], np.array([1, 3]), torch.tensor([1, 3]), (np.int64(1), 3)])
def test_borders_are_any_two_integers(borders: Any) -> None:
    assert stream([1, 5, 5, 6, 7], borders=borders).split() == Split(1, 3)


def test_a_stream_that_cannot_be_split_is_described() -> None:
    facts = describe(stream([5] * 6))
    assert (facts["events"], facts["tie_share"]) == (6, 1.0)
    assert {facts[name] for name in ("train_events", "val_start", "test_start", "new_node_share_in_test")} == {None}
    assert "the events cannot be split for training: " in facts["notes"][-1]
    whole = describe(stream(list(range(20))))
    assert (whole["val_start"], whole["test_start"], whole["notes"]) == (14, 17, [])
