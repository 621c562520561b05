"""Tables of a predictor's answers: scores of a table of new events, and embeddings of all nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from mspipe_triton.data.new_events import NewEvents
from mspipe_triton.data.times import per_second
from mspipe_triton.serving.names import DESTINATION, SOURCE
from mspipe_triton.serving.predictor import Predictor


def score_table(
    predictor: Predictor, events: NewEvents, late: str = "refuse",
    progress: Callable[[int], None] = lambda events: None,
) -> pa.Table:  # fmt: skip
    """Score new events as they go, and return a table of src, dst, t and score in the order of their file.

    Args:
        late: see `Predictor.observe`; a late event that is dropped has an empty score.
        progress: called with the number of events of each batch.
    """
    scores = pa.array(predictor.predict_table(events, late=late, progress=progress), from_pandas=True)
    src, dst = predictor.typed(events.src, SOURCE), predictor.typed(events.dst, DESTINATION)
    columns = {"src": src, "dst": dst, "t": _times(events, predictor.reading.time), "score": scores}
    table = pa.table(columns)
    return table if events.order is None else table.take(pa.array(np.argsort(events.order)))


def embedding_table(predictor: Predictor, t: Any = None) -> pa.Table:
    """Embed all nodes at a time, and return a table of node, kind if there are two, and the numbers e0, e1, ….

    Rows are in the order of `Predictor.nodes`.

    Args:
        t: the time; None for that just after the last event.
    """
    rows, ids = predictor.embed(t=t), predictor.node_table
    columns: dict[str, Any] = {"node": ids["id"], **{name: ids[name] for name in ids.column_names if name == "kind"}}
    return pa.table(columns | {f"e{number}": column for number, column in enumerate(rows.T)})


def _times(events: NewEvents, meaning: str) -> pa.Array:
    """Return times as a column: timestamps if the run's times are dates, otherwise the numbers."""
    t = events.t.numpy()
    ticks = per_second(meaning)
    if "date" not in meaning or ticks is None:
        return pa.array(t)
    unit = {1: "s", 10**9: "ns"}[ticks] if t.dtype == np.int64 else "us"
    return pa.array(t if unit != "us" else np.round(t * 10**6).astype(np.int64)).cast(pa.timestamp(unit))
