"""Console of the commands, the form of their tables, and the table of facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

console = Console(stderr=True, highlight=False, markup=False, emoji=False)  # names may look like markup


def titled(title: str, table: Table, *lines: str, legend: Sequence[str] = ()) -> Group:
    """Return a table with its title above, and below it lines on the whole and a legend, which may be wider."""
    blank = [""] if lines and legend else []
    return Group(Text(title, style="bold"), table, *lines, *blank, *(Text(line, style="dim") for line in legend))


def facts_table(title: str, facts: dict[str, Any]) -> Group:
    """Table with one row per name and value, except values that are None."""
    table = Table(show_header=False)
    for name, value in facts.items():
        if value is not None:
            label = name.replace("_", " ")
            table.add_row(
                f"{label.removesuffix(' mib')}, MiB" if label.endswith(" mib") else label, format_value(value)
            )
    return titled(title, table)


def format_value(value: Any) -> str:
    """Format a value for a table: yes and no, thousands, four digits of a float."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
