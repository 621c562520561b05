"""Bodies of requests: their bytes within limits of size and time, and the forms in them."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from mspipe_triton.serving.service.web.answers import ARROW, JSON
from mspipe_triton.serving.service.web.arrow import read_table
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.refusals import CLOSE, Refusal
from mspipe_triton.serving.service.web.schema import Form

_KEY = 200
_BYTES = 64  # of the largest body for each list or object, which takes as many in memory, however short it is written
F = TypeVar("F", bound=Form)


@dataclass(frozen=True)
class Body:
    """The body of a request.

    Args:
        data: its bytes. kind: its media type.
    """

    data: bytes
    kind: str

    @property
    def arrow(self) -> bool:
        """True for an Arrow IPC stream, False for JSON."""
        return self.kind == ARROW


def media_type(request: Request) -> str:
    """Return the media type of a request's body, "" if none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits) -> Body:
    """Read a body.

    Raises:
        Refusal: it is of another type, compressed, too large or too slow.
    """
    headers = request.headers
    kind = media_type(request)
    if kind not in (JSON, ARROW):
        raise Refusal(415, f"Content-Type is {kind[:60] or 'missing'}; send {JSON} or {ARROW}")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise Refusal(415, f"Content-Encoding is {coding[:60]}; send the body without compression")
    large = Refusal(413, f"the body is above the limit of {limits.max_body} bytes; send it in parts")
    if int(headers.get("content-length", 0)) > limits.max_body:
        raise large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.timeout):
            async for part in request.stream():
                size += len(part)
                if size > limits.max_body:
                    raise large
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, f"the body took more than {limits.timeout:g} s; send it faster", CLOSE) from None
    except ClientDisconnect:
        raise Refusal(400, "the connection ended before the body did; send all of it", CLOSE) from None
    return Body(b"".join(parts), kind)


def read_form(form: type[F], body: Body, request: Request, limits: Limits) -> F:
    """Read the form in a body.

    Raises:
        Refusal: a field does not fit, or there are options in the query of a body in JSON.
    """
    query = request.query_params
    if body.arrow:
        return form.of_table(read_table(body.data, limits.max_body), dict(query))
    if query:
        raise Refusal(400, f"the query has {next(iter(query))[:60]!r}, and the body is JSON; put fields into the body")
    lists, most = body.data.count(b"[") + body.data.count(b"{"), max(limits.max_body // _BYTES, 1)
    if lists > most:
        raise Refusal(413, f"the body has {lists} lists and objects; the limit is {most}, so send it in parts")
    return form.of_json(body.data)


def read_key(request: Request) -> str | None:
    """Return the idempotency key of a request, None if it has none.

    Raises:
        Refusal: it is empty, too long, or not printable.
    """
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not (0 < len(keys[0]) <= _KEY and keys[0].isascii() and keys[0].isprintable()):
        raise Refusal(400, f"Idempotency-Key must be one of 1 to {_KEY} printable ASCII characters; send a shorter one")
    return keys[0]


def digest(body: Body, request: Request) -> bytes:
    """Return the hash of what a request says."""
    parts = (body.kind.encode(), request.scope["query_string"], body.data)
    return hashlib.sha256(b"\n".join(parts)).digest()
