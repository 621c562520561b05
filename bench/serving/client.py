"""Clients over HTTP that cost little, as coroutines of one process: connections, and a load of events and rankings."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.predictor.__main__ import Events

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
_LINE = b"\r\n"
_FAULTS_EVERY = 20  # requests of a client
_CLIENT_FAULTS = range(400, 500)


class Connection:
    """A connection that is kept open, and opened again if it was lost.

    Args:
        port: of 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, path: str, body: bytes, kind: str = JSON, head: str = "") -> tuple[int, bytes]:
        """Send a request, and return the status and the content of its answer.

        Args:
            head: further lines of the head, each with its line feed.

        Raises:
            ConnectionError: it failed before there was an answer.
        """
        text = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
            reader, writer = self._streams
            writer.write(text.encode() + body)
            lines = (await reader.readuntil(_LINE + _LINE)).lower()
            content = await reader.readexactly(int(lines.partition(b"content-length:")[2].partition(_LINE)[0]))
        except (OSError, EOFError) as error:
            self.close()
            raise ConnectionError(str(error)) from error
        if b"connection: close" in lines:
            self.close()
        return int(lines[9:12]), content

    async def ask(self, path: str, fields: dict[str, Any], head: str = "") -> tuple[int, Any]:
        """Send fields in JSON, and return the status and the fields of the answer; raises as `send`."""
        status, content = await self.send(path, json.dumps(fields).encode(), head=head)
        return status, json.loads(content)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Continuation:
    """Events after a stream's last one: pairs of its last events again, each at a time of its own.

    Args:
        events: of the stream. count: of its last events.
    """

    def __init__(self, events: Events, count: int) -> None:
        self._pairs = list(zip(events.src[-count:], events.dst[-count:], strict=True))
        self._last, self._numbers = int(events.t[-1]), itertools.count(1)

    def next(self) -> tuple[Any, Any, int]:
        """Return source, destination and time of the next event."""
        number = next(self._numbers)
        return *self._pairs[number % len(self._pairs)], self._last + number

    def source(self, number: int) -> Any:
        """Return the source of an event."""
        return self._pairs[number % len(self._pairs)][0]


class Fault(NamedTuple):
    """A request that must be refused: path, body, media type, further lines of the head."""

    path: str
    body: bytes
    kind: str = JSON
    head: str = ""


FAULTS = [
    Fault("/observe", b'{"src": 1, "dst":'),
    Fault("/observe", b'{"src": 1, "dst": 2, "t": 1}'),  # late
    Fault("/observe", b'{"src": {"id": 1}, "dst": 2, "t": 1}'),
    Fault("/observe", b'{"src": 1, "dst": 2, "t": "soon"}'),
    Fault("/observe", b'{"src": 1, "dst": 2, "t": 1}', "text/plain"),
    Fault("/observe", b'{"src": 1, "dst": 2, "t": 1}', head=f"Idempotency-Key: {'k' * 300}\r\n"),
    Fault("/observe", b"no stream", ARROW),
    Fault("/observe", b" " * 2**16),  # no JSON
    Fault("/rank", b'{"src": "nobody at all"}'),
    Fault("/rank", b'{"src": 1, "top": -1}'),
    Fault("/score", b'{"src": [1], "dst": null}'),
    Fault("/embed", b'{"nodes": [1.5]}'),
    Fault("/nowhere", b"{}"),
]  # fmt: skip


class Load:
    """Clients that observe events at a rate, and in between rank, and send requests with faults.

    An event that is not acknowledged is sent again with its key, to the server of that moment; a late one gets a newer
    time, since several clients share a clock.

    Args:
        continuation: of the stream. clients: number of them. rate: events per second of all together.
        mode: of rankings; "" for none, and no faults.
    """

    def __init__(self, continuation: Continuation, clients: int, rate: float, mode: str) -> None:
        self.port, self.late = 0, 0
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []  # answers to faults that are no refusal
        self.acknowledged: dict[str, tuple[Any, Any, int]] = {}
        self._continuation, self._clients, self._pause, self._mode = continuation, clients, clients / rate, mode
        self._stopping = False

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run while `work` runs in a thread, until all events are acknowledged, and return its outcome."""
        clients = [asyncio.create_task(self._client(number)) for number in range(self._clients)]
        try:
            return await asyncio.to_thread(work)
        finally:
            self._stopping = True
            await asyncio.gather(*clients)

    async def _client(self, number: int) -> None:
        connection, port = Connection(0), 0
        due, event = time.perf_counter() + self._pause * number / self._clients, None
        for turn in itertools.count():
            if self._stopping and event is None:
                break
            if not self.port:
                await asyncio.sleep(0.01)
                continue
            if self.port != port:
                connection.close()
                connection, port = Connection(self.port), self.port
            if event is None and time.perf_counter() >= due:
                due, key, event = due + self._pause, f"{number}-{turn}", self._continuation.next()
            try:
                if event is not None:
                    event = await self._observe(connection, key, event)
                elif not self._mode:
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                elif turn % _FAULTS_EVERY:
                    fields = {"src": self._continuation.source(number + turn), "mode": self._mode}
                    await self._timed("rank", connection.ask("/rank", fields))
                else:
                    await self._fail(connection, FAULTS[(number + turn // _FAULTS_EVERY) % len(FAULTS)])
            except ConnectionError:
                await asyncio.sleep(0.01)
        connection.close()

    async def _observe(
        self, connection: Connection, key: str, event: tuple[Any, Any, int]
    ) -> tuple[Any, Any, int] | None:
        """Send an event, and return it if it must be sent again."""
        src, dst, t = event
        fields, head = {"src": src, "dst": dst, "t": t}, f"Idempotency-Key: {key}\r\n"
        status, answer = await self._timed("observe", connection.ask("/observe", fields, head))
        if status == 200:
            self.acknowledged[key] = event
            return None
        if status == 422 and "is late" in answer["detail"]:
            self.late += 1
            return src, dst, self._continuation.next()[2]
        await asyncio.sleep(0.01)
        return event

    async def _fail(self, connection: Connection, fault: Fault) -> None:
        status, _ = await self._timed("fault", connection.send(*fault))
        if status not in _CLIENT_FAULTS:
            self.wrong.append(f"{fault.path} {fault.body[:40]!r}: {status}")

    async def _timed(self, name: str, request: Any) -> tuple[int, Any]:
        """Wait for an answer, and note its status and seconds."""
        start = time.perf_counter()
        status, answer = await request
        self.seconds[name].append(time.perf_counter() - start)
        self.answers[f"{name} {status}"] += 1
        return status, answer
