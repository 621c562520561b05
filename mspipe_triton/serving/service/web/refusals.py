"""Refusals of requests: their status, their one line of text and their headers."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mspipe_triton.errors import InputError
from mspipe_triton.serving.service.web.answers import json_bytes
from mspipe_triton.serving.service.words import in_words_of
from mspipe_triton.serving.service.work import BusyError, KeyReusedError, LogError, StartingError

RETRY = {"retry-after": "1"}
CLOSE = {"connection": "close"}
_STATUSES: dict[type[Exception], tuple[int, Mapping[str, str]]] = {
    BusyError: (429, RETRY),
    StartingError: (503, RETRY),
    LogError: (503, RETRY),
    KeyReusedError: (422, {}),
    InputError: (422, {}),
}


class Refusal(Exception):
    """A request that the front refuses by itself.

    Args:
        status: of HTTP. detail: a line that says what is wrong and how to fix it. headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers or {}


def refusal_of(error: Exception, arrow: bool = False) -> Response:
    """Return the answer that tells a client about an error; 500 if it is none that a client can cause.

    Args:
        error: see `Backend` and `Refusal`. arrow: the body of the request is an Arrow stream.
    """
    if isinstance(error, Refusal):
        return _answer(error.status, str(error), error.headers)
    if isinstance(error, HTTPException):  # of the router
        return _answer(error.status_code, _ROUTER.get(error.status_code, error.detail), error.headers or {})
    for kind, (status, headers) in _STATUSES.items():
        if isinstance(error, kind):
            return _answer(status, in_words_of("Arrow" if arrow else "JSON", str(error)), headers)
    return _answer(500, "the service failed; its output has the reason", CLOSE)


_ROUTER = {404: "there is no such page; /docs lists all", 405: "this page does not take that method; /docs lists all"}


def _answer(status: int, detail: str, headers: Mapping[str, str]) -> Response:
    line = " ".join(detail.split())
    return Response(json_bytes({"detail": line}), status, headers, media_type="application/json")
