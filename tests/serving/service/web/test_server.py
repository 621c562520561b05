"""Server: its address, its end, and its documentation and metrics."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from typing import Any

import pytest

from mspipe_triton.errors import ConfigError
from mspipe_triton.serving.service.web.documents import QUESTIONS
from mspipe_triton.serving.service.web.server import Server
from tests.serving.service.web.fronts import Client, Predicting, connected, serving


def test_a_port_that_is_in_use(shop_backend: Predicting, shop_front: Client) -> None:
    with pytest.raises(ConfigError, match=rf"port {shop_front.port} of 127\.0\.0\.1 cannot be used"):
        Server(shop_backend, port=shop_front.port)
    with pytest.raises(ConfigError, match=r"host no\.such\.host\.invalid cannot be used"):
        Server(shop_backend, host="no.such.host.invalid")
    with pytest.raises(ConfigError, match="port must be from 0 to 65535, not 70000"):
        Server(shop_backend, port=70_000)
    for token in ("", "a b", "caf\u00e9"):
        with pytest.raises(ConfigError, match="the token is empty"):
            Server(shop_backend, port=0, token=token)


def test_answers_end_before_the_server_does(backend: Predicting) -> None:
    server = Server(backend, port=0)
    server.start()
    client = Client(server.url)
    gate = threading.Event()
    backend._pool.submit(gate.wait, 10)
    answers: list[Any] = []
    asks = threading.Thread(target=lambda: answers.append(client.post("/rank", {"src": "u1"})))
    asks.start()
    while backend._pool._work_queue.qsize() == 0:
        time.sleep(0.01)
    stops = threading.Thread(target=server.stop)
    stops.start()
    time.sleep(0.3)
    assert stops.is_alive()
    gate.set()
    for thread in (asks, stops):
        thread.join(10)
        assert not thread.is_alive()
    assert answers[0].status == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", client.port), timeout=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_alone(number: signal.Signals, backend: Predicting) -> None:
    server = Server(backend, port=0)
    before = signal.getsignal(number)
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident, number))
    timer.start()
    server.run()  # and returns, so that the service can save its state
    timer.join()
    assert signal.getsignal(number) is before


def test_addresses(backend: Predicting) -> None:
    server = Server(backend, host="localhost", port=0)
    assert re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):\d+", server.url)
    server.stop()


def test_the_documentation_is_complete_and_needs_no_network(shop_front: Client) -> None:
    document = shop_front.get("/openapi.json").json
    paths = document["paths"]
    assert set(paths) == {*QUESTIONS, "/health", "/ready", "/metrics", "/status", "/"}
    for path, methods in paths.items():
        operation = next(iter(methods.values()))
        content = operation["responses"]["200"]["content"]
        assert all("example" in each or "binary" in str(each) for each in content.values()), path
        assert operation["description"]
        if path != "/health":
            assert {"401", "429"} <= set(operation["responses"])
        if path in QUESTIONS:
            assert {"400", "408", "413", "415", "422", "503"} <= set(operation["responses"])
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            assert all("description" in each for each in schema["properties"].values())
    assert "409" in paths["/observe"]["post"]["responses"]
    page = shop_front.get("/docs").data.decode()
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/static-offline-docs/")
        assert shop_front.get(link).status == 200


@pytest.mark.parametrize("path", QUESTIONS)
def test_examples_of_the_documentation_work(path: str, front: Client) -> None:
    example = dict(QUESTIONS[path].example)
    if path == "/observe":
        example["features"] = example["features"] | {"channel": ["web", "app"]}
    answer = front.post(path, example)
    assert answer.status == 200, answer.data
    assert answer.json.keys() == QUESTIONS[path].answer.keys()


def test_a_token_is_in_the_documentation(backend: Predicting) -> None:
    with serving(backend, "abc") as front:
        document = front.get("/openapi.json", authorization="Bearer abc").json
    assert set(document["components"]["securitySchemes"]) == {"bearer", "basic"}
    assert document["security"] == [{"bearer": []}, {"basic": []}]
    assert document["paths"]["/health"]["get"]["security"] == []


def test_heads_of_pages(front: Client) -> None:
    for path in ("/health", "/ready", "/status", "/metrics", "/"):
        answer = front.send("HEAD", path)
        assert (answer.status, answer.data) == (200, b""), path
    assert front.send("HEAD", "/score").status == 405


def test_metrics(front: Client, backend: Predicting) -> None:
    features = {"amount": [1, 2], "channel": ["web", "app"]}
    events = {"src": ["u1", "u2"], "dst": [100, 101], "t": ["2024-04-02", "2024-04-01"], "features": features}
    for key in ("a", "a"):
        assert front.post("/observe", events | {"late": "drop"}, idempotency_key=key).json["dropped"] == 1
    front.get("/nope")
    front.get("/nope2")
    backend.state = {"ready": True, "writable": False, "observed": 7, "log_bytes": 512}
    answer = front.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    values = dict(line.rsplit(" ", 1) for line in answer.data.decode().splitlines() if not line.startswith("#"))
    assert float(values['mspipe_responses_total{endpoint="observe",status="200"}']) == 2
    assert float(values['mspipe_responses_total{endpoint="other",status="404"}']) == 2
    assert float(values['mspipe_request_seconds_count{endpoint="observe"}']) == 2
    assert float(values['mspipe_request_seconds_bucket{endpoint="observe",le="10.0"}']) == 2
    numbers = {"dropped_events_total": 1, "observed_events_total": 7, "nodes": 24, "events": 401, "ready": 1}
    numbers |= {"writable": 0, "log_bytes": 512, "log_entries": 0, "waiting": 0, "swaps_total": 0}
    numbers |= {"rejected_lines_total": 0, "snapshot_entry": 0}
    assert {name: float(values[f"mspipe_{name}"]) for name in numbers} == numbers
    assert float(values["mspipe_process_resident_memory_bytes"]) > 1e6
    assert float(values["mspipe_process_cpu_seconds_total"]) > 0
    assert all(name.startswith("mspipe_") for name in values)


def test_refusals_before_the_application_count(backend: Predicting) -> None:
    with serving(backend, "abc") as front:
        assert front.get("/status").status == 401
        text = front.get("/metrics", authorization="Bearer abc").data.decode()
        assert 'mspipe_responses_total{endpoint="status",status="401"} 1.0' in text
        raw = connected(front, b"POST /score HTTP/1.1\r\nhost: a\r\nauthorization: Bearer abc\r\n\r\n")
        assert raw.recv(99).startswith(b"HTTP/1.1 415")
        raw.close()
