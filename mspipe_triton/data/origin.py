"""Origin of a table's rows, and the error that names file, row, column, value and fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mspipe_triton.config import DataConfig
from mspipe_triton.data.names import ROW_NUMBERS, plain_name, shown_names
from mspipe_triton.errors import DataError
from mspipe_triton.files import close_file

if TYPE_CHECKING:
    from mspipe_triton.data.features import FeatureTransform


@dataclass(frozen=True)
class Origin:
    """Files, or Python objects, that a table's rows come from.

    Args:
        parts: name and number of rows of each file, in the order of the rows.
    """

    parts: tuple[tuple[str, int], ...]

    def place(self, row: int) -> str:
        """Name the file and row of the table's row number `row`, as in "events.csv: row 12" (rows count from 1)."""
        for name, rows in self.parts:
            if row < rows:
                return f"{name}: row {row + 1}"
            row -= rows
        raise IndexError(row)

    def each(self) -> list[Origin]:
        """Return an origin per file, for its rows alone."""
        return [Origin((part,)) for part in self.parts]

    def fail(self, row: int, column: str, value: Any, fault: str, fix: str) -> NoReturn:
        """Raise the error about the value of one row; an empty `fault` says only that the value is empty.

        Raises:
            DataError: always.
        """
        value = plain_value(value)
        state = "is empty" if value is None or value == "" else f"is {shown(value)}, {fault}"
        subject = f"column {column}" if column.isdigit() else column
        raise DataError(f"{self.place(row)}: {subject} {state}; {fix}")

    def refuse(self, wrong: np.ndarray, column: str, values: Sequence[Any] | np.ndarray, fault: str, fix: str) -> None:
        """Raise the error about the first row for which `wrong` [E] holds, if there is one.

        Raises:
            DataError: a row is wrong.
        """
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            self.fail(row, column, values[row], fault, fix)


@dataclass(frozen=True, eq=False)
class Source:
    """Record of how a stream was read, for messages, `data info` and the run folder.

    Args:
        origin: the files of the rows.
        order: [E] the row of each event, or None if events are in the order of the rows.
        data: the settings that read the same stream again; None if it came from Python objects.
        roles: the role of each column, by name, in the order of the file; "" for a column that nothing uses.
        notes: facts that the user should know, one sentence each.
        form: the format of the first table, as in "commas, header".
        time: the meaning of the times, as in "Unix seconds, from dates".
        features: transformation of the edge features; node_features: of the node features. None if there are none.
        label_fault: the fault of a label that cannot be read, or None; it stops only what needs labels.
    """

    origin: Origin
    order: np.ndarray | None = None
    data: DataConfig | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    form: str = ""
    time: str = ""
    features: FeatureTransform | None = None
    node_features: FeatureTransform | None = None
    label_fault: str | None = None

    @property
    def reading(self) -> str:
        """Say which columns are used, as in "Events: user_id → item_id at timestamp; features f0, f1; unused: note"."""
        names: dict[str, list[str]] = {}
        for name, role in self.roles.items():
            names.setdefault(role, []).append(name)
        if not {"src", "dst", "t"} <= names.keys():
            return ""
        features, rest = names.get("feature", []), ""
        if features:
            rest = f"; features {', '.join(features[:3])}" + (f" and {len(features) - 3} more" if features[3:] else "")
        unused = [name for name in names.get("", []) if plain_name(name) not in ROW_NUMBERS]
        if unused:
            rest += f"; unused: {shown_names(unused, 3)}"
            if self.features is None:
                choice, number = (unused[0], "it") if len(unused) == 1 else ("NAME", "one")
                rest += f"\n  (--columns features={choice} reads {number})"
        return f"Events: {names['src'][0]} → {names['dst'][0]} at {names['t'][0]}{rest}"

    def place(self, event: int) -> str:
        """Name the file and row of an event."""
        return self.origin.place(event if self.order is None else int(self.order[event]))


def shown(value: Any) -> str:
    """Format a value for a message: numbers as they are, text quoted and cut to 60 characters."""
    value = plain_value(value)
    text = str(value) if isinstance(value, int | float | Decimal | date | time | timedelta) else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def plain_value(value: Any) -> Any:
    """Return the Python value of an Arrow or numpy scalar; others unchanged."""
    return value.as_py() if hasattr(value, "as_py") else value.item() if isinstance(value, np.generic) else value


def check_exists(path: Path) -> None:
    """Refuse a table of events, or a folder of tables, that does not exist.

    Raises:
        DataError: there is no such file.
    """
    if not path.exists():
        name = shown_path(path)
        fix = f"name a table of events, a folder of them, or `synthetic`{close_file(name)}"
        raise DataError(f"{name}: no such file; {fix}")


def shown_path(path: Path) -> str:
    """Format a path for a message: relative to the working folder if it is inside."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
