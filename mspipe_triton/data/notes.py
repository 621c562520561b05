"""Notes about a stream: facts of its table that may be mistakes, though it can be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.config import DataConfig
from mspipe_triton.data.id_columns import ABSENT
from mspipe_triton.data.ids import NodeIds
from mspipe_triton.data.names import Roles, other_ends, other_times, plain_name, shown_names
from mspipe_triton.data.origin import Source, shown
from mspipe_triton.data.sheets import Sheet
from mspipe_triton.data.times import tie_share

_FEW = 10  # ids or times, too few to tell a range
_ENOUGH = 20  # events, enough to tell something from their distribution
_TIES = 0.1  # of the events, enough to change results
_GAP = 0.9  # of the span of all times, too much between two events
# Words for a missing value that a table of ids may have beyond those of `ABSENT`.
_WORDS = pa.array([*ABSENT.to_pylist(), "#n/a", "-", "?", ".", "undefined", "unknown", "(null)"])


def stream_notes(
    src: np.ndarray, dst: np.ndarray, t: np.ndarray, ids: NodeIds, roles: Roles, source: Source
) -> list[str]:
    """Return notes about the events: ids that look like gaps or row numbers, labels, kinds of nodes, ties, a
    gap in time.

    Args:
        src, dst, t: [E] nodes and times in the order of time. source: origin, order and settings of the rows.
    """
    notes = _words(ids)
    if dst.size and dst.min() == dst.max():
        notes.append("all events have the same destination, so there is none to rank it against or to train with")
    share = tie_share(t)
    if t.size >= _ENOUGH and share >= _TIES:
        notes.append(
            f"{share:.0%} of the events share their time with others: neighbours are strictly earlier, but a model's "
            "memory holds all earlier batches, with events of the same time, so its scores depend on the batch size; "
            "use finer times if there are any"
        )
    if source.label_fault is not None:
        notes.append(f"labels are not read: {source.label_fault}")
    for name, nodes in ((roles.src, src), (roles.dst, dst)):
        if src.size >= _ENOUGH and np.bincount(nodes).max() == 1:
            notes.append(f"every {_column(name)} occurs once, as a row number would")
    if not roles.kinds and not (source.data is not None and source.data.one_kind):
        notes += _two_kinds(src, dst, ids, roles)
    gaps = np.diff(t.astype(np.float64))
    if t.size >= _ENOUGH and (gaps > 0).sum() >= _FEW and gaps.max() > _GAP * gaps.sum():
        event = int(gaps.argmax())
        notes.append(
            f"most of the time lies between {source.place(event)} ({t[event]}) and {source.place(event + 1)} "
            f"({t[event + 1]}); units may be mixed, or a placeholder such as 0 is among the times"
        )
    return notes


def column_notes(sheets: Sequence[Sheet], roles: Roles, data: DataConfig) -> list[str]:
    """Return notes about the columns: others whose names fit a role, and those of later files alone."""
    names, notes = sheets[0].columns, list[str]()
    if not {"src", "dst"} & set(data.columns):
        for src, dst in other_ends(names, roles):
            notes.append(f"{src} and {dst} could be the ends, too; if they are, use --columns src={src},dst={dst}")
    if "t" not in data.columns:
        for time in other_times(names, roles):
            notes.append(f"{time} could be the time, too; if it is, use --columns t={time}")
    first = {plain_name(name) for name in names}
    for sheet in sheets[1:]:
        more = [name for name in sheet.columns if plain_name(name) not in first]
        if more:
            notes.append(
                f"{sheet.name} has columns that {sheets[0].name} lacks, which are not read: {shown_names(more)}"
            )
            break
    return notes


def _column(name: str) -> str:
    """Return a column's name in a sentence, as "column 1" for a number."""
    return f"value of column {name}" if name.isdigit() else name


def _words(ids: NodeIds) -> list[str]:
    """Return a note if a node is called as missing values are, such as "nan", or by the only negative number, -1."""
    words = list[str]()
    for table in ids.ids:
        if pa.types.is_string(table.type):
            words += map(shown, table.filter(pc.is_in(pc.utf8_lower(table), value_set=_WORDS)).to_pylist())
        elif len(table) > 1 and table[0].as_py() == -1 and table[1].as_py() >= 0:
            words.append("-1, the only negative number,")
    if not words:
        return []
    return [f"{words[0]} is the id of a node; if it stands for a missing value, remove the rows that have it"]


def _two_kinds(src: np.ndarray, dst: np.ndarray, ids: NodeIds, roles: Roles) -> list[str]:
    """Return a note if sources and destinations share numbers and look like two kinds of nodes.

    They look so if each of the two is a nearly unbroken range of integers from the same start, and one is longer by a
    tenth; or if a column of sources is called user and the like, and that of destinations is not.
    """
    sides = [np.zeros(len(ids), dtype=bool) for _ in range(2)]
    sides[0][src], sides[1][dst] = True, True
    shared = int((sides[0] & sides[1]).sum())
    table = ids.ids[0]
    if not shared or not pa.types.is_integer(table.type):
        return []
    numbers = table.to_numpy()
    first, second = (numbers[side] for side in sides)
    lengths = [int(part[-1]) - int(part[0]) + 1 for part in (first, second)]
    unbroken = first.size >= 0.8 * lengths[0] and second.size >= 0.8 * lengths[1]
    different = _FEW < min(lengths) < 0.9 * max(lengths)
    ranges = unbroken and different and abs(int(first[0]) - int(second[0])) <= 1
    if not ranges and not _user_like(roles):
        return []
    columns = f"columns {roles.src} and {roles.dst}" if roles.src.isdigit() else f"{roles.src} and {roles.dst}"
    return [
        f"{columns} share {shared:,} ids and are numbered together, though they look like two kinds "
        "of nodes; if they are, use --bipartite, otherwise --one-kind"
    ]


def _user_like(roles: Roles) -> bool:
    """Return True if the sources are called user and the destinations are not."""
    return "user" in plain_name(roles.src) and "user" not in plain_name(roles.dst)
