"""Dialects: delimiter, comments and header, recognised from the first lines."""

from __future__ import annotations

import pytest

from mspipe_triton.data.dialect import Dialect, is_value, looks_like_data


@pytest.mark.parametrize(
    ("text", "delimiter", "width"),
    [
        ("a,b,1\nc,d,2", ",", 3), ("a;b;1,5\nc;d;2,5", ";", 3), ("1,0;2,0;3,5\n2,0;2,0;4,5", ";", 3),
        ("a\tb c\t1,2,3\nd\te f\t1,2,3", "\t", 3), ("a|b|1\nc|d|2", "|", 3), ("1::2::3\n1::2::4", "::", 3),
        ("1  2\t3\n1 2 3", " ", 3), ("u,i,5,A;B;C\nv,i,6,D;E;F", ",", 4), ("u,i,5,A|B|C\nv,i,6,D|E|F", ",", 4),
        ('"a,b",c,1\n"d",e,2', ",", 3), ("a,b\nc,d", ",", 2), ("word\nword", ",", 1),
    ],
)  # fmt: skip
def test_delimiters(text: str, delimiter: str, width: int) -> None:
    dialect = Dialect.of(text.split("\n"), no_header=True)
    assert (dialect.delimiter, dialect.width, dialect.header) == (delimiter, width, ())
    assert dialect.columns == tuple(str(number + 1) for number in range(width))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("src,dst,t\n1,2,3", ("src", "dst", "t")),
        ("#src,dst,t\n1,2,3", ("src", "dst", "t")),
        ("# made by hand\n\t% a comment\nsrc,dst,t\n1,2,3".replace("\t", ""), ("src", "dst", "t")),
        ("# src dst t\n1 2 3", ("src", "dst", "t")),
        ("# FromNodeId\tToNodeId\tTime\n1\t2\t3", ("FromNodeId", "ToNodeId", "Time")),
        (",src,dst,t\n0,1,2,3", ("", "src", "dst", "t")),
        ("src dst t\n1 1 2 3\n2 1 2 3", ("", "src", "dst", "t")),
        ("src,dst,t\n1,2,3,\n2,2,3,", ("src", "dst", "t", "")),
        ("src,dst,t\n9,1,2,3\n7,1,2,3", ("src", "dst", "t")),
        ("sep=;\nsrc;dst;t\n1;2;3", ("src", "dst", "t")),
        ("Account,t,Account\na,1,b", ("Account", "t", "Account.1")),
        ("user,item,t,comma_separated_list_of_features\n1,2,3,4,5", ("user", "item", "t", "f0", "f1")),
    ],
)
def test_headers(text: str, columns: tuple[str, ...]) -> None:
    assert Dialect.of(text.split("\n"), no_header=False).columns == columns


def test_a_comment_is_no_header_unless_it_names_the_roles_of_data() -> None:
    lines = ["# a, b, c", "1,2,3", "4,5,6"]
    assert Dialect.of(lines, no_header=False).header == ("1", "2", "3")
    assert Dialect.of(["# src, dst, t", "1,2,3"], no_header=True).header == ()


def test_comments() -> None:
    dialect = Dialect.of(["tag,item,time", "#python,3,5"], no_header=False)
    assert dialect.rows == (("#python", "3", "5"),)
    assert [dialect.is_comment(line) for line in ("# a,b,c", "#", "## x", "#a,b,c", "#a,b")] == [
        True, True, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["bip", "sym", "asym"])
def test_konect(kind: str) -> None:
    dialect = Dialect.of([f"% {kind} weighted", "% 2 1 2", "1 2\t1\t100", "1 3\t1\t101"], no_header=False)
    assert (dialect.konect, dialect.defaults) == (kind, {"src": "1", "dst": "2", "t": "4"})
    assert dialect.describe() == "blanks, Konect"


def test_decimal_commas() -> None:
    assert Dialect.of(["src;dst;t", "1;2;3,5"], no_header=False).decimal_comma
    assert not Dialect.of(["src;dst;t;x", "1;2;3.5;1,5"], no_header=False).decimal_comma
    assert not Dialect.of(["src,dst,t", "1,2,3"], no_header=False).decimal_comma


def test_values_are_told_from_names() -> None:
    assert all(map(is_value, ("1", "-2.5", "1e+05", "3,5", "2020-01-01", "2020-01-01T00:00:00Z")))
    assert not any(map(is_value, ("src", "f0", "1st", "", "user 1")))
    assert looks_like_data(["1", "", "3"])
    assert not looks_like_data(["", "src"])
    assert not looks_like_data(())
