"""Front of a service for tests: a predictor behind one thread, the server, and a client."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from mspipe_triton import Predictor
from mspipe_triton.serving.service.web.answers import ARROW, JSON
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.server import Server
from mspipe_triton.serving.service.work import Batch, KeyReusedError, Observed, Question, Status

T = TypeVar("T")


class Predicting:
    """A service without a log: a predictor behind a thread.

    Args:
        refusal: raised by the next submissions, until it is None. failure: ends the next futures, until it is None.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.observing = predictor, True
        self.refusal: Exception | None = None
        self.failure: Exception | None = None
        self.batches: list[Batch] = []
        self.state = {"ready": True, "writable": True}
        self._pool = ThreadPoolExecutor(1)
        self._keys: dict[str, tuple[bytes, Observed]] = {}

    def observe(self, batch: Batch) -> Future[Observed]:
        return self._submit(lambda: self._observe(batch))

    def rank(self, question: Question) -> Future[list[tuple[Any, float]]]:
        one = question
        return self._submit(
            lambda: self.predictor.rank(one.src, one.t, one.top, one.candidates, mode=one.mode, new=one.new)
        )

    def ask(self, call: Callable[[Predictor], T]) -> Future[T]:
        return self._submit(lambda: call(self.predictor))

    def status(self) -> Status:
        return Status(model="tgn on shop", nodes=self.predictor.num_nodes, events=len(self.predictor), **self.state)

    def latest(self, count: int) -> list[dict[str, Any]]:
        events = [{"src": each.src, "dst": each.dst, "t": each.t, "received": 0.5} for each in self.batches]
        return events[::-1][:count]

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        if self.refusal is not None:
            raise self.refusal

        def run() -> T:
            if self.failure is not None:
                raise self.failure
            return call()

        return self._pool.submit(run)

    def _observe(self, batch: Batch) -> Observed:
        if batch.key in self._keys:
            digest, outcome = self._keys[batch.key]
            if digest != batch.digest:
                raise KeyReusedError("the key names another request")
            return Observed(outcome.observed, outcome.dropped, outcome.events, True)
        before = len(self.predictor)
        count = self.predictor.observe(batch.src, batch.dst, batch.t, batch.features, late=batch.late)
        single = isinstance(batch.src, str | int)
        outcome = Observed(count, (1 if single else len(batch.src)) - count, before + count)
        if batch.key is not None:
            self._keys[batch.key] = (batch.digest, outcome)
        self.batches.append(batch)
        return outcome


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP."""

    status: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def table(self) -> pa.Table:
        assert self.headers["content-type"] == ARROW
        return pa.ipc.open_stream(self.data).read_all()

    @property
    def detail(self) -> str:
        """The line of a refusal."""
        assert list(self.json) == ["detail"]
        line: str = self.json["detail"]
        assert line
        assert "\n" not in line
        return line


class Client:
    """A client with one connection."""

    def __init__(self, url: str, **headers: str) -> None:
        self.port = int(url.rpartition(":")[2])
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        self._headers, self._last = headers, 0.0

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request; `_` in names of headers is `-`. The server may have closed a connection that was idle."""
        if time.monotonic() - self._last > 2:
            self._connection.close()
        pairs = {name.replace("_", "-"): value for name, value in (self._headers | headers).items()}
        try:
            self._connection.request(method, path, body, pairs)
            answer = self._connection.getresponse()
            data = answer.read()
            self._last = time.monotonic()
            return Answer(answer.status, answer.msg, data)
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        """Post JSON: text or bytes as they are, and other values in their JSON."""
        data = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.send("POST", path, data, **{"content_type": JSON} | headers)

    def post_table(self, path: str, columns: Any, **headers: str) -> Answer:
        """Post a table as an Arrow stream."""
        return self.send("POST", path, stream_of(columns), **{"content_type": ARROW} | headers)

    def close(self) -> None:
        self._connection.close()


def stream_of(columns: Any, **options: Any) -> bytes:
    """An Arrow IPC stream of a table, or of columns by name."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


@contextmanager
def serving(backend: Predicting, token: str | None = None, **limits: Any) -> Iterator[Client]:
    """Serve a backend, and yield a client."""
    server = Server(backend, port=0, limits=Limits(**limits), token=token)
    server.start()
    client = Client(server.url)
    try:
        yield client
    finally:
        client.close()
        server.stop()


def connected(client: Client, data: bytes = b"") -> socket.socket:
    """A raw connection to the client's server, over which bytes have gone."""
    raw = socket.create_connection(("127.0.0.1", client.port), timeout=10)
    raw.sendall(data)
    return raw


def all_bytes(raw: socket.socket) -> bytes:
    """Bytes from a connection until its end."""
    parts = []
    try:
        while part := raw.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    raw.close()
    return b"".join(parts)
