"""Screen of `data info`: what a stream holds, the role of every column, and notes."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table

from mspipe_triton.cli.console import console, facts_table, titled
from mspipe_triton.data.describe import readable_time
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.times import per_second

_ROLES = {
    "src": "source", "dst": "destination", "t": "time", "label": "label", "feature": "feature",
    "row": "row in --edge-features",
}  # fmt: skip


def show_stream(stream: EventStream, facts: dict[str, Any], more: dict[str, Any]) -> None:
    """Print the facts of `describe`, and `more` rows, then the columns and the notes."""
    rows = {name: value for name, value in facts.items() if name not in ("name", "columns", "notes", "time", "kinds")}
    if facts["kinds"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items())
        rows["nodes"] = f"{facts['nodes']:,}: {kinds} (two kinds, numbered apart)"
    for name in ("first_time", "last_time", "val_start", "test_start"):
        if facts[name] is not None:
            date = readable_time(facts[name], facts["time"])
            rows[name] = f"{facts[name]:,}" if date is None else f"{facts[name]} ({date} UTC)"
    ticks = per_second(facts["time"])
    rows["span"] = f"{facts['span']:,} in the unit of the times" if ticks is None else _duration(facts["span"] / ticks)
    rows |= {"format": facts["format"] or None, "time": facts["time"] or None}
    console.print(facts_table(str(facts["name"]), {**rows, **more}))
    if facts["columns"]:
        console.print(_columns_table(stream, facts["columns"]))
    for note in facts["notes"]:
        console.print(f"Note: {note}")


def _duration(seconds: float) -> str:
    """Say a time in the largest unit of which it has two or more."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
    name, size = next(((name, size) for name, size in units if seconds >= 2 * size), units[-1])
    return f"{seconds / size:,.4g} {name}"


def _columns_table(stream: EventStream, columns: dict[str, str]) -> Group:
    """Table of the columns of a file: role of each, and what becomes of features."""
    transform = None if stream.source is None else stream.source.features
    features = {} if transform is None else {part.name: part.describe() for part in transform.parts}
    table = Table()
    for title in ("column", "role", "read as"):
        table.add_column(title)
    rows = [(name or '""', _ROLES.get(role, "unused"), features.get(name, "")) for name, role in columns.items()]
    for (_, role, reading), group in groupby(rows, key=lambda row: (_stem(row[0]), *row[1:])):
        names = [name for name, *_ in group]
        table.add_row(names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)})", role, reading)
    return titled("Columns", table)


def _stem(name: str) -> str:
    """Return a name without the number at its end, so that f0, f1, … share a row."""
    return name.rstrip("0123456789") or name
