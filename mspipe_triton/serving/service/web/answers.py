"""Answers to requests: JSON, or a table as an Arrow IPC stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
_MANY = 20_000  # values whose conversion takes so long that other requests should not wait for it


def json_bytes(value: Any) -> bytes:
    """Write a value as JSON; it has no NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(json_bytes(value), status, headers, media_type=JSON)


def in_arrow(request: Request, arrow: bool) -> bool:
    """Return True if an answer is to be in Arrow; `arrow` says that the request's body is."""
    accept = ",".join(request.headers.getlist("accept")).strip().lower()
    return ARROW in accept or (arrow and accept in ("", "*/*"))


async def answer(size: int, write: Callable[[], bytes], arrow: bool) -> Response:
    """Return the answer that `write` makes, in a thread if it has many values."""
    body = await asyncio.to_thread(write) if size > _MANY else write()
    return Response(body, media_type=ARROW if arrow else JSON)


def arrow_bytes(columns: dict[str, Any]) -> bytes:
    """Write a table as an Arrow IPC stream."""
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def id_column(ids: Any) -> pa.Array | pa.ChunkedArray:
    """Return ids as a column of integers, or of text if no type of integers has them all."""
    if isinstance(ids, pa.Array | pa.ChunkedArray):
        return ids
    if all(type(each) is int for each in ids):
        large = max(ids, default=0) >= 2**63
        if not large or min(ids) >= 0:
            return pa.array(ids, pa.uint64() if large else pa.int64())
    return pa.array([str(each) for each in ids], pa.string())


def numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers [M] as a list with None for those that JSON does not have."""
    listed: list[float | None] = values.tolist()
    finite = np.isfinite(values)
    return listed if finite.all() else [each if fine else None for each, fine in zip(listed, finite, strict=True)]


def embeddings_bytes(nodes: Any, rows: np.ndarray, arrow: bool) -> bytes:
    """Write the embeddings [M, D] of nodes.

    Each row becomes text by itself, so that other threads have their turn in between.
    """
    if arrow:
        return arrow_bytes({"node": id_column(nodes)} | {f"e{place}": column for place, column in enumerate(rows.T)})
    ids = nodes.to_pylist() if isinstance(nodes, pa.Array) else nodes
    lines = b",".join(json_bytes(numbers(row)) for row in rows)
    return b'{"nodes":%s,"embeddings":[%s]}' % (json_bytes(ids), lines)
