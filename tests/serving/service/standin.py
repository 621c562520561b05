"""A stand-in for a service: below each prefix, as in /busy/ or /busy.2/, a service is in the state of that name."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import mspipe_triton
from mspipe_triton.serving.service.work import Status

PAGE = Path(mspipe_triton.__file__).parent / "serving" / "service" / "web" / "page.html"
IMAGE = "<img src=x onerror=console.error('run')>"  # an id, kind or name that would run as markup
BIG = 2**60 + 1  # an id that float64 rounds
DATE = "2026-04-04T02:45:00"
READY = asdict(
    Status(
        ready=True, model="tgn on march", kinds=("buyer", "shop"), events=128_450, nodes=3_204, time=DATE,
        observed=27_450, waiting=2, log_entries=1_310, log_bytes=4_812_345, snapshot=1_200, swaps=3,
    )
)  # fmt: skip
STATES: dict[str, dict[str, Any]] = {
    "busy": READY,
    "following": READY | {"observing": False, "rejected": 3},
    "readonly": READY | {"writable": False},
    "hostile": READY | {"model": IMAGE, "kinds": (IMAGE, "shop"), "time": IMAGE},
    "quiet": READY | asdict(Status(ready=True, model="tgn on march", events=128_450, nodes=3_204, time=DATE)),
    "starting": asdict(Status()),
    "gone": READY,  # answers once
}
CALM = ("quiet", "starting", "gone")  # states without traffic
EDGES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)
# Of each endpoint: the median latency in seconds, and requests per call.
TRAFFIC = {"observe": (0.004, 40), "score": (0.012, 10), "rank": (0.03, 14), "embed": (30.0, 2)}


def status(state: str, call: int) -> dict[str, Any]:
    """The answer of /status at a call: about 80 more events than at the call before, in waves."""
    answer: dict[str, Any] = STATES[state] | {"latest": []}
    if state in CALM:
        return answer
    ids = [(f"buyer-{n * 37 % 211}", f"{('books', 'garden', 'bakery')[n * n % 3]}-{n * 7 % 10}") for n in range(20)]
    if state == "hostile":
        ids[:2] = [(IMAGE, BIG), (BIG, IMAGE)]
    answer["latest"] = [
        {"src": src, "dst": dst, "t": f"2026-04-04T02:{45 - n:02}:00", "received": time.time() - 7 * n}
        for n, (src, dst) in enumerate(ids)
    ]
    answer["events"] += 80 * call + round(500 * math.sin(call / 17) + 9 * math.sin(1.7 * call))
    return answer


def metrics(state: str, call: int) -> str:
    """The answer of /metrics at a call, in Prometheus' text format."""
    lines = ["# HELP mspipe_request_seconds Latency of requests.", "# TYPE mspipe_request_seconds histogram"]
    for endpoint, (median, each) in {} if state in CALM else TRAFFIC.items():
        total, name = each * (call + 100), f'mspipe_request_seconds_bucket{{endpoint="{endpoint}"'
        for edge in EDGES:
            text = "+Inf" if edge == math.inf else str(edge)
            lines.append(f'{name},le="{text}"}} {float(int(total / (1 + (median / edge) ** 3)))}')
        refused = 2 * (call + 100) if endpoint == "observe" else 0
        for code, count in ((200, total - refused), (409, refused // 2), (422, refused // 2)):
            lines.append(f'mspipe_responses_total{{endpoint="{endpoint}",status="{code}"}} {float(count)}')
    return "\n".join([*lines, ""])


def ranking(src: str, top: int) -> dict[str, Any]:
    """The answer of /rank, with scores on both sides of 0."""
    ids = [IMAGE, BIG] if src == IMAGE else []
    ids += [f"{('books', 'garden', 'bakery')[n % 3]}-{n * 7 % 10}" for n in range(30)]
    scores = [3.214 - 0.55 * n - 0.02 * n * n for n in range(top)]
    return {"src": src, "top": [{"dst": each, "score": score} for each, score in zip(ids, scores, strict=False)]}


class StandIn(ThreadingHTTPServer):
    """The server, with the requests that it has received.

    Args:
        pages: further pages, by path.
    """

    daemon_threads = True

    def __init__(self, pages: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.calls = pages, Counter[str]()
        self.requests: list[tuple[str, str, Any]] = []  # method, path and body
        self.hosts: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers to the page's requests."""

    server: StandIn

    def do_GET(self) -> None:
        self.server.requests.append(("GET", self.path, None))
        self.server.hosts.add(self.headers["Host"])
        self.server.calls[self.path] += 1
        prefix, _, name = self.path.removeprefix("/").partition("/")
        state = prefix.partition(".")[0]
        call = self.server.calls[self.path]
        if self.path in self.server.pages:
            self.reply(200, self.server.pages[self.path].encode(), "text/html; charset=utf-8")
        elif name == "" and state in STATES:
            self.reply(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif state == "gone" and call > 1:
            self.close_connection = True
        elif name == "status" and state in STATES:
            answer = status(state, call)
            self.reply(200 if answer["ready"] else 503, json.dumps(answer).encode())
        elif name == "metrics" and state in STATES:
            self.reply(200, metrics(state, call).encode(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self.reply(404, b'{"detail": "there is nothing here"}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(("POST", self.path, body))
        if body["src"] == "nobody":
            self.reply(422, json.dumps({"detail": f"src: buyer 'nobody' is new; {IMAGE}"}).encode())
        else:
            self.reply(200, json.dumps(ranking(body["src"], body["top"])).encode())

    def reply(self, code: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""


@contextmanager
def running(pages: dict[str, str]) -> Iterator[StandIn]:
    """A stand-in that serves while the context lasts."""
    with StandIn(pages) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
