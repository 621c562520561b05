"""Refusals: the status and the line about each kind of wrong request, and about a service that cannot answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from mspipe_triton.errors import DataError
from mspipe_triton.serving.service.web.answers import ARROW, JSON
from mspipe_triton.serving.service.work import BusyError, LogError, StartingError
from tests.serving.service.web.fronts import Client, Predicting, all_bytes, connected, serving, stream_of

PAIR = '{"src":"u1","dst":100'
WRONG = {
    "nothing": ("/score", "", 400, "no JSON"),
    "half a body": ("/score", PAIR, 400, "no JSON"),
    "two values": ("/score", PAIR + "} 7", 400, "trailing"),
    "no UTF-8": ("/score", b'{"src":"\xff"}', 400, "no JSON"),
    "half a surrogate": ("/score", '{"src":"\\ud800","dst":100}', 400, "no JSON"),
    "deep nesting": ("/score", "[" * 3000, 400, "recursion"),
    "many lists": (
        "/score",
        '{"src":[' + "[]," * 5000 + '[]],"dst":100}',
        413,
        "5003 lists and objects; the limit is 3125",
    ),
    "a number of 5,000 digits": ("/score", '{"src":' + "9" * 5000 + ',"dst":100}', 400, "out of range"),
    "no object": ("/score", "[1]", 422, "the body is a list, no object; its fields are probability, new, src, dst, t"),
    "another field": ("/score", PAIR + ',"time":7}', 422, "'time' is unknown; the fields are probability, new, src"),
    "no destination": ("/score", '{"src":"u1"}', 422, "dst is missing; give an id"),
    "true as id": ("/score", '{"src":true,"dst":100}', 422, "src is true; src must be an id"),
    "a fraction as id": ("/score", '{"src":"u1","dst":1.5}', 422, "dst is 1.5; dst must be an id"),
    "an object as id": ("/score", '{"src":{"a":1},"dst":100}', 422, "src is an object"),
    "lists of lists": ("/score", '{"src":[["u1"]],"dst":100}', 422, "src[0] is a list"),
    "null in a list": ("/score", '{"src":["u1",null],"dst":100}', 422, "src[1] is null"),
    "an id of 30 digits": ("/score", '{"src":1,"dst":' + "9" * 30 + "}", 422, "dst is 9999"),
    "no time": ("/score", PAIR + ',"t":NaN}', 400, "no JSON"),
    "a large time": ("/score", PAIR + ',"t":1e400}', 422, "t is inf; t must be a time"),
    "text as flag": ("/score", PAIR + ',"new":"yes"}', 422, "new is 'yes'; new must be true or false"),
    "an earlier time": ("/score", PAIR + ',"t":"2024-01-01"}', 422, "before the first event"),
    "an unknown id": ("/score", '{"src":"u77","dst":100}', 422, "u77"),
    "many fields": ("/score", str({f"f{n}": n for n in range(500)}).replace("'", '"'), 422, "'f0' is unknown"),
    "no top": ("/rank", '{"src":"u1","top":0}', 422, "top is 0; top must be a whole number"),
    "an unknown mode": ("/rank", '{"src":"u1","mode":"fast"}', 422, "mode is 'fast'; mode must be exact or cached"),
    "many to return": ("/rank", '{"src":"u1","top":101}', 413, "above the limit of 100"),
    "many candidates": ("/rank", '{"src":"u1","candidates":[' + "100," * 100 + "100]}", 413, "candidates: 101"),
    "many nodes": ("/embed", '{"nodes":[' + "1," * 100 + "1]}", 413, "nodes: 101"),
    "many pairs": ("/score", '{"src":"u1","dst":[' + "100," * 100 + "100]}", 413, "pairs: 101"),
    "no kind": ("/embed", '{"nodes":["u1"]}', 422, "user or item"),
    "a large body": ("/score", " " * 200_001, 413, "limit of 200000 bytes"),
    "a field in the query": ("/score?new=true", PAIR + "}", 400, "'new'"),
    "another value of late": ("/observe", '{"src":1,"dst":2,"t":3,"late":"keep"}', 422, "late is 'keep'"),
    "lists in columns": ("/observe", '{"src":1,"dst":2,"t":3,"features":{"a":[[1]]}}', 422, "features is an object"),
    "gaps in features": ("/observe", '{"src":1,"dst":2,"t":3,"features":[1,null]}', 422, "features"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_body(case: str, shop_front: Client) -> None:
    path, body, status, text = WRONG[case]
    answer = shop_front.post(path, body)
    assert (answer.status, answer.headers["content-type"]) == (status, JSON)
    assert text in answer.detail
    assert len(answer.detail) < 300


TABLES: dict[str, tuple[str, Callable[[], Any], int, str]] = {
    "nothing": ("/score", lambda: b"", 400, "no valid Arrow IPC stream"),
    "no stream": ("/score", lambda: b"src,dst\n1,2\n", 400, "no valid Arrow IPC stream"),
    "half a stream": ("/score", lambda: stream_of({"src": ["u1"] * 99, "dst": [100] * 99})[:-600], 400, "no valid"),
    "compression": ("/score", lambda: stream_of({"src": ["u1"], "dst": [100]}, compression="zstd"), 400, "compress"),
    "a missing column": ("/score", lambda: {"src": ["u1"]}, 422, "column dst is missing"),
    "another column": ("/score", lambda: {"src": ["u1"], "dst": [100], "x": [1]}, 422, "column 'x' is unknown"),
    "a column twice": ("/score", lambda: pa.table([["u1"], ["u2"]], ["src", "src"]), 422, "'src' appears twice"),
    "booleans": ("/score", lambda: {"src": [True], "dst": [100]}, 422, "src is of type bool"),
    "fractions": ("/score", lambda: {"src": ["u1"], "dst": [1.5]}, 422, "dst is of type double"),
    "structures": ("/score", lambda: {"src": [{"a": 1}], "dst": [100]}, 422, "struct"),
    "a gap": ("/score", lambda: {"src": ["u1", None], "dst": [100, 100]}, 422, "no value in row 1"),
    "no times": ("/score", lambda: {"src": ["u1"], "dst": [100], "t": [True]}, 422, "t is of type bool"),
    "nulls": ("/score", lambda: {"src": pa.nulls(3), "dst": [100] * 3}, 422, "of type null"),
    "an option": ("/score?top=3", lambda: {"src": ["u1"], "dst": [100]}, 422, "'top' is unknown; the fields are prob"),
    "a wrong option": ("/rank?src=u1&top=x", lambda: {"candidates": [100]}, 422, "top is 'x'"),
    "a missing option": ("/rank", lambda: {"candidates": [100]}, 422, "src is missing"),
    "a dictionary that grows": (
        "/score",
        lambda: {
            "src": pa.DictionaryArray.from_arrays(pa.array([0] * 9000, pa.int8()), ["x" * 9000]),
            "dst": [1] * 9000,
        },
        413,
        "takes 81000000 bytes",
    ),
    "views that grow": ("/score", lambda: {"src": views(2000), "dst": [1] * 2000}, 413, "takes 180000000 bytes"),
    "runs that grow": (
        "/score",
        lambda: {"src": pa.RunEndEncodedArray.from_arrays(pa.array([2**20], pa.int32()), [1])},
        422,
        "run_end_encoded",
    ),
    "long metadata": (
        "/score",
        lambda: pa.table({"src": ["u1"]}).replace_schema_metadata({"a" * 50_000: "b" * 100_000}),
        422,
        "dst is missing",
    ),
    "many columns": ("/observe", lambda: {f"c{n}": [True] for n in range(1000)} | {"src": [1]}, 422, "dst is missing"),
}


def views(rows: int) -> pa.Array:
    """A column whose rows all show the same long text."""
    one = pa.array(["x" * 90_000], pa.string_view())
    each = pa.py_buffer(one.buffers()[1].to_pybytes() * rows)
    return pa.Array.from_buffers(pa.string_view(), rows, [None, each, one.buffers()[2]])


@pytest.mark.parametrize("case", TABLES)
def test_a_wrong_table(case: str, shop_front: Client) -> None:
    path, columns, status, text = TABLES[case]
    body = columns()
    answer = (
        shop_front.post(path, body, content_type=ARROW)
        if isinstance(body, bytes)
        else shop_front.post_table(path, body)
    )
    assert (answer.status, answer.headers["content-type"]) == (status, JSON)
    assert text in answer.detail


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/json-seq"])
def test_another_type_of_body(kind: str, shop_front: Client) -> None:
    answer = shop_front.send("POST", "/score", PAIR + "}", content_type=kind)
    assert answer.status == 415
    assert JSON in answer.detail


def test_headers(shop_front: Client) -> None:
    assert shop_front.post("/score", PAIR + "}", content_type="Application/JSON; charset=utf-8").status == 200
    assert shop_front.post("/score", PAIR + "}", content_encoding="gzip").status == 415
    assert shop_front.post("/score", PAIR + "}", content_encoding="identity").status == 200
    for key in ("", "x" * 201, "caf\u00e9", "a\tb"):
        assert shop_front.post("/observe", "{}", idempotency_key=key).status == 400
    assert shop_front.post("/observe", "{}", idempotency_key="x" * 200).status == 422


def test_other_paths_and_methods(shop_front: Client) -> None:
    for path in ("/nope", "/%ff", "/score/", "//", "/health/x"):
        assert shop_front.get(path).status == 404
        assert shop_front.get(path).detail
    assert shop_front.get("/score").status == 405
    assert shop_front.get("/score").headers["allow"] == "POST"
    assert shop_front.post("/status", {}).status == 405
    assert shop_front.get("/score").detail


RAW = {
    "no request": (b"hello\r\n\r\n", b"400"),
    "no version": (b"GET /health\r\n\r\n", b"400"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, b"400"),
    "two lengths": (b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
    "a negative length": (b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", b"400"),
    "a long length": (b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
    "a long head": (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 100_000, b"400"),
    "bytes in headers": (
        b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-type: \xff\xfe\r\naccept: \xff\r\ncontent-length: 2\r\n"
        b"connection: close\r\n\r\n{}",
        b"415",
    ),
    "bytes in a query": (
        b"POST /rank?src=%ff&%00=%ed%a0%80 HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\nconnection: close\r\n\r\n{}",
        b"400",
    ),
    "all options": (b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"404"),
    "an upgrade": (
        b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n",
        b"200",
    ),
    "a broken chunk": (
        b"POST /score HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nhost: a\r\n\r\n"
        b"zz\r\n",
        b"400",
    ),
    "a chunked body": (
        b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
        b'connection: close\r\n\r\n8\r\n{"src":"\r\n10\r\nu1","dst":100 } \r\n0\r\n\r\n',
        b"200",
    ),
}


@pytest.mark.parametrize("case", RAW)
def test_raw_requests(case: str, shop_front: Client) -> None:
    data, status = RAW[case]
    assert all_bytes(connected(shop_front, data)).split(b" ")[1] == status


def test_a_broken_chunk_after_the_answer(shop_front: Client, caplog: pytest.LogCaptureFixture) -> None:
    raw = connected(shop_front, b"POST /nope HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab")
    assert b" 404 " in raw.recv(65_536)
    raw.sendall(b"XXzz\r\n")
    assert b"HTTP" not in all_bytes(raw)
    assert "Traceback" not in caplog.text


def test_a_chunked_body_counts(shop_front: Client) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 10_000

    answer = shop_front.send("POST", "/score", parts(), content_type=JSON)
    assert answer.status == 413
    assert shop_front.post("/score", PAIR + "}").status == 200  # over the same connection


@pytest.mark.parametrize(
    ("error", "status"),
    [(BusyError("the queue is full"), 429), (StartingError("it starts"), 503)],
    ids=["busy", "starts"],
)
def test_work_that_the_service_refuses(error: Exception, status: int, front: Client, backend: Predicting) -> None:
    backend.refusal = error
    for path, body in (("/score", PAIR + "}"), ("/rank", '{"src":"u1"}'), ("/observe", '{"src":1,"dst":2,"t":3}')):
        answer = front.post(path, body)
        assert (answer.status, answer.headers["retry-after"], answer.detail) == (status, "1", str(error))
    backend.refusal = None
    assert front.post("/score", PAIR + "}").status == 200


def test_work_that_fails(front: Client, backend: Predicting, caplog: pytest.LogCaptureFixture) -> None:
    for error, status in ((LogError("the disk is full"), 503), (DataError("two\nlines"), 422), (KeyError("bug"), 500)):
        backend.failure = error
        answer = front.post("/observe", '{"src":1,"dst":2,"t":3}')
        assert answer.status == status
        assert answer.detail in ("the disk is full", "two lines", "the service failed; its output has the reason")
    backend.failure = None
    assert front.post("/score", PAIR + "}").status == 200
    assert "KeyError" in caplog.text


def test_events_from_elsewhere(backend: Predicting) -> None:
    backend.observing = False
    with serving(backend) as front:
        answer = front.post("/observe", "{}")
        assert (answer.status, answer.detail) == (409, "events come from a followed source; add them there")
