"""Files of tables: recognised by their content, and refused with one line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from mspipe_triton.data.sheets import open_sheets, table_name
from mspipe_triton.errors import DataError

TABLE = pa.table({"src": [1, 2], "dst": ["a", "b"], "t": [0.5, 1.5]})
TEXT = b"src,dst,t\n1,a,0.5\n2,b,1.5\n"
LINES = b'{"src": 1, "dst": "a", "t": 0.5}\n{"src": 2, "dst": "b", "t": 1.5}\n'


def content(path: Path, names: tuple[str, ...] = ("src", "dst", "t"), text: tuple[str, ...] = ()) -> dict[str, list]:
    """Columns of a file."""
    (sheet,) = open_sheets(path)
    return sheet.read(names, set(text), "t").to_pydict()


def compressed(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "bom", "parquet", "feather", "stream"])
@pytest.mark.parametrize("codec", ["", "gzip", "zstd", "bz2"])
def test_formats_are_recognised_without_a_suffix(kind: str, codec: str, tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    if kind == "parquet":
        pyarrow.parquet.write_table(TABLE, sink)
    elif kind == "feather":
        pyarrow.feather.write_feather(TABLE, sink)
    elif kind == "stream":
        with pa.ipc.new_stream(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)
    else:
        records = b"[" + LINES.strip().replace(b"\n", b",") + b"]"
        sink.write({"csv": TEXT, "jsonl": LINES, "json": records, "bom": b"\xef\xbb\xbf" + LINES}[kind])
    data = sink.getvalue().to_pybytes()
    (tmp_path / "events").write_bytes(compressed(data, codec) if codec else data)
    assert content(tmp_path / "events") == TABLE.to_pydict()


def test_concatenated_gz(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(TEXT, mtime=0) + gzip.compress(b"3,c,2.5\n"))
    assert content(tmp_path / "x")["src"] == [1, 2, 3]


def test_json_keeps_integers_and_words(tmp_path: Path) -> None:
    values = [2**64 - 1, 2.0, "2020-01-01", None, True]
    lines = [json.dumps({"src": value, "t": 1, "dst": value}) for value in values]
    (tmp_path / "x").write_text("\n".join(lines), encoding="utf-8")
    expected = ["18446744073709551615", "2.0", "2020-01-01", None, "true"]
    assert content(tmp_path / "x", ("src",), ("src",)) == {"src": expected}
    (tmp_path / "x").write_text('{"src": 9007199254740993}\n{"src": 1.0}\n', encoding="utf-8")
    assert content(tmp_path / "x", ("src",), ("src",)) == {"src": ["9007199254740993", "1.0"]}
    (tmp_path / "x").write_text('{"src": "2020-01-01"}\n{"src": "2020-01-02"}\n', encoding="utf-8")
    assert content(tmp_path / "x", ("src",), ("src",)) == {"src": ["2020-01-01", "2020-01-02"]}
    (tmp_path / "x").write_text('{"src": "a\u2028b"}\n{"src": 1}\n', encoding="utf-8")
    assert content(tmp_path / "x", ("src",), ("src",)) == {"src": ["a\u2028b", "1"]}


def test_folders(tmp_path: Path) -> None:
    for name in ("p10.csv", "p2.csv.gz", "part-3", "out.z", "README.csv", ".p.csv", "_p.csv", "p4.csv", "notes"):
        (tmp_path / name).write_bytes(b"" if name == "p4.csv" else TEXT)
    assert [Path(sheet.name).name for sheet in open_sheets(tmp_path)] == ["out.z", "p2.csv.gz", "p10.csv", "part-3"]


def test_folders_have_folders(tmp_path: Path) -> None:
    for name in ("day=10/a", "day=2/part-10.csv", "day=2/part-9.csv", "_temporary/x.csv", ".git/x.csv", "x.csv/1.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".csv").write_bytes(TEXT)
    paths = [Path(sheet.name).relative_to(tmp_path) for sheet in open_sheets(tmp_path)]
    assert list(map(str, paths)) == ["day=2/part-9.csv", "day=2/part-10.csv", "day=10/a.csv", "x.csv/1.csv"]


@pytest.mark.parametrize(("first", "second"), [("a.csv", "a.csv.gz"), ("a.csv", "a.parquet")])
def test_one_table_twice(first: str, second: str, tmp_path: Path) -> None:
    for name in (first, second, "b.csv"):
        (tmp_path / name).write_bytes(TEXT)
    with pytest.raises(DataError, match=f"/{first} and {second}: both seem to hold one table; remove one"):
        open_sheets(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("array", [False, True])
def test_json_in_utf_16(encoding: str, array: bool, tmp_path: Path) -> None:
    records = b"[" + LINES.strip().replace(b"\n", b",") + b"]" if array else LINES
    (tmp_path / "x").write_bytes(records.decode().encode(encoding))
    assert content(tmp_path / "x") == TABLE.to_pydict()


def test_names_of_streams() -> None:
    names = {"a/events.csv": "events", "events.csv.gz": "events", "out.x": "out", "folder": "folder"}
    assert {name: table_name(Path(name)) for name in names} == names


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"), (b"PK\3\4", "zip archive or a spreadsheet"), (b"%PDF-1.4", "a PDF document"),
        (b"\xd0\xcf\x11\xe0\0", "an old spreadsheet"), (b"<?xml?>", "a web page or XML"), (b"\0\1\2", "is not a text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"[[1]]", "row 1: is no JSON object"), (b'{"a": 1}\n{"a":}', "row 2: is not JSON: Expecting value"),
        (b'{"a": "\xff"}', "line 1: is not UTF-8"), (b"[" * 10**5, "JSON nested too deeply"),
        (b'[{"a": %s}]' % (b"9" * 5000), "has an integer of too many digits"),
        (b"[\n1,\n", "line 3: is not JSON"), (b"PAR1", "as if damaged or cut short"),
        (b"ARROW1\0\0", "as if damaged or cut short"), (b"\xff\xff\xff\xff\1\0\0\0", "as if damaged or cut short"),
        (gzip.compress(TEXT, mtime=0)[:-9], "as if damaged or cut short: Truncated compressed stream; fetch it again"),
    ],
)  # fmt: skip
def test_wrong_files(data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(data)
    with pytest.raises(DataError, match=f"^x: (is )?.*{message}") as error:
        open_sheets(Path("x"))
    assert "\n" not in str(error.value)


def test_damaged_pages_of_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"src": np.arange(10_000) % 97}), tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    data[40:400] = bytes(360)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=r"x: cannot be read, as if damaged or cut short: .*; fetch it again"):
        content(tmp_path / "x", ("src",))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(DataError, match="pipe: is no regular file"):
        open_sheets(tmp_path / "pipe")
    with pytest.raises(DataError, match="link: no such file"):
        open_sheets(tmp_path / "link")
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        open_sheets(tmp_path / ("x" * 300))
