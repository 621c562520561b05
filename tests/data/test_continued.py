"""Continued streams hold what one table of all events holds, and history before the new events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mspipe_triton import DataConfig
from mspipe_triton.data.continued import continued_stream
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.new_events import NewEvents, Reading, read_new_events
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.synthetic import synthetic_stream
from mspipe_triton.errors import ConfigError, DataError
from tests.training.later_events import table, write_parts


def joined(history: EventStream, new: NewEvents, split_at: str = "") -> tuple[EventStream, torch.Tensor]:
    return continued_stream(history, new, DataConfig("new.csv", split_at=split_at, history="runs/first"), "new")


@pytest.mark.parametrize("kinds", [True, False])
@pytest.mark.parametrize("text", [True, False])
def test_the_stream_equals_that_of_one_table(kinds: bool, text: bool, tmp_path: Path) -> None:
    events = table(kinds, text).drop(columns="sort")
    first, second, _ = write_parts(tmp_path, events)
    events[:500].to_csv(tmp_path / "all.csv", index=False)
    columns = {"features": "amount"}
    whole = read_stream(tmp_path / "all.csv", columns, raw_features=True)
    history = read_stream(first, columns, raw_features=True)
    source: Any = history.source
    reading = Reading(source.data, source.time, True, 1, source.features, source.roles)
    stream, nodes = joined(history, read_new_events(second, reading))
    ids: list[Any] = [each.ids for each in (history, stream, whole)]
    for name in ("src", "dst", "t", "edge_features"):
        assert torch.equal(getattr(stream, name), getattr(whole, name)), name
    assert ids[1].table().equals(ids[2].table())
    assert (stream.num_nodes, stream.start, stream.borders) == (whole.num_nodes, 300, (440, 470))
    assert ids[1].of(nodes) == ids[0].of(range(history.num_nodes))
    assert [stream.place(event).rpartition("/")[2] for event in (0, 299, 300, 499)] == [
        "first.csv: row 1", "first.csv: row 300", "second.csv: row 1", "second.csv: row 200",
    ]  # fmt: skip
    assert nodes.tolist() != list(range(history.num_nodes)), "new nodes come before old ones"


@pytest.fixture
def history() -> EventStream:
    """Ten events of one kind of nodes at the times 0 to 9."""
    number = np.arange(10)
    return EventStream.of(pd.DataFrame({"src": number % 4, "dst": 4 + number % 3, "t": number}), name="first")


def later(frame: dict[str, object], folder: Path, sort: bool = False) -> NewEvents:
    pd.DataFrame(frame).to_csv(folder / "new.csv", index=False)
    return read_new_events(folder / "new.csv", Reading(DataConfig("")), sort)


def test_events_at_the_last_time_are_new_and_earlier_ones_are_refused(history: EventStream, tmp_path: Path) -> None:
    number = np.arange(20)
    stream, _ = joined(history, later({"src": 0, "dst": 4, "t": 9 + number}, tmp_path))
    assert (stream.start, stream.borders) == (10, Split(24, 27))
    message = r"new\.csv: row 1: the time 8 is earlier than 9, that of the last event of runs/first; give only events"
    with pytest.raises(DataError, match=message):
        joined(history, later({"src": 0, "dst": 4, "t": 8 + number}, tmp_path))
    with pytest.raises(DataError, match=r"new\.csv: row 20: the time 8 is"):
        joined(history, later({"src": 0, "dst": 4, "t": 27 - number}, tmp_path, sort=True))


def test_the_split_is_of_the_new_events_and_cuts_no_tie(history: EventStream, tmp_path: Path) -> None:
    new = later({"src": 0, "dst": 4, "t": 10 + np.arange(20) // 4}, tmp_path)
    assert joined(history, new)[0].borders == (22, 26)
    assert joined(history, new, "0.3,0.5")[0].borders == (14, 18)
    assert joined(history, new, "11,13")[0].borders == (14, 22)
    with pytest.raises(ConfigError, match="no event is before 10, so training would be empty"):
        joined(history, new, "10,13")
    with pytest.raises(DataError, match="new: 2 events are too few for a 70/15/15 split"):
        joined(history, later({"src": [0, 1], "dst": 4, "t": [10, 11]}, tmp_path))


def test_start_needs_borders_after_it() -> None:
    number = torch.arange(10)
    stream = EventStream(number, number, number, start=3, borders=Split(6, 8))
    assert stream.split_for(3) == (6, 8)
    with pytest.raises(ConfigError, match="above the 3 training events of stream; use a smaller one, such as 1"):
        stream.split_for(4)
    for borders in (None, Split(3, 8)):
        with pytest.raises(DataError, match="start is 3; give borders, the first of them above start"):
            EventStream(number, number, number, start=3, borders=borders)


def test_the_built_in_stream_is_continued_by_its_numbers(tmp_path: Path) -> None:
    history = synthetic_stream()
    new = later({"src": [0, 5000] * 10, "dst": 1500, "t": int(history.t[-1]) + np.arange(20)}, tmp_path)
    stream, nodes = joined(history, new)
    assert nodes.tolist() == list(range(2000))
    assert stream.src[-2:].tolist() == [0, 2000]
    assert stream.num_nodes == 2001
    assert stream.ids is not None
    assert stream.ids.of([0, 2000]) == [0, 5000]
