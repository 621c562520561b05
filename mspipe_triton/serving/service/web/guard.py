"""Guard before the application: limits on clients, the token, and the count of requests."""

from __future__ import annotations

import base64
import binascii
import hmac
import math
from collections import OrderedDict
from time import monotonic, perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.metrics import Metrics
from mspipe_triton.serving.service.web.refusals import CLOSE, RETRY, Refusal, refusal_of

HEALTH = "/health"
CROWDED = "crowded"  # of a connection's state: it is one too many
_ADDRESSES = 65_536
_BASIC = 'Basic realm="mspipe-triton", charset="UTF-8"'
_BEARER = 'Bearer realm="mspipe-triton"'


class Guard:
    """Middleware that refuses requests by their head, so that the body of a refused one is not read.

    `GET /health` always passes.

    Args:
        app: the application behind. limits: see `Limits`. token: that clients must send; None for no token.
        metrics: count all requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else token.encode()
        self._buckets = Buckets(limits.rate) if limits.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        start, status = perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = None if scope["path"] == HEALTH and scope["method"] == "GET" else self._refusal(scope)
        try:
            if refusal is None:
                await self._app(scope, receive, counted)
            else:
                answer = refusal_of(refusal)
                if refusal.status == 401:
                    answer.headers.append("www-authenticate", _BASIC)
                await answer(scope, receive, counted)
        finally:
            self._metrics.note(scope["path"], status, start)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return the reason to refuse a request, None if there is none."""
        if CROWDED in scope["state"]:
            detail = f"there are more than {self._limits.connections} connections; close some, or try again later"
            return Refusal(429, detail, RETRY | CLOSE)
        if self._buckets is not None:
            wait = self._buckets.wait((scope["client"] or ("",))[0], monotonic())
            if wait > 0:
                detail = f"there are more than {self._limits.rate:g} requests per second from this address; slow down"
                return Refusal(429, detail, {"retry-after": str(math.ceil(wait))})
        if self._token is not None and not _has_token(scope, self._token):
            detail = "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
            return Refusal(401, detail, {"www-authenticate": _BEARER})
        return None


class Buckets:
    """A bucket of tokens per address, which fills at `rate` per second; a request takes a token."""

    def __init__(self, rate: float) -> None:
        self._rate, self._size = rate, max(1.0, rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str, now: float) -> float:
        """Take a token, and return 0; or return the seconds until there is one."""
        tokens, since = self._buckets.pop(address, (self._size, now))
        tokens = min(self._size, tokens + (now - since) * self._rate)
        passes = tokens >= 1
        self._buckets[address] = (tokens - passes, now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1 - tokens) / self._rate


def _has_token(scope: Scope, token: bytes) -> bool:
    """Return True if a request has the token, after Bearer or as the password of Basic."""
    value = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, secret = value.partition(b" ")
    secret = secret.strip()
    if scheme.lower() == b"basic":
        try:
            secret = base64.b64decode(secret, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != b"bearer":
        return False
    return hmac.compare_digest(secret, token)
