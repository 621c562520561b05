"""Reader of files: every option, every format, and labels, notes and the record of how a stream was read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from mspipe_triton.data.describe import describe, readable_time
from mspipe_triton.data.names import parse_columns
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_what_generate_writes(tmp_path: Path) -> None:
    original = synthetic_stream(SyntheticConfig(events=500))
    for name in ("x.csv", "x.parquet"):
        write_stream(original, tmp_path / name)
        stream = read_stream(tmp_path / name)
        assert stream.ids is not None
        assert stream.ids.of(stream.src) == original.src.tolist()
        assert stream.ids.of(stream.dst) == original.dst.tolist()
        assert torch.equal(stream.t, original.t)


def test_column_mapping_and_synonyms(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "who,to,timestamp,f\n7,9,1.5,3\n")
    stream = read_stream(path, parse_columns("src=who, dst=to"))
    assert (stream.src.item(), stream.dst.item(), stream.t.item()) == (0, 1, 1.5)
    assert stream.ids.of([0, 1]) == [7, 9]


def test_jodie_files_number_items_apart(tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n"
    stream = read_stream(write(tmp_path / "x.csv", header + "0,0,0.0,0,0.1,0.2\n1,0,36.0,1,0.3,0.4\n"))
    assert (stream.src.tolist(), stream.dst.tolist(), stream.labels.tolist()) == ([0, 1], [2, 2], [0, 1])
    assert stream.ids.of([1, 2]) == [("user", 1), ("item", 0)]


def test_the_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b10.csv", "src,dst,time\n3,4,30\n")
    write(tmp_path / "b2.csv", "time,dst,src\n20,4,3\n")
    pyarrow.parquet.write_table(pa.table({"src": ["1"], "dst": [2], "time": [10.0]}), tmp_path / "a.parquet")
    stream = read_stream(tmp_path)
    assert (stream.t.tolist(), stream.ids.of(stream.src)) == ([10, 20, 30], [1, 3, 3])
    assert stream.source.place(2).endswith("b10.csv: row 1")


def test_sort_is_stable(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "src,dst,time,label\n1,2,9,0\n3,4,5,1\n5,6,5,2\n")
    stream = read_stream(path, sort=True)
    assert (stream.t.tolist(), stream.labels.tolist()) == ([5, 5, 9], [1, 2, 0])
    assert [stream.source.place(event).rpartition(" ")[2] for event in range(3)] == ["2", "3", "1"]
    with pytest.raises(
        DataError, match=r"x.csv: row 2: time is '5', earlier than in the row before; sort the events with"
    ):
        read_stream(path)


def test_labels_stop_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "src,dst,time,label\n1,2,1,1\n1,2,2,\n1,2,3,NA\n1,2,4,true\n")
    assert torch.equal(read_stream(path).labels.nan_to_num(-1), torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    path = write(tmp_path / "x.csv", "src,dst,time,label\n1,2,1,1\n1,2,2,bad\n")
    stream = read_stream(path)
    assert stream.labels is None
    assert stream.source.label_fault.endswith("x.csv: row 2: label is 'bad', not a label; use 0 and 1, or nothing")
    stream = read_stream(path, {"label": ""})
    assert (stream.source.label_fault, dict(stream.source.roles)["label"]) == (None, "")


def test_notes_about_kinds_and_words(tmp_path: Path) -> None:
    rows = "".join(f"{n % 20},{n % 50},{n}\n" for n in range(100))
    stream = read_stream(write(tmp_path / "x.csv", "src,dst,t\n" + rows))
    (note,) = stream.source.notes
    assert note == (
        "src and dst share 20 ids and are numbered together, though they look like two kinds of nodes; if they are, "
        "use --bipartite, otherwise --one-kind"
    )
    assert read_stream(tmp_path / "x.csv", one_kind=True).source.notes == ()
    assert read_stream(tmp_path / "x.csv", bipartite=True).num_nodes == 70
    rows = "".join(f"{n % 50},{(n + 1) % 50},{n}\n" for n in range(100))
    assert read_stream(write(tmp_path / "x.csv", "src,dst,t\n" + rows)).source.notes == ()
    (note,) = read_stream(write(tmp_path / "x.csv", "src,dst,t\na,nan,1\nnan,b,2\n")).source.notes
    assert note.startswith("'nan' is the id of a node; if it stands for a missing value, remove the rows")


def test_the_record_reads_the_same_again(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "1;2;2020-01-02\n2;1;2020-01-01\n")
    stream = read_stream(path, sort=True, bipartite=True, no_header=True)
    data = stream.source.data
    assert (data.path, data.sort, data.bipartite, data.no_header) == (str(path), True, True, True)
    assert dict(stream.source.roles) == {"1": "src", "2": "dst", "3": "t"}
    assert stream.source.time == "Unix seconds, from dates"


def test_description(tmp_path: Path) -> None:
    rows = "".join(f"{n % 2},{n % 3},1970-01-0{n + 1},x\n" for n in range(6))
    facts = describe(read_stream(write(tmp_path / "x.csv", "user,item,date,more\n" + rows)))
    assert (facts["kinds"], facts["nodes"], facts["time"]) == ({"user": 2, "item": 3}, 5, "Unix seconds, from dates")
    assert facts["columns"] == {"user": "src", "item": "dst", "date": "t", "more": ""}
    assert (facts["bipartite"], facts["self_loops"], facts["span"]) == (True, 0, 5 * 86_400)
    assert readable_time(86_400, facts["time"]) == "1970-01-02 00:00:00"
    assert readable_time(86_400_000.5, "Unix milliseconds") == "1970-01-02 00:00:00"
    assert readable_time(1, "") is None
    assert readable_time(1e30, "Unix seconds") is None


@pytest.mark.parametrize(("name", "form"), [("x.parquet", "Parquet"), ("x.jsonl", "JSON")])
def test_flags_for_text_are_refused_for_other_formats(name: str, form: str, tmp_path: Path) -> None:
    if form == "JSON":
        write(tmp_path / name, '{"src": 1, "dst": 2, "t": 3}\n')
    else:
        pyarrow.parquet.write_table(pa.table({"src": [1], "dst": [2], "t": [3]}), tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: is {form}, which has no encoding to name; omit --encoding"):
        read_stream(tmp_path / name, encoding="latin-1")
    with pytest.raises(DataError, match=f"{name}: is {form}, which has no header line; omit --no-header"):
        read_stream(tmp_path / name, no_header=True)


def test_names_in_later_files_may_differ_in_case_and_blanks(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "src,dst,Event Time,label,f0\n1,2,3,0,0.5\n")
    write(tmp_path / "b.csv", "event_time,Dst, SRC,F0,LABEL\n4,6,5,1.5,1\n")
    stream = read_stream(tmp_path, raw_features=True, columns={"t": "event time"})
    assert (stream.ids.of(stream.src), stream.ids.of(stream.dst), stream.t.tolist()) == ([1, 5], [2, 6], [3, 4])
    assert (stream.labels.tolist(), stream.edge_features.tolist()) == ([0, 1], [[0.5], [1.5]])


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_stream(tmp_path / "none.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder: the folder has no tables \(.csv"):
        read_stream(tmp_path / "folder")
    path = write(tmp_path / "x.csv", "src,dst,time\n1,2,3\n")
    with pytest.raises(DataError, match=r"column 'who' .src. is missing from the header"):
        read_stream(path, {"src": "who"})


def test_real_streams(real_data: Path) -> None:
    uci = read_stream(real_data / "uci.csv")
    assert (len(uci), uci.num_nodes, uci.t[0].item()) == (59_835, 1_899, 1_082_040_961)
    wiki = read_stream(real_data / "wiki.csv")
    assert (len(wiki), wiki.num_nodes, wiki.t.dtype) == (157_474, 9_227, torch.int64)


def test_whole_numbers_are_one_id_at_both_ends_of_one_kind(tmp_path: Path) -> None:
    stream = read_stream(write(tmp_path / "x.csv", "src,dst,t\n7.0,a,1\n8.0,7.0,2\n"))
    assert stream.ids is not None
    assert stream.ids.ids[0].to_pylist() == ["7", "8", "a"]
    assert stream.dst.tolist() == [2, 0]


def test_features_of_several_types_in_files_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "src,dst,t,x,y\n1,2,3,4,5\n1,2,4,5,6\n")
    write(tmp_path / "b.csv", "src,dst,t,x,y\n1,2,5,0.5,red\n1,2,6,1.5,red\n")
    features = read_stream(tmp_path, {"features": "x"}, raw_features=True).edge_features
    assert features is not None
    assert features.squeeze(1).tolist() == [4, 5, 0.5, 1.5]
