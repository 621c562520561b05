"""Slow clients: heads and bodies that do not end, and answers that nobody takes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.serving.service.web.fronts import Client, Predicting, all_bytes, connected, serving

TIMEOUT = 0.3
HEAD = b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(scope="module")
def slow_front(shop_backend: Predicting) -> Iterator[Client]:
    with serving(shop_backend, timeout=TIMEOUT) as client:
        yield client


def drip(raw: socket.socket, data: bytes) -> float:
    """Send a byte from time to time until the connection ends; the seconds until then."""
    start = time.perf_counter()
    raw.settimeout(TIMEOUT / 10)
    for each in data[:100]:
        try:
            raw.sendall(bytes([each]))
            if not raw.recv(1):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    raw.close()
    return time.perf_counter() - start


def test_a_slow_head(slow_front: Client) -> None:
    assert TIMEOUT * 0.8 < drip(connected(slow_front), HEAD) < 5 * TIMEOUT


def test_no_head(slow_front: Client) -> None:
    start = time.perf_counter()
    assert all_bytes(connected(slow_front)) == b""
    assert TIMEOUT * 0.8 < time.perf_counter() - start < 5 * TIMEOUT


def test_a_slow_second_head(slow_front: Client) -> None:
    raw = connected(slow_front)
    for _ in range(2):
        raw.sendall(HEALTH)
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += raw.recv(65_536)
        time.sleep(TIMEOUT * 1.5)  # an idle connection stays
    assert TIMEOUT * 0.8 < drip(raw, HEAD) < 5 * TIMEOUT


def test_a_slow_body(slow_front: Client) -> None:
    answer = all_bytes(connected(slow_front, HEAD + b"content-length: 100\r\n\r\n{"))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"0.3 s; send it faster" in answer
    answer = all_bytes(connected(slow_front, HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"))
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_slow_body_that_nobody_reads(slow_front: Client) -> None:
    raw = connected(slow_front, b"POST /nope HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
    assert raw.recv(65_536).startswith(b"HTTP/1.1 404")
    assert TIMEOUT * 0.8 < drip(raw, b"x" * 100) < 5 * TIMEOUT


def test_half_a_body(slow_front: Client) -> None:
    raw = connected(slow_front, HEAD + b"content-length: 100\r\n\r\n{")
    raw.shutdown(socket.SHUT_WR)
    assert all_bytes(raw)[9:12] in (b"", b"400", b"408")
    assert slow_front.get("/health").status == 200


def narrow(client: Client) -> socket.socket:
    """A connection with little room for answers."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    raw.settimeout(10)
    raw.connect(("127.0.0.1", client.port))
    return raw


def embed(nodes: int) -> bytes:
    """A request for embeddings."""
    body = b'{"kind":"user","nodes":[%s]}' % b",".join([b'"u1"'] * nodes)
    return HEAD.replace(b"score", b"embed") + b"content-length: %d\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize("nodes", [100, 9000])
def test_an_answer_that_nobody_takes(nodes: int, slow_front: Client) -> None:
    raw, start, request = narrow(slow_front), time.perf_counter(), embed(nodes)
    many = request * (10**8 // len(request))  # more than the buffers hold, which the server must not read
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        raw.sendall(many)
    assert time.perf_counter() - start > TIMEOUT * 0.8
    raw.close()
    assert slow_front.get("/health").status == 200


def test_a_reader_that_is_slow_but_takes_its_answer(slow_front: Client) -> None:
    raw, count = narrow(slow_front), 3
    sender = threading.Thread(target=raw.sendall, args=(embed(9000) * count,))
    sender.start()
    ends, start = 0, time.perf_counter()
    while ends < count:
        part = raw.recv(65_536)
        assert part
        ends += part.count(b"}")
        time.sleep(0.01)
    assert time.perf_counter() - start > 3 * TIMEOUT
    sender.join()
    raw.close()
