"""The event stream: validation, compaction, split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.ids import compact_ids
from mspipe_triton.data.origin import Origin, Source
from mspipe_triton.errors import DataError


def stream(
    src: list[int], dst: list[int], t: list[float], dtype: torch.dtype = torch.int64, **more: object
) -> EventStream:
    return EventStream(torch.tensor(src), torch.tensor(dst), torch.tensor(t, dtype=dtype), **more)


def test_counts_nodes_and_widths() -> None:
    events = stream([0, 1], [4, 2], [5, 5], edge_features=torch.zeros(2, 3))
    assert (len(events), events.num_nodes, events.dim_edge, events.dim_node) == (2, 5, 3, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": [0, -1]}, "event 1: src is negative"),
        ({"dst": [2**40, 1]}, "event 0: dst is above"),
        ({"t": [3, 2]}, "event 1: t is earlier than at the event before"),
        ({"t": [1, 2, 3]}, "t has 3 entries, src has 2"),
    ],
)
def test_refuses_an_invalid_stream(change: dict[str, list[int]], message: str) -> None:
    columns = {"src": [0, 1], "dst": [1, 0], "t": [1, 2], **change}
    with pytest.raises(DataError, match=message):
        stream(columns["src"], columns["dst"], columns["t"])


def test_refuses_times_and_features_that_are_not_finite() -> None:
    with pytest.raises(DataError, match="event 1: t is not finite"):
        stream([0, 1], [1, 0], [1.0, float("nan")], torch.float64)
    with pytest.raises(DataError, match=r"t is torch.float32; give float64 or int64; float32 loses whole minutes"):
        stream([0], [1], [1.0], torch.float32)
    with pytest.raises(DataError, match=r"t is torch.int32; give float64 or int64$"):
        stream([0], [1], [1], torch.int32)
    with pytest.raises(DataError, match="must hold integers"):
        EventStream(torch.tensor([0.5]), torch.tensor([1]), torch.tensor([1]))


@pytest.mark.parametrize(("column", "noun"), [("edge_features", "event"), ("node_features", "node")])
def test_a_feature_that_is_not_finite_has_a_row_and_a_column(
    column: str, noun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mspipe_triton.data.stream_checks._CHUNK_VALUES", 32)  # 10 rows, so row 50 begins another chunk
    table = torch.zeros(60, 3)
    table[50, 2] = float("inf")
    table[55, 0] = float("nan")
    with pytest.raises(DataError, match=rf"^stream: {noun} 50, column 2: {column} is inf, not finite; replace it$"):
        stream(list(range(60)), [0] * 60, list(range(60)), **{column: table})


def test_errors_of_a_stream_from_a_file_have_its_rows() -> None:
    parts, order = Origin((("a.csv", 2), ("b.csv", 2))), np.array([3, 0, 1, 2])
    with pytest.raises(DataError, match=r"^b.csv: row 2: src is negative; node ids start at 0 \(-5\)$"):
        stream([-5, 0, 0, 0], [1] * 4, [1, 2, 3, 4], source=Source(parts, order))
    features = torch.tensor([[0.0], [0.0], [float("nan")], [0.0]])
    with pytest.raises(DataError, match=r"^a.csv: row 2, column 0: edge_features is nan, not finite"):
        stream([0] * 4, [1] * 4, [1, 2, 3, 4], edge_features=features, source=Source(parts, order))
    with pytest.raises(DataError, match=r"^a.csv: row 2: t is earlier than at the event before; .* \(1\)$"):
        stream([0] * 4, [1] * 4, [2, 1, 3, 4], source=Source(parts))


def test_a_part_of_a_stream_has_no_rows_of_its_file() -> None:
    whole = stream([0] * 4, [1] * 4, [1, 2, 3, 4], source=Source(Origin((("a.csv", 4),))))
    assert whole.place(3) == "a.csv: row 4"
    part = replace(whole, src=whole.src[2:], dst=whole.dst[2:], t=whole.t[2:])
    assert part.place(1) == "stream: event 1"


def test_features_of_the_right_dtype_are_not_checked_again() -> None:
    events = stream([0] * 4, [1] * 4, [1, 2, 3, 4], edge_features=torch.zeros(4, 1))
    assert events.to_dtype(torch.float32) is events
    wide = replace(events, edge_features=torch.full((4, 1), 1e300, dtype=torch.float64))
    with pytest.raises(DataError, match=r"event 0, column 0: edge_features is inf"):
        wide.to_dtype(torch.float32)


def test_an_event_without_a_label_has_nan() -> None:
    events = stream([0] * 3, [1] * 3, [1, 2, 3])
    assert events.labelled.tolist() == [False] * 3
    assert replace(events, labels=torch.tensor([1.0, float("nan"), 0.0])).labelled.tolist() == [True, False, True]
    for labels in (torch.tensor([0, 1, 2]), torch.tensor([True, False, False])):
        assert replace(events, labels=labels).labelled.tolist() == [True] * 3


def test_refuses_node_tables_of_the_wrong_height() -> None:
    with pytest.raises(DataError, match="node_features has 2 rows for 3 nodes"):
        stream([0], [2], [1], node_features=torch.zeros(2, 1))
    with pytest.raises(DataError, match="largest node id is 2"):
        stream([0], [2], [1], num_nodes=2)


def test_split_is_chronological_and_complete() -> None:
    events = stream([0] * 100, [1] * 100, list(range(100)))
    assert events.split() == (70, 85)


@pytest.mark.parametrize("events", range(1, 4))
def test_too_few_events_for_a_split(events: int) -> None:
    with pytest.raises(DataError, match=f"{events} events are too few"):
        stream([0] * events, [1] * events, list(range(events))).split()


def test_four_events_are_enough() -> None:
    assert stream([0] * 4, [1] * 4, list(range(4))).split() == (2, 3)


def test_unseen_endpoints() -> None:
    events = stream([0, 1, 0, 3], [1, 0, 1, 1], [1, 2, 3, 4])
    assert events.unseen_in_training().tolist() == [False, False, False, True]


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1, max_size=40))
def test_compaction_preserves_identities(pairs: list[tuple[int, int]]) -> None:
    src, dst = np.array(pairs, dtype=np.int64).T
    new_src, new_dst, ids = compact_ids(src, dst)
    assert sorted({*src.tolist(), *dst.tolist()}) == ids.tolist()
    assert ids[new_src].tolist() == src.tolist()
    assert ids[new_dst].tolist() == dst.tolist()


def test_compaction_of_nearly_dense_ids() -> None:
    src, dst, ids = compact_ids(np.array([1, 5]), np.array([3, 1]))
    assert (src.tolist(), dst.tolist(), ids.tolist()) == ([0, 2], [1, 0], [1, 3, 5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": [0, 1]}, "src must be a tensor, not list; EventStream.of takes other kinds"),
        ({"t": None}, "t must be a tensor, not NoneType"),
        ({"labels": np.zeros(2)}, "labels must be a tensor, not ndarray"),
        ({"src": torch.zeros(2, 1, dtype=torch.int64)}, r"src has shape \[2, 1\]; give one number per event"),
        ({"labels": torch.zeros(2, 4)}, r"labels has shape \[2, 4\]"),
        ({"dst": torch.tensor([True, False])}, "dst must hold integers, not torch.bool"),
        ({"num_nodes": "9"}, "num_nodes must be a whole number, not '9'"),
    ],
)
def test_refuses_columns_of_another_kind(change: dict[str, Any], message: str) -> None:
    ends = torch.tensor([0, 1])
    with pytest.raises(DataError, match=message):
        EventStream(**{"src": ends, "dst": ends, "t": ends, **change})


def test_a_stream_is_shown_in_a_line_and_equal_to_itself_alone() -> None:
    ends = torch.tensor([0, 1])
    stream, other = (EventStream(ends, ends, ends, torch.zeros(2, 3), name="s") for _ in range(2))
    assert repr(stream) == "EventStream(s: 2 events, 2 nodes, edge features of width 3)"
    assert stream == stream
    assert stream != other
