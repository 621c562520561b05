"""Application of a service: its endpoints, their documentation, and the guard before them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mspipe_triton.errors import InputError
from mspipe_triton.serving.service.web import documents
from mspipe_triton.serving.service.web.answers import ARROW
from mspipe_triton.serving.service.web.backend import Backend
from mspipe_triton.serving.service.web.bodies import media_type
from mspipe_triton.serving.service.web.endpoints import Endpoints
from mspipe_triton.serving.service.web.guard import HEALTH, Guard
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.metrics import Metrics
from mspipe_triton.serving.service.web.refusals import Refusal, refusal_of
from mspipe_triton.serving.service.work import ServiceError

_READS = (HEALTH, "/ready", "/metrics", "/status", "/")
_DOCS = "/docs"


def make_app(service: Backend, limits: Limits, token: str | None) -> FastAPI:
    """Make the application of a service.

    Args:
        limits: see `Limits`. token: that clients must send, but for `GET /health`; None for no token.
    """
    app = FastAPIOffline(
        docs_url=_DOCS,
        redoc_url=None,
        title="mspipe-triton",
        version=version("mspipe-triton"),
        summary=documents.SUMMARY,
        description=documents.DESCRIPTION,
        redirect_slashes=False,
    )
    metrics = Metrics(service, frozenset((*documents.QUESTIONS, *_READS, _DOCS)))
    endpoints = Endpoints(service, limits, metrics)
    for path, arguments in documents.operations(service.status()).items():
        call = getattr(endpoints, path[1:] or "page")
        method = "POST" if path in documents.QUESTIONS else "GET"
        summary = (call.__doc__ or "").partition("\n")[0].rstrip(".")
        app.add_api_route(
            path, call, methods=[method], summary=summary, response_class=Response, response_model=None, **arguments
        )
        if method == "GET":
            app.add_api_route(path, call, methods=["HEAD"], response_model=None, include_in_schema=False)
    for kind in (Refusal, InputError, ServiceError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    if token is not None:
        document = documents.secured(app.openapi(), HEALTH)
        app.openapi = lambda: document  # type: ignore[method-assign]
    app.add_middleware(Guard, limits=limits, token=token, metrics=metrics)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    return refusal_of(error, media_type(request) == ARROW)
