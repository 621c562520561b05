"""Roles of columns: the user's choice, usual names, and advice where one is missing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from mspipe_triton.config import DataConfig
from mspipe_triton.data.names import Roles, parse_columns
from mspipe_triton.data.roles import find_roles
from mspipe_triton.data.sheets import ArrowSheet, open_sheets
from mspipe_triton.errors import DataError


def roles(folder: Path, text: str, columns: str = "", **options: bool) -> Roles:
    """Roles of the columns of a text."""
    (folder / "x.csv").write_text(text, encoding="utf-8")
    data = DataConfig("x.csv", parse_columns(columns) if columns else {}, **options)
    return find_roles(open_sheets(folder / "x.csv", no_header=data.no_header)[0], data)


def test_parse_columns() -> None:
    parts = {"src": "a", "dst": "b", "features": "c,d e,f*", "t": "g=h", "label": ""}
    assert parse_columns("src=a, dst = b,features=c, d e,f*,t=g=h,label=") == parts
    for text, message in (
        ("source=a", "'source=a' is not role=name; the roles are src, dst, t, label, features"), ("", "'' is not"),
        ("src", "'src' is not role=name"), ("src=a,b", "'b' is not role=name"),
        ("src=", "src= has no name; use src=NAME"), ("t=a,t=b", "t is named twice; omit one of them"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=f"--columns: {message}"):
            parse_columns(text)


def test_usual_and_chosen_columns(tmp_path: Path) -> None:
    text = "User ID,item,time,label,f0\n1,2,3,0,1\n"
    assert roles(tmp_path, text) == Roles("User ID", "item", "time", "label", ("f0",), ("user", "item"))
    assert roles(tmp_path, text, one_kind=True).kinds == ()
    assert roles(tmp_path, text, "label=").label is None
    assert roles(tmp_path, text, "label=,features=LABEL") == Roles(
        "User ID", "item", "time", None, ("label",), ("user", "item")
    )
    assert roles(tmp_path, text, "src=user_id,t=f0,features=").t == "f0"
    assert roles(tmp_path, "a,b,t\n1,2,3\n", "src=b,dst=a", bipartite=True).kinds == ("b", "a")
    assert roles(tmp_path, "1,2,3\n", no_header=True, bipartite=True) == Roles("1", "2", "3", kinds=("src", "dst"))
    assert roles(tmp_path, "% bip\n1 2 1 4\n") == Roles("1", "2", "4", kinds=("src", "dst"))


def test_what_roles_say(tmp_path: Path) -> None:
    every = roles(tmp_path, "src,dst,t,f0,x\n1,2,3,4,5\n")
    assert [every.of(name) for name in ("src", "dst", "t", "f0", "x")] == ["src", "dst", "t", "feature", ""]
    assert every.used == ("src", "dst", "t", "f0")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b,c\n1,2,3\n4,5,6\n", "", "no column for src, dst, t; the file has a, b, c; name the right ones, as in: "
         "mspipe-triton data info x.csv --columns src=a,dst=b,t=c"),
        ("a,b,c\nx,y,2020-01-02\nx,y,2020-01-01\n", "src=a",
         "no column for dst, t; .* --columns src=a,dst=b,t=c --sort$"),
        ("from,to,w x\na,b,1.5\n", "", "no column for t; .* --columns 't=w x'$"),
        ("id,who,what\n1,,3\n", "", "no column for src, dst, t; .*; a table of events needs three"),
        ("src,SRC,dst,t\n1,2,3,4\n", "", r"column 'src' \(src\) appears twice .*; use --columns src=src or src=SRC"),
        ("t,src,t\n1,2,3\n", "dst=src", "no column for src"),
        ("src,dst,t\n1,2,3\n", "dst=src,src=src", "column 'src' is both dst and src; use --columns dst=NAME"),
        ("src,dst,t\n1,2,3\n", "t=T2",
         r"column 'T2' \(t\) is missing from the header: src, dst, t; use --columns t=t"),
        ("1,2,3\n4,5,6\n", "", "the first line is data, not a header: 1, 2, 3; use --no-header$"),
        ("a,2,3\nb,5,6\n", "src=a,dst=2,t=3", "the first line is data, not a header: a, 2, 3; use --no-header$"),
        ("a,b,4.0,1500000000\nc,d,5.0,1500000001\n", "", ".*; use --no-header --columns src=1,dst=2,t=4$"),
    ],
)  # fmt: skip
def test_refusals(text: str, columns: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"x.csv: {message}"):
        roles(tmp_path, text, columns)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1 2 5 1500000000", "1 2 3 1500000001"], "column 4 looks like the time, and column 3 does not; use --columns "
         "src=1,dst=2,t=4"),
        (["20 1 3", "20 3 1", "40 2 3"], "column 1 looks like the time"), (["a 2020-01-01 b"], "column 2 looks like"),
        (["src dst t", "1 2 3"], r"the first line is a header \(column 3 is 't'\); omit --no-header"),
    ],
)  # fmt: skip
def test_the_third_column_must_look_like_a_time(rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        roles(tmp_path, "\n".join(rows), no_header=True)


def test_a_third_column_out_of_order_may_be_a_time(tmp_path: Path) -> None:
    assert roles(tmp_path, "5 9 7\n3 2 1\n4 8 9\n", no_header=True).t == "3"
    assert roles(tmp_path, "1 2 3 1500000000\n", "t=3", no_header=True).t == "3"


def test_advice_about_objects_in_memory() -> None:
    sheet = ArrowSheet("frame", pa.table({"a": [1], "b": ["x"], "when": [2.5]}), is_file=False)
    with pytest.raises(
        DataError, match=r"the frame has a, b, when; .* as in: EventStream.of\(frame, src='a', dst='b'\)"
    ):
        find_roles(sheet, DataConfig(""))
