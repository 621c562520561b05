"""Connections that end if their client is too slow, and that are refused if there are too many."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from mspipe_triton.serving.service.web.answers import json_bytes
from mspipe_triton.serving.service.web.guard import CROWDED
from mspipe_triton.serving.service.web.limits import Limits

_PART = 65_536  # bytes of an answer that a client must take in each period of the time-out
_BUFFER = 262_144  # of the system for each connection: if it has megabytes, it hides for long that a client takes some


class _Flow(FlowControl):
    """Flow that leaves further requests of a client in the system's buffer until the last one is answered."""

    def __init__(self, transport: asyncio.Transport, connection: h11.Connection) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read on, unless a complete request waits for its answer."""
        complete = self._connection.their_state in (h11.DONE, h11.MUST_CLOSE)
        if not complete or self._connection.our_state is h11.DONE:
            super().resume_reading()


class FrontProtocol(H11Protocol):
    """uvicorn's protocol with time limits for the head of a request and for taking an answer.

    A connection beyond the limit is marked as crowded, and its request refused; beyond twice the limit it ends at once.

    Args:
        limits: see `Limits`. others: arguments of uvicorn.
    """

    def __init__(self, limits: Limits, **others: Any) -> None:
        super().__init__(**others)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first head."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.conn)
        transport.set_write_buffer_limits(0)  # so that a pause tells of each byte that a client does not take
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        if len(self.connections) > 2 * self._limits.connections:
            transport.abort()
            return
        if len(self.connections) > self._limits.connections:
            self.app_state = {**self.app_state, CROWDED: True}
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_head()
        self._stop_answer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the time of the next head, if this is its beginning; or of the rest of a body that nobody reads."""
        if self._head_timer is None and self.cycle is not None and self.cycle.response_complete:
            self._await_head()
        super().data_received(data)

    def handle_events(self) -> None:
        """Stop the time of a head that is complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_head()

    def pause_writing(self) -> None:
        """Start the time of an answer that the client has not taken in whole."""
        super().pause_writing()
        self._stop_answer()
        self._await_reader()

    def resume_writing(self) -> None:
        """Stop the time of the answer."""
        super().resume_writing()
        self._stop_answer()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request, unless an answer has begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json_bytes({"detail": "the bytes are no HTTP request; check its head and its length"})
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()
        if self.cycle is not None:  # it may still read the body
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.timeout, self.transport.abort)

    def _await_reader(self) -> None:
        size = self.transport.get_write_buffer_size()
        self._answer_timer = self.loop.call_later(self._limits.timeout, self._check_reader, size)

    def _check_reader(self, before: int) -> None:
        """End the connection if the client took less than a part of its answer since the last check."""
        if self.transport.get_write_buffer_size() > before - _PART:
            self.transport.abort()
        else:
            self._await_reader()

    def _stop_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_answer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
