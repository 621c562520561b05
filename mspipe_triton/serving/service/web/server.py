"""Server of a service over HTTP."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from mspipe_triton.errors import ConfigError
from mspipe_triton.serving.service.web.app import make_app
from mspipe_triton.serving.service.web.backend import Backend
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.protocol import FrontProtocol

_PATIENCE = 10  # seconds in which answers may end when the server stops
_BACKLOG = 256


class Server:
    """A server that is bound to its port from the start, and takes requests after `run` or `start`.

    Args:
        service: which has the answers. host: name or address of an interface. port: 0 for a free one.
        limits: see `Limits`. token: that clients must send; None for no token.

    Raises:
        ConfigError: the address cannot be used, or the token is empty or not printable ASCII.
    """

    def __init__(
        self, service: Backend, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None,
        token: str | None = None,
    ) -> None:  # fmt: skip
        if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
            raise ConfigError("the token is empty or has blanks or signs beyond ASCII; use letters and digits")
        limits = Limits() if limits is None else limits
        self._socket = _bound(host, port)
        address = self._socket.getsockname()
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{name}:{address[1]}"
        config = uvicorn.Config(
            make_app(service, limits, token),
            http=cast(Any, partial(FrontProtocol, limits)),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            headers=[("x-content-type-options", "nosniff")],
            timeout_graceful_shutdown=_PATIENCE,
        )
        self._server = _Uvicorn(config)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Take requests until a signal to stop, or `stop` in another thread; then end the answers in progress."""
        try:
            self._server.run([self._socket])
        finally:
            self._server.ready.set()  # nobody waits for a start that failed
            self.close()

    def start(self) -> None:
        """Take requests in a thread of its own, and return once it does."""
        self._thread = threading.Thread(target=self.run, name="mspipe-http", daemon=True)
        self._thread.start()
        self._server.ready.wait()

    def stop(self) -> None:
        """Let `run` end the answers in progress, close all connections and return, which a thread of its own does."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Let go of the port of a server that does not run."""
        self._socket.close()


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and returns after a signal, so that the service can end well."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, without raising it again at the end, as uvicorn does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        ConfigError: the address cannot be used.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(f"port must be from 0 to {2**16 - 1}, not {port}; 0 takes a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)  # asyncio sends at once if the protocol is TCP by name
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host {host} cannot be used: {error}; choose another") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError(f"port {port} of {host} cannot be used: {error}; choose another") from error
    return bound
