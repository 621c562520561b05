"""Documentation of the endpoints for OpenAPI: bodies, answers and refusals with examples."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from mspipe_triton.serving.service.web.answers import ARROW, JSON
from mspipe_triton.serving.service.web.schema import Embed, Form, Observe, Rank, Score
from mspipe_triton.serving.service.work import Observed, Status

SUMMARY = "A trained model that answers questions about events, and takes in new ones."
DESCRIPTION = f"""
Nodes are named by the ids of your events. Times are numbers in the unit of the run's events, or dates.

Bodies are JSON, or Arrow IPC streams (`{ARROW}`), which have lists as columns; their other fields go into the query.
An answer is an Arrow stream if the header `Accept` names it, or if the body is one and `Accept` names nothing.

A refused request has the answer `{{"detail": "…"}}`: a line that says what is wrong and how to fix it. After 429 and
503, send the same request again when the seconds of `Retry-After` have passed.
"""
_FAULTS = {
    400: ("The bytes are no JSON, Arrow stream or key.", "the body is no JSON: EOF while parsing a value"),
    401: ("The token is missing or wrong.", "the token is missing or wrong; send Authorization: Bearer TOKEN"),
    408: ("The body takes too long.", "the body took more than 10 s; send it faster"),
    409: ("Events come from a followed source.", "events come from a followed source; add them there"),
    413: ("The body or the question is too large.", "the body is above the limit of 8388608 bytes; send it in parts"),
    415: ("The body is of another type.", "Content-Type is text/csv; send application/json"),
    422: ("A field does not fit.", "src is true; src must be an id (text, or a whole number of 64 bits)"),
    429: ("There are too many requests, or too much work waits.", "the queue is full; try again later"),
    503: ("The service starts, stops or cannot write its log.", "the service restores its state; try again later"),
}
_POSTED = (400, 401, 408, 413, 415, 422, 429, 503)
_READ = (401, 429)
_NUMBER = {"type": ["number", "null"]}
_ID = {"type": ["string", "integer"]}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _fields(kind: type[Any]) -> dict[str, Any]:
    """Return the schema of a dataclass without its docstring, which is for Python."""
    schema = TypeAdapter(kind).json_schema()
    del schema["description"]
    return schema


class Question(NamedTuple):
    """An endpoint with a body.

    Args:
        form: of its body. example: of a body. columns: of a body in Arrow.
        schema, answer, answer_columns: of the answer, in the same way.
    """

    form: type[Form]
    example: dict[str, Any]
    columns: str
    schema: dict[str, Any]
    answer: dict[str, Any]
    answer_columns: str


QUESTIONS = {
    "/observe": Question(
        Observe,
        {"src": ["u1", "u2"], "dst": [100, 104], "t": ["2026-04-01", "2026-04-02"], "features": {"amount": [5, 7.5]}},
        "src, dst and t, and one per feature, or the lists `features`",
        _fields(Observed),
        {"observed": 2, "dropped": 0, "events": 402, "repeated": False},
        "observed, dropped, events and repeated, in one row",
    ),
    "/score": Question(
        Score,
        {"src": "u1", "dst": [100, 104], "probability": True},
        "src, dst and optionally t",
        _object(scores=_list(_NUMBER)),
        {"scores": [0.75, 0.125]},
        "score",
    ),
    "/rank": Question(
        Rank,
        {"src": "u1", "top": 2},
        "candidates",
        _object(src=_ID, top=_list(_object(dst=_ID, score=_NUMBER))),
        {"src": "u1", "top": [{"dst": 104, "score": 2.5}, {"dst": 100, "score": 1.25}]},
        "dst and score",
    ),
    "/embed": Question(
        Embed,
        {"nodes": ["u1", "u2"], "kind": "user"},
        "node",
        _object(nodes=_list(_ID), embeddings=_list(_list(_NUMBER))),
        {"nodes": ["u1", "u2"], "embeddings": [[0.5, -1.0], [0.25, 0.75]]},
        "node, e0, e1, …",
    ),
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "names the request: if it is sent again with the same key, its events are not taken in twice",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
    "example": "2026-04-01-0017",
}


def operations(status: Status) -> dict[str, dict[str, Any]]:
    """Return the arguments that document the route of each path; `status` is an example."""
    example, schema = asdict(status), _fields(Status)
    latest = [{"src": "u1", "dst": 100, "t": "2026-04-01", "received": 1775044800.0}]
    event = _object(src=_ID, dst=_ID, t={"type": ["string", "number"]}, received={"type": "number"})
    more = {**schema, "properties": schema["properties"] | {"latest": _list(event)}}
    unready = {503: {"description": "Not ready.", "content": {JSON: {"schema": schema, "example": example}}}}
    return {
        **{path: _posted(question) for path, question in QUESTIONS.items()},
        "/health": _read(_object(status={"type": "string"}), {"status": "ok"}, statuses=()),
        "/ready": _read(schema, example, others=unready),
        "/metrics": _read({"type": "string"}, "mspipe_ready 1.0\nmspipe_events 402.0", "text/plain"),
        "/status": _read(more, {**example, "latest": latest}),
        "/": _read({"type": "string"}, "<!doctype html>…", "text/html"),
    }


def _posted(question: Question) -> dict[str, Any]:
    """Document the route of a question."""
    body = question.form.model_json_schema()
    content = {JSON: {"schema": body, "example": question.example}, ARROW: _stream(question.columns)}
    answers = {JSON: {"schema": question.schema, "example": question.answer}, ARROW: _stream(question.answer_columns)}
    options: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": body["properties"][name],
            "description": f"beside an Arrow stream alone: {field.description}",
        }
        for name, field in question.form.options.model_fields.items()
    ]
    observes = question.form is Observe
    return {
        "tags": ["events and questions"],
        "responses": {200: {"description": "The answer.", "content": answers}}
        | _refused(*_POSTED, *((409,) if observes else ())),
        "openapi_extra": {
            "requestBody": {"required": True, "content": content},
            "parameters": [_KEY, *options] if observes else options,
        },
    }


def _read(
    schema: dict[str, Any], example: Any, kind: str = JSON, statuses: tuple[int, ...] = _READ,
    others: dict[int, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Document a route without a body."""
    content = {kind: {"schema": schema, "example": example}}
    answer = {200: {"description": "The answer.", "content": content}}
    return {"tags": ["the service"], "responses": answer | _refused(*statuses) | (others or {})}


def _refused(*statuses: int) -> dict[int, dict[str, Any]]:
    """Return the documentation of refusals."""
    schema = _object(detail={"type": "string"})
    headers = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
    return {
        status: {"description": _FAULTS[status][0]}
        | {"content": {JSON: {"schema": schema, "example": {"detail": _FAULTS[status][1]}}}}
        | ({"headers": headers} if status in (429, 503) else {})
        for status in sorted(statuses)
    }


def secured(document: dict[str, Any], public: str) -> dict[str, Any]:
    """Add the two ways to send a token to a document, for all paths but the public one."""
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}
    document.setdefault("components", {})["securitySchemes"] = schemes
    document["security"] = [{"bearer": []}, {"basic": []}]
    document["paths"][public]["get"]["security"] = []
    return document


def _stream(columns: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary", "description": f"an Arrow IPC stream; columns: {columns}"}}
