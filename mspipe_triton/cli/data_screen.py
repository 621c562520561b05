"""Screen of `data info`: what a stream holds, the role of every column, and notes."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from mspipe_triton.cli.screens import console, facts_table
from mspipe_triton.data.describe import readable_time
from mspipe_triton.data.events import EventStream

_ROLES = {
    "src": "source", "dst": "destination", "t": "time", "label": "label", "feature": "feature",
    "row": "row in --edge-features",
}  # fmt: skip
_SHOWN = 40  # columns


def show_stream(stream: EventStream, facts: dict[str, Any], more: dict[str, Any]) -> None:
    """Print the facts of `describe`, and `more` rows, then the columns and the notes."""
    rows = {name: value for name, value in facts.items() if name not in ("name", "columns", "notes", "time", "kinds")}
    if facts["kinds"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items())
        rows["nodes"] = f"{facts['nodes']:,}: {kinds} (two kinds, numbered apart)"
    for name in ("first_time", "last_time"):
        date = readable_time(facts[name], facts["time"])
        rows[name] = f"{facts[name]:,}" if date is None else f"{facts[name]} ({date} UTC)"
    rows["time"] = facts["time"] or None
    console.print(facts_table(str(facts["name"]), {**rows, **more}))
    if facts["columns"]:
        console.print(_columns_table(stream, facts["columns"]))
    for note in facts["notes"]:
        console.print(f"Note: {note}")


def _columns_table(stream: EventStream, columns: dict[str, str]) -> Table:
    """Table of the columns of a file: role of each, and what becomes of features."""
    features = {} if stream.source is None or stream.source.features is None else stream.source.features.describe()
    table = Table(title="columns")
    for title in ("column", "role", "read as"):
        table.add_column(title)
    for name, role in list(columns.items())[:_SHOWN]:
        table.add_row(name or '""', _ROLES.get(role, "unused"), features.get(name, ""))
    if len(columns) > _SHOWN:
        table.add_row(f"and {len(columns) - _SHOWN} more", "", "")
    return table
