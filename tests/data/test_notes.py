"""Notes about streams that can be read, but may not be what the user means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.readers import read_stream


def notes(path: Path, text: str, **options: object) -> tuple[str, ...]:
    """Notes about a table."""
    path.write_text(text, encoding="utf-8")
    return read_stream(path, **options).source.notes


def table(row: str, rows: int = 20, header: str = "src,dst,t") -> str:
    """Write rows: {n} is the number, {a} and {b} repeat."""
    return f"{header}\n" + "".join(row.format(n=n, a=n % 4, b=4 + n % 5) + "\n" for n in range(rows))


def test_ends_that_occur_once(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    assert notes(path, table("{a},{b},{n}")) == ()
    assert notes(path, table("x{a},y{n},{n}")) == ("every dst occurs once, as a row number would",)
    assert notes(path, table("x{n},y{a},{n}")) == ("every src occurs once, as a row number would",)
    assert notes(path, table("x{n},y{a},{n}", 19)) == ()
    text = table("x{a} y{n} {n}").partition("\n")[2]
    assert notes(path, text, no_header=True) == ("every value of column 2 occurs once, as a row number would",)


def test_columns_that_would_also_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    text = table("{a},{b},{a},{b},{n},{n}", header="source,target,user_id,item_id,time,updated_date")
    assert notes(path, text) == (
        "user_id and item_id could be the ends, too; if they are, use --columns src=user_id,dst=item_id",
        "updated_date could be the time, too; if it is, use --columns t=updated_date",
    )
    assert notes(path, text, columns={"src": "source", "t": "time"}) == ()
    assert notes(path, text, columns={"t": "time", "features": "user_id,item_id"}) == ()


def test_columns_of_later_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("src,dst,t\n1,2,3\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("SRC,dst,t,amount\n1,3,4,5\n", encoding="utf-8")
    (note,) = read_stream(tmp_path).source.notes
    assert note == f"{tmp_path}/b.csv has columns that {tmp_path}/a.csv lacks, which are not read: amount"


@pytest.mark.parametrize(("first", "noted"), [(0, True), (10**9 - 10, False)])
def test_one_large_gap_in_time(first: int, noted: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = [f"{n % 4},{4 + n % 5},{10**9 + n}" for n in range(20)]
    result = notes(path, "\n".join(["src,dst,t", *rows, f"1,2,{first}"]) + "\n", sort=True)
    assert result == (
        (
            f"most of the time lies between {path}: row 21 (0) and {path}: row 1 (1000000000); units may be mixed, or "
            "a placeholder such as 0 is among the times",
        )
        if noted
        else ()
    )


def test_two_days_are_no_gap(tmp_path: Path) -> None:
    rows = [f"{n % 4},{4 + n % 5},2020-01-0{1 + n // 15}" for n in range(30)]
    (note,) = notes(tmp_path / "x.csv", "\n".join(["src,dst,t", *rows]))
    assert note.startswith("100% of the events share their time")


@pytest.mark.parametrize(("ties", "noted"), [(19, False), (20, True)])
def test_ties(ties: int, noted: bool, tmp_path: Path) -> None:
    rows = [f"{n % 4},{4 + n % 5},{max(n, ties - 1)}" for n in range(200)]
    assert notes(tmp_path / "x.csv", "\n".join(["src,dst,t", *rows])) == noted * (
        "10% of the events share their time with others: neighbours are strictly earlier, but a model's memory holds "
        "all earlier batches, with events of the same time, so its scores depend on the batch size; use finer times if "
        "there are any",
    )


def test_one_destination(tmp_path: Path) -> None:
    assert notes(tmp_path / "x.csv", table("{a},9,{n}")) == (
        "all events have the same destination, so there is none to rank it against or to train with",
    )


@pytest.mark.parametrize("word", ["#N/A", "-", "?", ".", "undefined", "Unknown", "(null)", "nan"])
def test_words_for_missing_ids(word: str, tmp_path: Path) -> None:
    (note,) = notes(tmp_path / "x.csv", f"src,dst,t\na,{word},1\n{word},b,2\n")
    assert note == f"{word!r} is the id of a node; if it stands for a missing value, remove the rows that have it"


def test_one_negative_id(tmp_path: Path) -> None:
    (note,) = notes(tmp_path / "x.csv", "src,dst,t\n-1,2,1\n3,-1,2\n")
    assert note.startswith(
        "-1, the only negative number, is the id of a node; if it stands for a missing value, remove"
    )
    assert notes(tmp_path / "x.csv", "src,dst,t\n-1,2,1\n3,-2,2\n") == ()


def test_labels_that_cannot_be_read_are_a_note() -> None:
    frame = {"src": [1, 2], "dst": [3, 4], "t": [1, 2], "label": ["good", "bad"]}
    source = EventStream.of(frame).source
    assert source is not None
    assert source.notes == ("labels are not read: frame: row 1: label is 'good', not a label; use 0 and 1, or nothing",)
