"""Guard: tokens, rates and numbers of connections."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from mspipe_triton.errors import ConfigError
from mspipe_triton.serving.service.web.guard import Buckets
from mspipe_triton.serving.service.web.limits import Limits
from tests.serving.service.web.fronts import Client, Predicting, all_bytes, connected, serving

TOKEN = "s3cret:Token+/="


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_a_token_is_needed_everywhere_but_for_health(backend: Predicting) -> None:
    with serving(backend, TOKEN) as front:
        assert front.get("/health").status == 200
        for path in ("/", "/docs", "/openapi.json", "/metrics", "/status", "/ready", "/nope", "/static-offline-docs/x"):
            answer = front.get(path)
            assert answer.status == 401
            assert answer.detail
            schemes = [each.split()[0] for each in answer.headers.get_all("www-authenticate")]
            assert schemes == ["Bearer", "Basic"]
            assert front.get(path, authorization=f"Bearer {TOKEN}").status in (200, 404)
        assert front.post("/health", "{}").status == 401
        assert front.post("/score", "{}").status == 401
        assert front.post("/score", "{}", authorization=f"bearer  {TOKEN}").status == 422
        assert front.get("/status", authorization=basic(f"anyone:{TOKEN}")).status == 200


WRONG = ("Bearer", "Bearer x", f"Bearer {TOKEN}x", TOKEN, f"Token {TOKEN}", "Basic !", "Basic \xff", "Bearer \xff")


@pytest.mark.parametrize("value", [*WRONG, basic(TOKEN), basic("a:"), basic(f"{TOKEN}:")], ids=range(11))
def test_a_wrong_token(value: str, token_front: Client) -> None:
    assert token_front.get("/status", authorization=value).status == 401


@pytest.fixture(scope="module")
def token_front(shop_backend: Predicting) -> Iterator[Client]:
    with serving(shop_backend, TOKEN) as client:
        yield client


def test_a_refused_body_is_not_read(token_front: Client) -> None:
    head = b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n"
    raw = connected(token_front, head + b"expect: 100-continue\r\n\r\n")
    assert raw.recv(65_536).startswith(b"HTTP/1.1 401")
    raw.close()


def test_a_rate_of_requests(backend: Predicting) -> None:
    with serving(backend, rate=3) as front:
        statuses = [front.get("/status").status for _ in range(6)]
        assert statuses[:3] == [200] * 3
        assert statuses[-1] == 429
        answer = front.get("/status")
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert "3 requests per second" in answer.detail
        assert front.get("/health").status == 200


def test_buckets() -> None:
    buckets = Buckets(0.5)
    assert buckets.wait("a", 0.0) == 0
    assert buckets.wait("a", 1.0) == pytest.approx(1.0)
    assert buckets.wait("b", 1.0) == 0
    assert buckets.wait("a", 2.0) == 0
    for number in range(70_000):
        buckets.wait(str(number), 3.0)
    assert len(buckets._buckets) == 65_536


def test_too_many_connections(backend: Predicting) -> None:
    with serving(backend, connections=2) as front:
        request = b"GET /status HTTP/1.1\r\nhost: a\r\n\r\n"
        first = [connected(front, request) for _ in range(2)]
        assert all(each.recv(65_536).startswith(b"HTTP/1.1 200") for each in first)
        crowded = all_bytes(connected(front, request))
        assert crowded.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1" in crowded
        assert (
            connected(front, b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .recv(99)
            .startswith(b"HTTP/1.1 200")
        )
        idle = [connected(front) for _ in range(2)]
        assert all_bytes(connected(front, request)) == b""
        for each in (*first, *idle):
            each.close()
        assert front.get("/status").status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_body", 0),
        ("max_body", 1.5),
        ("max_ids", 0),
        ("rate", -1),
        ("rate", float("inf")),
        ("rate", float("nan")),
        ("timeout", 0),
        ("timeout", float("nan")),
        ("connections", 0),
    ],
)
def test_limits_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name.replace("_", "-")):
        Limits(**{name: value})
