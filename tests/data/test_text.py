"""Delimited text: encodings, quotes, comments inside, and the errors that name a row."""

from __future__ import annotations

import pytest

from mspipe_triton.data.quotes import inspect_quotes
from mspipe_triton.data.text import open_text
from mspipe_triton.errors import ConfigError, DataError


def column(text: str | bytes, name: str, no_header: bool = False, encoding: str = "") -> list[str]:
    """Values of one column, read as text."""
    content = text if isinstance(text, bytes) else text.encode()
    return open_text("x", content, encoding, no_header).read([name], {name}, "").column(name).to_pylist()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-16-le"])
def test_encodings(encoding: str) -> None:
    chosen = encoding if encoding in ("latin-1", "cp1252", "utf-16-le") else ""
    assert column("näme,t\r\nä,1\r\nö,2\r\n".encode(encoding), "näme", encoding=chosen) == ["ä", "ö"]


def test_wrong_encodings() -> None:
    for bad in (b"src,t\n\xe4,1\n", b"src,t\n" + b"a,1\n" * 100_000 + b"\xe4,1\n"):
        row = bad.count(b"\n") - 1
        with pytest.raises(DataError, match=f"^x: row {row}: src holds 'ä', which is not utf-8; use --encoding"):
            column(bad, "src")
    with pytest.raises(DataError, match=r"x: line 2: holds .*a', which is not utf-16"):
        column(b"\xff\xfes\0\n\0a", "src")  # half of a character
    with pytest.raises(ConfigError, match="--encoding 'no' is unknown"):
        column(b"a", "a", encoding="no")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('a,b\n"x,y",1\n"he said ""no""",2\n', ["x,y", 'he said "no"']),
        ('a,b\n"x\n\ny",1\nz,2\n', ["x\n\ny", "z"]),
        ('a,b\n"x\n# y"" z",1\nz,2\n', ['x\n# y" z', "z"]),
        ('a\tb\n"Weird Al" Yankovic\t1\n5" disk\t2\n', ['"Weird Al" Yankovic', '5" disk']),
        ('a\tb\n"x\t1\ny"\t2\n', ['"x', 'y"']),
        ('a\tb\n"x\t1\n"y\t2\n', ['"x', '"y']),
        ('a, b\n"x", 1\n"y, z", 2\n', ["x", "y, z"]),
        ('b, a\n1, "x"\n2, "y, z"\n', ["x", "y, z"]),
        ("a::b\nx,y::1\n\"z::2\n", ["x,y", '"z']),
        ("a,b\n'x',1\n", ["'x'"]),
        ('a,b\n"",1\n', [""]),
    ],
)  # fmt: skip
def test_quotes(text: str, values: list[str]) -> None:
    name = next(name for name in open_text("x", text.encode()).columns if name == "a")
    assert column(text, name) == values


def test_a_quote_that_is_not_closed() -> None:
    with pytest.raises(DataError, match=r"x: line 3 of the rows: a quote does not enclose a value: '\"y, 3'; double"):
        column('a,b\n"x\n,",2\n"y, 3\nz,4\n', "a")


def test_quotes_are_inspected() -> None:
    def inspect(text: str) -> tuple[bool, int | None]:
        return inspect_quotes(text.encode(), 0, ",")

    assert inspect('"a",b\n"c"\r\n"d"') == (False, None)
    assert inspect('a,"b\nc"\n') == (True, None)
    assert inspect('"a""b",""\n') == (False, None)
    assert inspect('a,b\nc"d"\n') == (False, 1)
    assert inspect('a,b\nc,"d\n') == (True, 1)


def test_comments_and_blanks_inside() -> None:
    text = "# one\n1 2 3\n\n# two\n 4\t5  6 \r\n%\n7 8 9"
    file = open_text("x", text.encode(), no_header=True)
    table = file.read(["1", "3"], {"1", "3"}, "")
    assert table.to_pydict() == {"1": ["1", "4", "7"], "3": ["3", "6", "9"]}


def test_types_that_change_far_below() -> None:
    rows = "1,2\n" * 300_000
    table = open_text("x", f"a,b\n{rows}3,x\n4,0.5\n".encode()).read(["a", "b"], set(), "")
    assert table["a"].to_pylist()[-3:] == [1, 3, 4]
    assert table["b"].to_pylist()[-3:] == ["2", "x", "0.5"]


def test_decimal_commas_become_points_in_columns_of_numbers() -> None:
    names = ["a", "b", "t", "c"]
    table = open_text("x", b"a;b;t;c\n1,0;1,5;3,25;4,5\n2;x;4;5\n").read(names, {"a", "b", "t"}, "t")
    assert table.to_pydict() == {"a": ["1.0", "2"], "b": ["1,5", "x"], "t": ["3.25", "4"], "c": [4.5, 5.0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\n", "x: the file is empty"), (b"# a\n", "x: the file holds only comments"),
        (b"a\0b", "x: is not a text, Parquet, Arrow or JSON file"),
        (b"a,b\n1,2\n1,2,3\n", r"x: row 2: has 3 values \('1,2,3'\), and there are 2 columns"),
    ],
)  # fmt: skip
def test_faults(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        column(content, open_text("x", content).columns[0])
