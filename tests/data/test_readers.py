"""Readers of CSV and Parquet: roles, formats, and one clear error for every fault of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.roles import parse_columns
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_what_generate_writes(tmp_path: Path) -> None:
    original = synthetic_stream(SyntheticConfig(events=500, edge_features=2))
    for name in ("x.csv", "x.parquet"):
        write_stream(original, tmp_path / name)
        stream = read_stream(tmp_path / name)
        assert stream.node_ids is not None
        assert torch.equal(stream.node_ids[stream.src], original.src)
        assert torch.equal(stream.node_ids[stream.dst], original.dst)
        assert torch.equal(stream.t, original.t)
        assert torch.equal(stream.edge_features, original.edge_features)


def test_column_mapping_and_synonyms(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "who,item_id,timestamp,f\n7,9,1.5,3\n")
    stream = read_stream(path, parse_columns("src=who, features=f"))
    assert (stream.src.item(), stream.dst.item(), stream.t.item()) == (0, 1, 1.5)
    assert stream.edge_features.tolist() == [[3.0]]
    assert stream.node_ids.tolist() == [7, 9]


def test_jodie_files_number_items_after_users(tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n"
    stream = read_stream(write(tmp_path / "x.csv", header + "0,0,0.0,0,0.1,0.2\n1,0,36.0,1,0.3,0.4\n"))
    assert stream.src.tolist() == [0, 1]
    assert stream.dst.tolist() == [2, 2]
    assert stream.labels.tolist() == [0, 1]
    assert stream.edge_features.shape == (2, 2)


def test_the_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", "src,dst,time\n3,4,20\n")
    write(tmp_path / "a.csv", "src,dst,time\n1,2,10\n")
    assert read_stream(tmp_path).t.tolist() == [10, 20]


def test_sort_is_stable(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "src,dst,time,f0\n1,2,9,0\n3,4,5,1\n5,6,5,2\n")
    stream = read_stream(path, sort=True)
    assert stream.t.tolist() == [5, 5, 9]
    assert stream.edge_features.squeeze(1).tolist() == [1, 2, 0]


def test_timestamps_become_unix_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "src,dst,time\n1,2,1970-01-01T00:01:00\n1,2,1970-01-01T00:02:00\n")
    assert read_stream(path).t.tolist() == [60, 120]


def test_node_features_follow_the_ids_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "n.npy", np.arange(20.0).reshape(10, 2))
    path = write(tmp_path / "x.csv", "src,dst,time\n7,2,1\n")
    assert read_stream(path, node_features=str(tmp_path / "n.npy")).node_features.tolist() == [[4, 5], [14, 15]]
    np.save(tmp_path / "n.npy", np.arange(4.0).reshape(2, 2))
    with pytest.raises(DataError, match="a row for each id up to 7"):
        read_stream(path, node_features=str(tmp_path / "n.npy"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("src,dst,time\n", "no events below the header"),
        ("src,dst\n1,2\n", "no column for t; the file has src, dst"),
        ("src,src,dst,time\n1,1,2,3\n", "column 'src' .* appears twice"),
        ("src,dst,time\n1,2,3\n1,x,3\n", "row 2: dst is 'x', not a number"),
        ("src,dst,time\n1,2,3\n1,,3\n", "row 2: dst is empty"),
        ("src,dst,time\n1,2,nan\n", "row 1: time is not finite"),
        ("src,dst,time\n1,2,1.0\n1,2,inf\n", "row 2: time is not finite"),
        ("src,dst,time\n-1,2,3\n", "row 1: src is negative"),
        ("src,dst,time\n1.5,2,3\n", "row 1: src is not an integer .1.5"),
        ("src,dst,time\n1,2,5\n1,2,4\n", "row 2: time is earlier than .*; sort the events with --sort .4"),
        ("src,dst,time\n1,2,3\n1,2\n", "cannot be read: .*Expected 3 columns, got 2"),
        ("src,dst,time,f0\n1,2,3,nan\n", "have a value that is not finite"),
        ("src,dst,time,f0\n1,2,3,a\n", "row 1: f0 is 'a', not a number"),
    ],
)
def test_bad_files_get_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_stream(write(tmp_path / "x.csv", text))
    assert "\n" not in str(error.value)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_stream(tmp_path / "none.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"has no .csv"):
        read_stream(tmp_path / "folder")
    path = write(tmp_path / "x.csv", "src,dst,time\n1,2,3\n")
    with pytest.raises(DataError, match=r"'who' .src. is missing from the header"):
        read_stream(path, {"src": "who"})
    with pytest.raises(DataError, match="no column matches features=g"):
        read_stream(path, {"features": "g*"})
    with pytest.raises(DataError, match="is not role=name"):
        parse_columns("source=who")


def test_a_list_column_must_keep_its_width(tmp_path: Path) -> None:
    columns = {"src": [1, 1], "dst": [2, 2], "time": [1, 2]}
    pyarrow.parquet.write_table(pa.table({**columns, "features": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "x.parquet")
    assert read_stream(tmp_path / "x.parquet").edge_features.tolist() == [[1, 2], [3, 4]]
    pyarrow.parquet.write_table(pa.table({**columns, "features": [[1.0, 2.0], [3.0]]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"row 2: features differs in length from row 1, which has 2 values .1."):
        read_stream(tmp_path / "x.parquet")


def test_large_ids_are_compacted(tmp_path: Path) -> None:
    stream = read_stream(write(tmp_path / "x.csv", f"src,dst,time\n{2**40},5,1\n5,{2**40},2\n"))
    assert (stream.num_nodes, stream.src.tolist(), stream.node_ids.tolist()) == (2, [1, 0], [5, 2**40])


def test_real_streams(real_data: Path) -> None:
    uci = read_stream(real_data / "uci.csv")
    assert (len(uci), uci.num_nodes, uci.t[0].item()) == (59_835, 1_899, 1_082_040_961)
    wiki = read_stream(real_data / "wiki.csv")
    assert (len(wiki), wiki.num_nodes, wiki.t.dtype) == (157_474, 9_227, torch.int64)
