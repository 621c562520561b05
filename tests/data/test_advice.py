"""Advice about tables whose columns have no roles: the command that it suggests, or the columns that could be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipe_triton.config import DataConfig
from mspipe_triton.data.names import parse_columns
from mspipe_triton.data.roles import find_roles
from mspipe_triton.data.sheets import open_sheets
from mspipe_triton.errors import DataError


def advice(folder: Path, text: str, columns: str = "", **options: object) -> str:
    """Message about a table."""
    (folder / "x.csv").write_text(text, encoding="utf-8")
    data = DataConfig("x.csv", parse_columns(columns) if columns else {}, **options)
    with pytest.raises(DataError) as error:
        find_roles(open_sheets(folder / "x.csv", no_header=data.no_header)[0], data)
    return str(error.value)


def table(header: str, row: str, rows: int = 12) -> str:
    """Write rows: {n} is the number, {a} and {b} repeat, {t} is a Unix time."""
    lines = (row.format(n=n, a=n % 3, b=n % 4, t=10**9 + n, d=f"2020-01-{n + 1:02}") for n in range(rows))
    return f"{header}\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("invoice,who,what,noted", "{n},p{a},q{b},{t}", "src=who,dst=what,t=noted"),  # invoice occurs once
        ("kind,who,what,noted", "sale,p{a},q{b},{t}", "src=who,dst=what,t=noted"),  # kind is always the same
        (",who,what,noted", "{n},p{a},q{b},{t}", "src=who,dst=what,t=noted"),
        ("idx,who,what,noted", "{a},p{a},q{b},{t}", "src=who,dst=what,t=noted"),
        ("shipped,who,what,noted", "2020-01-01,p{a},q{b},{t}", "src=who,dst=what,t=noted"),
        ("price,who,what,noted", "{a}.5,p{a},q{b},{t}", "src=who,dst=what,t=noted"),
        ("price,who,what,noted", '"{a},5",p{a},q{b},{t}', "src=who,dst=what,t=noted"),
        ("is_fraud,who,what,noted", "{a},p{a},q{b},{t}", "src=who,dst=what,t=noted"),
        ("city,wholesaler_no,stock code,noted", "x{a},p{a},q{b},{t}", "'src=wholesaler_no,dst=stock code,t=noted'"),
        ("thing_id,thing_name,who,noted", "{a},p{a},q{b},{t}", "src=thing_id,dst=who,t=noted"),
        ("remark,who,what,noted", "a b c d,p{a},q{b},{t}", "src=who,dst=what,t=noted"),  # blanks are no delimiter
        ("year,month,day,who,what,noted", "2020,1,{n},p{a},q{b},{t}", "src=who,dst=what,t=noted"),
    ],
)
def test_the_command_names_columns_that_repeat(header: str, row: str, columns: str, tmp_path: Path) -> None:
    message = advice(tmp_path, table(header, row))
    assert message.endswith(f"as in: mspipe-triton data info x.csv --columns {columns}")


@pytest.mark.parametrize(
    ("header", "row", "end"),
    [
        ("who,what,noted", "p{n},q{b},{t}", "with --columns: nodes could be who, what, the time could be noted"),
        ("node,a", "{a},{n}", "a table of events needs three: source, destination and time"),
        ("who,year", "p{a},{n}", "a table of events needs three: source, destination and time"),
        ("who,what,year,month", "p{a},q{b},2020,{n}", "a table of events needs three: source, destination and time"),
        ("who,what,noted", "p{a},q{b},01.02.2020", "with --columns: nodes could be who, what, the time could be noted"),
    ],
)
def test_no_command_where_it_could_be_wrong(header: str, row: str, end: str, tmp_path: Path) -> None:
    message = advice(tmp_path, table(header, row))
    assert message.endswith(end)
    assert "--columns src" not in message


def test_the_form_of_dates_is_repeated(tmp_path: Path) -> None:
    text = "who,what,noted\np,q,02.01.2020\nr,s,01.02.2020\np,s,01.03.2020\n"
    end = "--columns src=who,dst=what,t=noted --time-format %d.%m.%Y"
    assert advice(tmp_path, text, time_format="%d.%m.%Y").endswith(end)
    assert advice(tmp_path, text, time_format="%m.%d.%Y").endswith("--time-format %m.%d.%Y --sort")


def test_roles_that_the_user_names_stay(tmp_path: Path) -> None:
    rows = "".join(f"{n % 3} {n % 2} {n % 4} {10**9 + n}\n" for n in range(12))
    assert advice(tmp_path, rows, "src=3", no_header=True).endswith("--columns src=3,t=4 --no-header")
    for columns in ("dst=1", "src=2,dst=1"):
        assert "use --columns src=2,dst=1,t=4, or name" in advice(tmp_path, rows, columns, no_header=True)
    assert advice(tmp_path, rows, "dst=1").endswith("use --no-header --columns src=2,dst=1,t=4")
    assert advice(tmp_path, table("a,b,c,when", "{a},{b},{a},{t}"), "dst=a,label=c").endswith(
        "--columns dst=a,label=c,src=b"
    )
