"""Wrong tables, passed through the command line: one line with file, row, column, value and fix."""

from __future__ import annotations

import gzip
import io
import os
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.cli.odd_tables import Refused, check_refused, write
from tests.conftest import Command

H = "src,dst,t\n"
DATES = "write numbers, or dates such as 2016-10-01, 2016-10-01 12:30:05 or 2016-10-01T12:30:05+02:00"
THREE = "a table of events needs three: source, destination and time"


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("events.csv", H)


def array(path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 3)))
    path.write_bytes(buffer.getvalue())


def parquet(**columns: pa.Array) -> object:
    usual = {"src": pa.array([1, 2]), "dst": pa.array([2, 3]), "t": pa.array([1, 2])}
    return lambda path: pyarrow.parquet.write_table(pa.table({**usual, **columns}), path)


def cut_parquet(path: Path) -> None:
    parquet()(path)  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[:-9])


def folder(**files: str) -> object:
    def make(path: Path) -> None:
        path.mkdir()
        for name, text in files.items():
            (path / f"{name}.csv").write_text(text, encoding="utf-8")

    return make


TABLES = {
    "empty": Refused("a.csv", "", "", ": the file is empty; it needs a header and a row per event"),
    "blank lines": Refused("a.csv", "\n\n", "", ": the file is empty; it needs a header and a row per event"),
    "only a header": Refused("a.csv", H, "", ": no events below the header; add a row per event"),
    "only comments": Refused("a.csv", "# a\n% b\n", "", ": the file holds only comments; it needs a row per event"),
    "no header": Refused("a.csv", "1,2,3\n4,5,6\n", "",
                         ": the first line is data, not a header: 1, 2, 3; use --no-header"),
    "no header, time last": Refused("a.csv", "6,2,4,1289241911.7\n6,5,2,1289241941.5\n", "",
                                    "...; use --no-header --columns src=1,dst=2,t=4"),
    "no header, text": Refused("a.csv", "AH2,0116,4.0,1019865600\nA2I,0116,1.0,1395619200\n", "",
                               ": the first line is data...; use --no-header --columns src=1,dst=2,t=4"),
    "no header, named": Refused("a.csv", "1,2,3\n4,5,6\n", "--columns src=1,dst=2,t=3",
                                ": the first line is data, not a header: 1, 2, 3; use --no-header"),
    "a header after all": Refused("a.csv", H + "1,2,3\n", "--no-header",
                                  ": the first line is a header (column 3 is 't'); omit --no-header"),
    "time is the fourth": Refused("a.csv", "1\t2\t5\t1000000000\n1\t2\t3\t1000000001\n", "--no-header",
                                  ": column 4 looks like the time, and column 3 does not; use --columns "
                                  "src=1,dst=2,t=4, or name the columns that you mean"),
    "time is the first": Refused("a.dat", "20 1 2\n20 3 4\n40 1 3\n", "--no-header",
                                 ": column 1 looks like the time...src=2,dst=3,t=1, or name the columns that you mean"),
    "Konect without times": Refused("out.a", "% sym weighted\n1 2 3\n3 4 3\n", "",
                                    f": no column for t; the file has 1, 2, 3; {THREE}"),
    "two columns": Refused("a.csv", "src,dst\n1,2\n", "", f": no column for t; the file has src, dst; {THREE}"),
    "prose": Refused("a.txt", "dear all\nhello again\n", "",
                     f": no column for src, dst, t; the file has dear, all; {THREE}"),
    "other names": Refused("a.csv", "a,b,c\n1,x,2020-01-01\n", "",
                           ": no column for src, dst, t; the file has a, b, c; name the right ones, as in: "
                           "mspipe-triton data info a.csv --columns src=a,dst=b,t=c"),
    "a name twice": Refused("a.csv", "src,src,dst,t\n1,1,2,3\n", "",
                            ": column 'src' (src) appears twice in the header; use --columns src=src or src=src.1"),
    "two roles": Refused("a.csv", H + "1,2,3\n", "--columns src=dst,dst=dst",
                         ": column 'dst' is both src and dst; use --columns src=NAME"),
    "a name that is missing": Refused("a.csv", H + "1,2,3\n", "--columns src=who",
                                      ": column 'who' (src) is missing from the header: src, dst, t; use --columns "
                                      "src=NAME"),
    "short row": Refused("a.csv", H + "1,2,3\n\n1,2\n", "",
                         ": row 2: has 2 values ('1,2'), and there are 3 columns; correct it, or remove the row"),
    "long row": Refused("a.txt", "src dst t\n# c\n1 2 3\n1 2 3 4\n", "",
                        ": row 2: has 4 values ('1 2 3 4'), and there are 3 columns; correct it, or remove the row"),
    "long row of ::": Refused("a.dat", "1::2::3\n1::2::3::4\n1::2::5\n", "--no-header",
                              ": row 2: has 4 values ('1::2::3::4')...; correct it, or remove the row"),
    "short row in the second file": Refused(
        "parts", folder(a=H + "1,2,3\n", b=H + "1,2,4\n1,2\n"), "",
        "/b.csv: row 2: has 2 values ('1,2'), and there are 3 columns; correct it, or remove the row"),
    "empty id in the second file": Refused("parts", folder(a=H + "1,2,3\n", b=H + "1,2,4\n1,,5\n"), "",
                                           "/b.csv: row 2: dst is empty; fill it in, or remove the row"),
    "other columns in the second file": Refused(
        "parts", folder(a=H + "1,2,3\n", b="src,dst,when\n1,2,3\n"), "",
        "/b.csv: no column 't', which parts/a.csv has; the file has src, dst, when; give all files of a folder the "
        "same columns"),
    "dates in the second file": Refused("parts", folder(a=H + "1,2,3\n", b=H + "1,2,2020-01-01\n"), "",
                                        "/b.csv: row 1: t is '2020-01-01', not a number, as the first time is; "
                                        "correct it, or remove the row"),
    "earlier in the second file": Refused("parts", folder(a=H + "1,2,3\n", b=H + "1,2,2\n"), "",
                                          "/b.csv: row 1: t is '2', earlier than in the row before; sort the events "
                                          "with --sort"),
    "empty folder": Refused("parts", folder(), "", ": the folder has no tables (.csv...; name another"),
    "open quote": Refused("a.csv", 'src,dst,t,c\n1,2,3,"a\nb"\n2,3,4,"b, 5\n3,4,5,c\n', "",
                          ": line 3 of the rows: a quote does not enclose a value: '2,3,4,\"b, 5'; double it, or "
                          "remove it"),
    "latin-1": Refused("a.csv", "src,dst,t\na,b,1\na,m\u00fcller,2\n".encode("latin-1"), "",
                       ": row 2: dst holds 'm\u00fcller', which is not utf-8; use --encoding with the file's own, such "
                       "as latin-1"),
    "header in latin-1": Refused("a.csv", "src,dst,t,gr\u00f6\u00dfe\na,b,1,2\n".encode("latin-1"), "",
                                 ": the header is not UTF-8; use --encoding latin-1 or cp1252"),
    "binary": Refused("a.png", b"\x89PNG\r\n\x1a\n\0\0\0", "", ": is not a text, Parquet, Arrow or JSON...utf-16"),
    "zip": Refused("a.xlsx", archive, "", ": is a zip archive or a spreadsheet; unpack it, ...as CSV or Parquet"),
    "numpy": Refused("a.npy", array, "", ": is a numpy array; events need named columns: use CSV, Parquet, or "
                     "EventStream.of"),
    "web page": Refused("a.html", "<!DOCTYPE html>\n", "", ": is a web page or XML; fetch the table itself"),
    "Git LFS": Refused("a.csv", "version https://git-lfs.github.com/spec/v1\noid x\n", "",
                       ": is a pointer of Git LFS; fetch the file with git lfs pull"),
    "cut gz": Refused("a.csv.gz", gzip.compress(bytes(range(256)))[:-20], "",
                      ": cannot be read, as if damaged or cut short: Truncated compressed stream; fetch it again"),
    "cut Parquet": Refused("a.parquet", cut_parquet, "", ": cannot be read, as if damaged or cut short: ...it again"),
    "pipe": Refused("pipe", os.mkfifo, "", ": is no regular file; write one"),
    "empty id": Refused("a.csv", H + "1,2,3\n,2,3\n", "", ": row 2: src is empty; fill it in, or remove the row"),
    "NA among integers": Refused("a.csv", H + "1,2,3\n1,NA,3\n", "",
                                 ": row 2: dst is 'NA', not an id among integers; remove the row"),
    "fraction": Refused("a.csv", H + "1,2,3\n1.5,2,3\n", "", ": row 2: src is 1.5, not an integer; ..."),
    "rounded text": Refused("a.csv", H + "1e+17,2,3\n", "", ": row 1: src is 1E+17, rounded by the program ..."),
    "rounded floats": Refused("a.parquet", parquet(src=pa.array([1.0, 2.0**60])), "",
                              ": row 2: src is 1.152921504606847e+18, which float64 may have rounded, ...; store ids "
                              "as int64, uint64 or text"),
    "nested ids": Refused("a.parquet", parquet(src=pa.array([[1], [2]])), "",
                          ": row 1: src is [1], of type list<element: int64>; name a column of integers or text"),
    "float32 times": Refused("a.parquet", parquet(t=pa.array([1, 2], pa.float32())), "",
                             ": row 1: t is 1.0, float32, which is minutes off for Unix seconds; store times as "
                             "float64 or integers"),
    "timestamps with nulls": Refused("a.parquet", parquet(t=pa.array([1, None], pa.timestamp("s"))), "",
                                     ": row 2: t is empty; fill it in, or remove the row"),
    "times of day": Refused("a.csv", H + "1,2,08:00:00\n", "",
                            f": row 1: t is '08:00:00', a time of day without its date; {DATES}"),
    "day or month": Refused("a.csv", H + "1,2,01/02/2020\n", "",
                            ": row 1: t is '01/02/2020', not a number or a date; day and month could be confused; use "
                            "--time-format %d/%m/%Y or %m/%d/%Y"),
    "day above 12": Refused("a.csv", H + "1,2,14.11.2023 8:00\n", "",
                            "...; use --time-format '%d.%m.%Y %H:%M' or '%m.%d.%Y %H:%M'"),
    "another form of dates": Refused("a.csv", H + "1,2,14.11.2023\n1,2,11.14.2023\n", "--time-format %d.%m.%Y",
                                     ": row 2: t is '11.14.2023', not of the form %d.%m.%Y; correct it, or change "
                                     "--time-format"),
    "times of a spreadsheet": Refused("a.csv", H + "1,2,1.70E+09\n", "", ": row 1: t is '1.70E+09', rounded by the "
                                      "program that wrote it; write times in full, as in 1700000000"),
    "digits of no date": Refused("a.csv", H + "1,2,20231101\n1,2,20231131\n1,2,20231201\n", "",
                                 ": row 2: t is 20231131, no date, as 20231101 in the first row is; correct it, or "
                                 "remove the row"),
    "digits of no date in the second file": Refused(
        "parts", folder(a=H + "1,2,20231101\n", b=H + "1,2,20231131\n1,2,20231132\n"), "",
        "/b.csv: row 1: t is 20231131, no date, as 20231101 in parts/a.csv is; write all times in one form"),
    "year of two digits": Refused("a.csv", H + "1,2,01/02/20\n", "", ": row 1: t is '01/02/20', not a number..."),
    "thousands": Refused("a.csv", H + '1,2,"1,000"\n', "", f": row 1: t is '1,000', not a number or a date; {DATES}"),
    "word among dates": Refused("a.csv", H + "1,2,2020-01-01\n1,2,soon\n", "",
                                f": row 2: t is 'soon', not a date of the same form as the first one; {DATES}"),
    "zone among dates without": Refused("a.csv", H + "1,2,2020-01-01\n1,2,2020-01-01T00:00:00Z\n", "",
                                        ": row 2: t is '2020-01-01T00:00:00Z', not a date of the same form...:00"),
    "infinity": Refused("a.csv", H + "1,2,1.5\n1,2,inf\n", "",
                        ": row 2: t is inf, not finite; correct it, or remove the row"),
    "beyond float64": Refused("a.csv", H + "1,2,9007199254740993.5\n", "",
                              ": row 1: t is '9007199254740993.5', which float64 would round; write integers, or use a "
                              "coarser unit"),
    "not JSON": Refused("a.jsonl", '{"src":1,"dst":2,"t":3}\n{"src":1,\n', "",
                        ": row 2: is not JSON: ...; write one object per line"),
    "JSON without a key": Refused("a.jsonl", '{"src":1,"dst":2,"t":3}\n{"src":1,"t":4}\n', "",
                                  ": row 2: dst is empty; fill it in, or remove the row"),
    "JSON arrays": Refused("a.json", "[[1,2,3]]", "",
                           ': row 1: is no JSON object; write objects such as {"src": 1, "dst": 2, "t": 3}'),
    "columns in JSON": Refused("a.json", '{"src":{"0":1,"1":2},"dst":{"0":2,"1":3},"t":{"0":1,"1":2}}', "",
                               ": is one object that holds columns; write records, one object per event, as in "
                               'df.to_json(orient="records", lines=True)'),
    "lists in JSON": Refused("a.json", '{"src":[1,2],"dst":[2,3],"t":[1,2]}', "",
                             ": is one object that holds columns; write records...lines=True)"),
    "a list in JSON": Refused("a.json", '{"n":1,"events":[{"src":1,"dst":2,"t":3}]}', "",
                              ": is one object that holds a list of events; write records...lines=True)"),
    "a title": Refused("a.csv", "My events\n" + H + "1,2,3\n4,5,6\n", "",
                       ": the first line has 1 value and the rows have 3; remove the lines above the header"),
    "two lines of title": Refused("a.csv", "Report, part 1\n\nfrom ;x\n" + "src;dst;t\n1;2;3\n4;5;6\n", "",
                                  ": the first line has 1 value and the rows have 3; remove the lines above the "
                                  "header"),
    "long types": Refused("a.parquet", parquet(t=pa.array([{f"name{n}": n for n in range(30)}] * 2)), "",
                          "...; use numbers, dates or timestamps"),
    "nested JSON": Refused("a.jsonl", '{"src":{"id":1},"dst":2,"t":3}\n', "",
                           ": row 1: src is {'id': 1}, of type struct<id: int64>; name a column of integers or text"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_is_refused(name: str, tmp_path: Path, command: Command) -> None:
    check_refused(TABLES[name], tmp_path, command)


def test_missing_files_and_bad_flags(tmp_path: Path, command: Command) -> None:
    write(tmp_path / "a.csv", H + "1,2,3\n")
    for arguments, message in (
        (("none.csv",), "none.csv: no such file; name a table of events, a folder of them, or `synthetic`"),
        (("a.csv", "--encoding", "nope"), "--encoding 'nope' is unknown; use one such as utf-8, latin-1 or cp1252"),
        (
            ("a.csv", "--time-format", "%Q"),
            "--time-format '%Q': %Q cannot be read; use %Y %y %m %b %B %d %j %H %I %M %S",
        ),
        (("a.csv", "--time-format", "%H:%M"), "--time-format '%H:%M' has no year; name one, as in %d.%m.%Y"),
        (("a.csv", "--columns", "source=a"), "--columns: 'source=a' is not role=name; the roles are src, dst, t, "),
        (("a.csv", "--columns", "src="), "--columns: src= has no name; use src=NAME"),
        (("a.csv", "--columns", "src=a,src=b"), "--columns: src is named twice; omit one of them"),
    ):
        run = command("data", "info", *arguments)
        assert (run.returncode, run.stderr.count("\n")) == (2, 1)
        assert run.stderr.startswith(f"mspipe-triton: {message}")


@pytest.mark.parametrize(
    "content",
    [
        "id,who,what,on,how_much\n" + "".join(f"{n},p{n % 3},q{n % 2},2020-01-0{n + 1},{n}.5\n" for n in range(6)),
        "id,who,what,on\n" + "".join(f"{n},p{n % 3},q{n % 2},2020-01-0{9 - n}\n" for n in range(6)),
        "who;what;noted\n" + "".join(f"p {n};q;{10**9 + n}\n" for n in range(6)),
    ],
)
def test_the_command_in_the_message_works(content: str, tmp_path: Path, command: Command) -> None:
    write(tmp_path / "my table.csv", content)
    run = command("data", "info", "my table.csv")
    advice = run.stderr.partition("as in: mspipe-triton ")[2]
    assert run.returncode == 2
    assert command(*shlex.split(advice)).returncode == 0, advice
