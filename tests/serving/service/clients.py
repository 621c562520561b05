"""Clients of a service over HTTP: threads that observe, ask and send requests with faults, and what they were told."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.serving.service.process import sleep_until

APRIL = datetime(2024, 4, 1)
TOKEN = "a-token"
LARGEST = 20_000  # bytes of a body
_JSON = "application/json"
_ARROW = "application/vnd.apache.arrow.stream"
Event = tuple[str, int, int]


class Client:
    """A connection that is kept open, and opened again if it was lost."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Send a request, and return the status and the content of its answer.

        Raises:
            OSError: the connection failed before there was an answer.
        """
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, path, body, names)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ConnectionError(str(error)) from error
        is_json = answer.headers.get("content-type") == _JSON
        return answer.status, json.loads(content) if is_json else content

    def ask(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> tuple[int, Any]:
        """Send fields in JSON, with the token; or get a page if there are none."""
        headers = {"authorization": f"Bearer {TOKEN}", **headers}
        if fields is None:
            return self.send("GET", path, **headers)
        return self.send("POST", path, json.dumps(fields).encode(), content_type=_JSON, **headers)

    def close(self) -> None:
        self._connection.close()


def purchase(event: Event) -> dict[str, Any]:
    """Fields of an event whose time is so many seconds after April begins."""
    src, dst, seconds = event
    when = (APRIL + timedelta(seconds=seconds)).isoformat()
    return {"src": src, "dst": dst, "t": when, "features": {"amount": seconds % 9 + 0.5, "channel": "web"}}


class Fault(NamedTuple):
    """A request that must be refused, with the status that does so."""

    status: int
    path: str
    body: Any
    method: str = "POST"
    headers: dict[str, str] = {}  # noqa: RUF012 - a tuple's default that nobody changes


_GOOD = purchase(("u1", 100, 10**6))
FAULTS = [
    Fault(400, "/observe", b'{"src": "u1", "dst":'),
    Fault(400, "/rank", b"\xff\xfe\x00"),
    Fault(400, "/rank", b'{"src": "u1", "t": NaN}'),
    Fault(400, "/score", b"ARROW1\0\0 but no stream", headers={"content_type": _ARROW}),
    Fault(400, "/observe", _GOOD, headers={"idempotency_key": "k" * 201}),
    Fault(401, "/observe", _GOOD, headers={"authorization": "Bearer another"}),
    Fault(401, "/status", None, "GET", {"authorization": "Basic !!"}),
    Fault(404, "/nowhere", {}),
    Fault(405, "/observe", None, "GET"),
    Fault(413, "/observe", {"src": "u" * LARGEST}),
    Fault(413, "/embed", {"nodes": ["u1"] * 101}),
    Fault(415, "/rank", b"src=u1", headers={"content_type": "application/x-www-form-urlencoded"}),
    Fault(415, "/rank", {"src": "u1"}, headers={"content_encoding": "gzip"}),
    Fault(422, "/observe", _GOOD | {"src": None}),
    Fault(422, "/observe", _GOOD | {"dst": {"id": 100}}),
    Fault(422, "/observe", _GOOD | {"dst": "x"}),
    Fault(422, "/observe", _GOOD | {"t": "no date"}),
    Fault(422, "/observe", _GOOD | {"t": "2020-01-01"}),
    Fault(422, "/observe", _GOOD | {"features": [1, 2, 3]}),
    Fault(422, "/observe", _GOOD | {"features": {"amount": "much", "channel": "web"}}),
    Fault(422, "/observe", _GOOD | {"src": ["u1", "u2"]}),
    Fault(422, "/observe", _GOOD | {"srcs": "u1"}),
    Fault(422, "/observe", [1, 2]),
    Fault(422, "/rank", {"src": "nobody"}),
    Fault(422, "/rank", {"src": "u1", "top": 0}),
    Fault(422, "/rank", {"src": "u1", "mode": "quick"}),
    Fault(422, "/score", {"src": ["u1", "u2"], "dst": [100, 101, 102]}),
]  # fmt: skip


def send_fault(client: Client, fault: Fault) -> int:
    """Send a request with a fault, and return the status of its answer."""
    body = fault.body if fault.body is None or isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
    headers = {"authorization": f"Bearer {TOKEN}", "content_type": _JSON} | fault.headers
    return client.send(fault.method, fault.path, body, **headers)[0]


class Clients:
    """Threads that observe events at a rate, and in between ask and send requests with faults.

    An event is sent again, with its key, until it is acknowledged, to the server that `url` names then; one that is
    late gets a newer time, which others have, too: a clock gives each time once.

    Args:
        url: of the server, "" if it has yet to start. count: of threads. rate: events per second of all together.
        asks: they rank as well.
    """

    def __init__(self, url: str, count: int, rate: float, asks: bool = True) -> None:
        self.url, self.answers = url, Counter[tuple[str, int]]()
        self.acknowledged: dict[str, Event] = {}
        self.pending: dict[str, Event] = {}  # that were sent without an answer
        self.failures: list[BaseException] = []
        self._pause, self._asks = count / rate, asks
        self._stopping, self._gone = threading.Event(), threading.Event()
        self._clock, self._lock = itertools.count(1), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self, gone: bool = False) -> None:
        """Stop after the requests that are in progress.

        Args:
            gone: the server has ended, so that events without an answer stay so; otherwise they get one first.
        """
        self._stopping.set()
        if gone:
            self._gone.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert not self.failures, self.failures

    def _run(self, number: int) -> None:
        try:
            self._observe_and_ask(number)
        except BaseException as error:
            self.failures.append(error)

    def _observe_and_ask(self, number: int) -> None:
        url, client, due = "", Client("http://127.0.0.1"), time.monotonic() + number * self._pause / 10
        pending: tuple[str, Event] | None = None
        for turn in itertools.count():
            if self._gone.is_set() or (self._stopping.is_set() and pending is None):
                break
            if not self.url:
                self._gone.wait(0.02)
                continue
            if url != self.url:
                url, client = self.url, Client(self.url)
            if pending is None and time.monotonic() >= due:
                due = max(due + self._pause, time.monotonic() - 1)
                pending = f"{number}-{turn}", self._event(number)
            try:
                if pending is not None:
                    pending = self._observe(client, *pending)
                elif self._asks:
                    self._ask(client, number, turn)
                else:
                    sleep_until(due)
            except ConnectionError:
                self._gone.wait(0.02)
        client.close()
        if pending is not None:
            self.pending[pending[0]] = pending[1]

    def _ask(self, client: Client, number: int, turn: int) -> None:
        """Rank, or send a request with a fault in every fourth turn."""
        if turn % 4:
            mode = ("exact", "cached")[turn % 2]
            self._note("rank", client.ask("/rank", {"src": f"u{turn % 20}", "mode": mode})[0])
        else:
            fault = FAULTS[(number + turn // 4) % len(FAULTS)]
            status = send_fault(client, fault)
            self._note("fault", status)
            assert status in (fault.status, 503), (fault, status)

    def _event(self, number: int) -> Event:
        with self._lock:
            seconds = next(self._clock)
        return f"u{number}", 100 + seconds % 20, seconds

    def _observe(self, client: Client, key: str, event: Event) -> tuple[str, Event] | None:
        """Send an event, and return it if it must be sent again."""
        status, answer = client.ask("/observe", purchase(event), idempotency_key=key)
        self._note("observe", status)
        if status == 200:
            assert (answer["observed"], answer["dropped"]) == (1, 0)
            self.acknowledged[key] = event
            return None
        if status == 422:
            assert "is late" in answer["detail"], answer
            return key, self._event(int(event[0][1:]))
        assert status in (429, 503), answer
        time.sleep(0.02)
        return key, event

    def _note(self, kind: str, status: int) -> None:
        with self._lock:
            self.answers[kind, status] += 1


def check_events(clients: Clients, logged: Sequence[tuple[Any, ...]]) -> None:
    """Check that a log has each acknowledged event once, and no other, but for those without an answer.

    Args:
        logged: key, src, dst and t of each event in the log.
    """
    start = int((APRIL - datetime(1970, 1, 1)).total_seconds())
    events = {key: (src, dst, t - start) for key, src, dst, t in logged}
    assert len(events) == len(logged), "an event is there twice"
    assert clients.acknowledged.items() <= events.items(), "an acknowledged event is lost"
    assert events.items() <= clients.acknowledged.items() | clients.pending.items()
