"""Endpoints of a service: a function for each path."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import asdict
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from mspipe_triton.data.ids import is_single
from mspipe_triton.serving.service.web.answers import (
    answer,
    arrow_bytes,
    embeddings_bytes,
    id_column,
    in_arrow,
    json_answer,
    json_bytes,
    numbers,
)
from mspipe_triton.serving.service.web.backend import Backend
from mspipe_triton.serving.service.web.bodies import digest, read_body, read_form, read_key
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.metrics import Metrics
from mspipe_triton.serving.service.web.refusals import RETRY, Refusal
from mspipe_triton.serving.service.web.schema import Embed, Observe, Rank, Score
from mspipe_triton.serving.service.work import Batch, Question, StartingError

LATEST = 20
T = TypeVar("T")
# The page is one file, and nothing that it shows may load or run anything else.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Endpoints:
    """Answers to requests.

    Args:
        service: which has the answers. limits, metrics: see there.
    """

    def __init__(self, service: Backend, limits: Limits, metrics: Metrics) -> None:
        self._service, self._limits, self._metrics = service, limits, metrics
        page = files("mspipe_triton.serving.service.web").joinpath("page.html").read_bytes()
        self._page = HTMLResponse(page, headers={"content-security-policy": _POLICY})

    async def observe(self, request: Request) -> Response:
        """Take in events that happened; the answer says so when they are safe in the log.

        Events are in order of time, and new nodes are taken as they come. A request is taken in whole, or not at all.
        """
        if not self._service.observing:
            raise Refusal(409, "events come from a followed source; add them there")
        key = read_key(request)
        body = await read_body(request, self._limits)
        form = read_form(Observe, body, request, self._limits)
        batch = Batch(form.src, form.dst, form.t, form.features, form.late, key, digest(body, request))
        outcome = await _result(self._service.observe(batch))
        if not outcome.repeated:
            self._metrics.dropped.inc(outcome.dropped)
        fields = asdict(outcome)
        arrow = in_arrow(request, body.arrow)
        columns = {name: [value] for name, value in fields.items()}
        return await answer(1, lambda: arrow_bytes(columns) if arrow else json_bytes(fields), arrow)

    async def score(self, request: Request) -> Response:
        """Score pairs: the higher, the likelier is an event."""
        body = await read_body(request, self._limits)
        form = read_form(Score, body, request, self._limits)
        self._check(pairs=(form.src, form.dst, form.t))
        result = await _result(
            self._service.ask(
                lambda predictor: predictor.score(
                    form.src, form.dst, form.t, probability=form.probability, new=form.new
                )
            )
        )
        scores, arrow = np.atleast_1d(result), in_arrow(request, body.arrow)
        return await answer(
            scores.size,
            lambda: arrow_bytes({"score": scores}) if arrow else json_bytes({"scores": numbers(scores)}),
            arrow,
        )

    async def rank(self, request: Request) -> Response:
        """Rank destinations of a source, the likeliest first."""
        body = await read_body(request, self._limits)
        form = read_form(Rank, body, request, self._limits)
        self._check(candidates=(form.candidates,), top=(form.top,))
        question = Question(form.src, form.t, form.top, form.candidates, form.mode, form.new)
        pairs = await _result(self._service.rank(question))
        ids, scores = [each for each, _ in pairs], np.array([score for _, score in pairs], dtype=np.float64)
        arrow = in_arrow(request, body.arrow)

        def write() -> bytes:
            if arrow:
                return arrow_bytes({"dst": id_column(ids), "score": scores})
            rows = zip(ids, numbers(scores), strict=True)
            return json_bytes({"src": form.src, "top": [{"dst": dst, "score": score} for dst, score in rows]})

        return await answer(len(ids), write, arrow)

    async def embed(self, request: Request) -> Response:
        """Compute embeddings of nodes."""
        body = await read_body(request, self._limits)
        form = read_form(Embed, body, request, self._limits)
        self._check(nodes=(form.nodes,))
        nodes = [form.nodes] if is_single(form.nodes) else form.nodes
        rows = await _result(self._service.ask(lambda predictor: predictor.embed(nodes, form.t, form.kind)))
        arrow = in_arrow(request, body.arrow)
        return await answer(rows.size, lambda: embeddings_bytes(nodes, rows, arrow), arrow)

    async def health(self, request: Request) -> Response:
        """Say that the process lives; no token is needed."""
        return json_answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Return the status: 200 if the service answers questions, otherwise 503."""
        status = self._service.status()
        return json_answer(asdict(status), *((200,) if status.ready else (503, RETRY)))

    async def metrics(self, request: Request) -> Response:
        """Return metrics of the service, of requests and of the process, for Prometheus."""
        return self._metrics.answer()

    async def status(self, request: Request) -> Response:
        """Return the status and the latest events."""
        return json_answer(asdict(self._service.status()) | {"latest": self._service.latest(LATEST)})

    async def page(self, request: Request) -> Response:
        """Return a page for people."""
        return self._page

    def _check(self, **columns: tuple[Any, ...]) -> None:
        """Refuse a question with too many ids.

        Raises:
            Refusal: with their number.
        """
        limit = self._limits.max_ids
        for name, values in columns.items():
            sizes = (each if name == "top" else 1 if is_single(each) else len(each) for each in values)
            if (size := max(sizes)) > limit:
                raise Refusal(413, f"{name}: {size} are above the limit of {limit}; send the question in parts")


async def _result(future: Future[T]) -> T:
    """Wait for the result of work.

    Raises:
        StartingError: the service has cancelled the work, since it stops.
    """
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise StartingError("the service stops; try again later") from None
