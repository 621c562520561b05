"""Console of the commands, and the table of facts: what commands need that do not train."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(stderr=True, highlight=False, markup=False, emoji=False)  # names may look like markup


def facts_table(title: str, facts: dict[str, Any]) -> Table:
    """Table with one row per name and value, except values that are None."""
    table = Table(title=title, show_header=False)
    for name, value in facts.items():
        if value is not None:
            table.add_row(name.replace("_", " "), format_value(value))
    return table


def format_value(value: Any) -> str:
    """Format a value for a table: yes and no, thousands, four digits of a float."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
