"""Tables of events in three parts, each later than the one before, with text ids and new nodes that sort first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

SIZES = (300, 200, 160)


def table(kinds: bool = True, text: bool = True) -> pd.DataFrame:
    """All 660 events, two at every time; each later part has four sources more, which are smaller."""
    random = np.random.default_rng(5)
    events, part = sum(SIZES), np.repeat(range(3), SIZES)
    src = random.integers(100 - 4 * part, 120)  # new ones are smaller
    dst = random.integers(200, 215, events)
    ids = [[f"n{each:03d}" for each in column] if text else column for column in (src, dst)]
    names = ("user", "item") if kinds else ("src", "dst")
    return pd.DataFrame(
        {
            names[0]: ids[0], names[1]: ids[1], "time": np.arange(events) // 2 * 60 + 1000,
            "amount": random.exponential(5, events).round(3), "sort": random.choice(["a", "b", "c"], events),
        }
    )  # fmt: skip


def write_parts(folder: Path, events: pd.DataFrame) -> list[Path]:
    """Write the three parts of a table, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    ends, paths = np.cumsum((0, *SIZES)), []
    for name, start, stop in zip(("first", "second", "third"), ends[:-1], ends[1:], strict=True):
        events[start:stop].to_csv(folder / f"{name}.csv", index=False)
        paths.append(folder / f"{name}.csv")
    return paths
