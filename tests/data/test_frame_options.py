"""Arguments of `EventStream.of`: names of columns, options, matrices, and messages that speak Python."""

from __future__ import annotations

import gc
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.frames import in_python
from mspipe_triton.data.readers import read_stream
from mspipe_triton.errors import DataError, InputError

COLUMNS: dict[str, list[Any]] = {"src": [7, 9, 7], "dst": [9, 8, 8], "t": [1, 2, 2]}


def test_names_of_features() -> None:
    frame = {**COLUMNS, 7: [1.0, 2.0, 4.0], "a,b": [5.0, 6.0, 7.0], "a": [0.0, 0.0, 0.0], 'b"': [8.0, 8.0, 9.0]}
    for features, first in ((7, [1.0]), ([7], [1.0]), (["a,b"], [5.0]), (('b"', "a,b"), [8.0, 5.0]),
                            ("7,a", [1.0, 0.0]),
                            (np.array(["a", "7"]), [0.0, 1.0]), ([], None)):  # fmt: skip
        rows = EventStream.of(frame, features=features, raw_features=True).edge_rows()
        assert (None if rows is None else rows[0].tolist()) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foo": 1}, "frame: there is no option 'foo'; the options are sort, bipartite, one_kind, raw_features"),
        ({"sort": "yes"}, "frame: sort is 'yes'; use sort=True or sort=False"),
        ({"name": 5}, "name is 5, not text; use"),
        ({"bipartite": 1, "name": "x"}, "x: bipartite is 1; use bipartite=True or"),
        ({"src": [7, 9, 7]}, "frame: src takes names of columns, not list; name columns of the table, or put"),
        ({"features": np.ones((3, 2))}, "frame: features takes names of columns, not ndarray; .* as edge_features"),
        ({"features": np.zeros((3, 0))}, "frame: features takes names"),
        ({"features": 0.5}, "frame: features takes names"),
        ({"edge_features": np.zeros((3, 0))}, r"edge_features: has shape \[3, 0\]; give a matrix with a row for each"),
        ({"edge_features": np.ones((2, 2))}, r"edge_features: has shape \[2, 2\]; give .* each of the 3 events"),
        ({"edge_features": "x.npy"}, "edge_features: is 'x.npy'; pass the array itself, as of numpy.load, or"),
        ({"edge_features": Path("x.npy")}, "edge_features: is 'x.npy'; pass the array"),
        ({"edge_features": np.ones((3, 2), complex)}, "edge_features: holds complex128; use numbers"),
        ({"edge_features": torch.ones(3, 2).to_sparse()}, "edge_features: is a tensor of layout torch.sparse_coo"),
        ({"edge_features": torch.ones(3, 2, device="meta")}, "edge_features: is a tensor on the meta device"),
        ({"edge_features": [[1], [2, 3], [4]]}, "edge_features: is no matrix .* pass an array with a row for each"),
        ({"edge_features": [["a"]] * 3}, "edge_features: is a list of type <U1; convert it to numbers"),
        ({"node_features": "x.npy"}, "node_features: is 'x.npy', not a table; pass the table itself, or read files"),
        ({"node_features": torch.ones(9, 2, device="meta")}, "node_features: is a tensor on the meta device"),
        ({"node_features": np.ones((9, 2))}, "node_features: id 9 has no row, since the array has rows 0 to 8; add it"),
        ({"src": "x"}, r"frame: column 'x' \(src\) is missing from the frame: src, dst, t; use src=NAME$"),
        ({"features": "x"}, "frame: no column matches features=x; the frame has no other columns"),
        ({"features": "src"}, "frame: features=src: this column is the src; omit it there$"),
        ({"edge_features": np.ones((3, 2)), "sort": None}, "frame: sort is None; use sort=True"),
    ],
)  # fmt: skip
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        EventStream.of(COLUMNS, **options)


def test_arrays_of_any_layout() -> None:
    backwards = {name: np.array(values)[::-1] for name, values in COLUMNS.items()}
    matrix = np.arange(6.0).reshape(3, 2)
    stream = EventStream.of(
        backwards, sort=True, raw_features=True, edge_features=matrix[::-1], node_features=np.arange(20.0)[::-1]
    )
    assert stream.edge_rows().tolist() == [[0.0, 1.0], [4.0, 5.0], [2.0, 3.0]]
    assert stream.node_features.tolist() == [[12.0], [11.0], [10.0]]
    narrow = EventStream.of(COLUMNS, raw_features=True, edge_features=torch.tensor(matrix, dtype=torch.bfloat16))
    assert narrow.edge_rows().tolist() == matrix.tolist()


def test_messages_speak_python() -> None:
    def fault(frame: Any, **options: Any) -> str:
        with pytest.raises(InputError) as error:
            EventStream.of(frame, **options)
        return str(error.value)

    assert fault({**COLUMNS, "t": [2, 1, 3]}).endswith("earlier than in the row before; sort the events with sort=True")
    assert fault({**COLUMNS, "label": [1, 0, 1]}, features=["label"]).endswith('switch the labels off with label=""')
    assert fault(COLUMNS, bipartite=True, one_kind=True) == "bipartite and one_kind exclude each other; omit either"
    shared = {"src": [*range(1, 31)], "dst": [*range(1, 16)] * 2, "t": [*range(30)]}
    source = EventStream.of(shared).source
    assert source is not None
    assert source.notes[-1].endswith("if they are, use bipartite=True, otherwise one_kind=True")
    for words, python in (
        (
            "x: column 'a' is both src and dst; use --columns dst=NAME",
            "x: column 'a' is both src and dst; use dst=NAME",
        ),
        ("appears twice in the header; use --columns src=a or src=A", "appears twice in the frame; use src=a or src=A"),
        ("number the rows of --edge-features", "number the rows of edge_features"),
    ):
        assert in_python(words) == python


def test_a_column_in_the_index() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS)
    nodes = pandas.DataFrame({"x": [1.0, 2.0]}, index=pandas.Index([7, 9], name="node"))
    for table, options, message in (
        (
            frame.set_index("t"),
            {},
            "frame: no column for t; the frame has src, dst; t is the index; use frame.reset_index()",
        ),
        (frame.set_index(["src", "t"]), {}, "the frame has dst; src and t are the index; use frame.reset_index()"),
        (
            frame.set_index("t"),
            {"t": "t"},
            "is missing from the frame: src, dst; t is the index; use frame.reset_index()",
        ),
        (
            frame,
            {"node_features": nodes},
            "node_features: no column `node` among x; node is the index; use frame.reset",
        ),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            EventStream.of(table, **options)


def test_node_features_by_ids_of_any_form() -> None:
    uuids = [uuid.UUID(int=2**100 + number) for number in range(3)]
    events = {"src": uuids, "dst": uuids, "t": [1, 2, 3]}
    for nodes in (uuids, [str(each) for each in uuids], [each.bytes for each in uuids]):
        stream = EventStream.of(events, node_features={"node": nodes, "x": [1.0, 2.0, 3.0]}, raw_features=True)
        assert stream.node_features.tolist() == [[1.0], [2.0], [3.0]]


@pytest.mark.filterwarnings("error")
def test_files_of_node_features_are_closed(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("src,dst,t\n7,9,1\n", encoding="utf-8")
    (tmp_path / "n.csv").write_text("node,x\n7,1\n9,2\n", encoding="utf-8")
    assert read_stream(tmp_path / "e.csv", node_features=str(tmp_path / "n.csv")).node_features is not None
    gc.collect()


def test_the_form_of_dates_is_an_option() -> None:
    frame = {"src": [1, 2], "dst": [3, 4], "t": ["01.10.2016", "02.10.2016"]}
    assert EventStream.of(frame, time_format="%d.%m.%Y").t.tolist() == [1475280000, 1475366400]
    with pytest.raises(DataError, match=r'use time_format="%d.%m.%Y" or %m.%d.%Y'):
        EventStream.of(frame)
