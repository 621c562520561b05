"""Running of a service: its parts from a run folder and settings, until a signal or a failure ends it."""

from __future__ import annotations

import gc
import ipaddress
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from mspipe_triton.errors import ConfigError
from mspipe_triton.serving.service.engine import Service
from mspipe_triton.serving.service.follow import Follower
from mspipe_triton.serving.service.retrainer import Retraining
from mspipe_triton.serving.service.settings import STANDARD_INPUT, Every, ServiceSettings
from mspipe_triton.serving.service.snapshots import Snapshots
from mspipe_triton.serving.service.state import StateFolder
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.web.server import Server
from mspipe_triton.serving.service.work import ServiceError

_STATE, _RETRAINING = "served", "retraining"


class Running:
    """A service with its HTTP server, ready to run.

    Args:
        run: the run folder, or folder of a saved predictor. data: the file of the run's events, if it has moved.
        host, port, token: see `Server`. note: called with lines for the person who runs it.

    Raises:
        InputError: a part cannot be made, such as one on a port that is in use.
    """

    def __init__(
        self, run: Path, data: str | None, host: str, port: int, token: str | None, settings: ServiceSettings,
        limits: Limits, note: Callable[[str], None],
    ) -> None:  # fmt: skip
        if token is None and not is_local(host):
            raise ConfigError(
                f"host {host} is open to other machines, which needs a token; set one with --token or MSPIPE_TOKEN"
            )
        torch.set_num_threads(settings.threads)
        self._parts = ExitStack()
        with ExitStack() as parts:  # closed again if one of them fails
            self.state = Path(settings.state) if settings.state else run / _STATE
            folder = parts.enter_context(closing(StateFolder(self.state, run)))
            self.predictor, entries = folder.restore(data, settings.share, note)
            if entries and data is not None:
                note(f"{data} is not read, since a snapshot in {self.state} has the run's events.")
            log = parts.enter_context(closing(folder.log(self.predictor)))
            snapshots = Snapshots(folder, entries, settings.snapshot_events, settings.snapshot_seconds, note)
            self.service = Service(self.predictor, log, snapshots, settings.queue, observing=not settings.follow)
            self.follower = None
            if settings.follow:
                source = settings.follow if settings.follow == STANDARD_INPUT else os.path.abspath(settings.follow)
                self.follower = Follower(
                    source, log.place(source), self.predictor.reading, self.predictor.batch_size, settings.late,
                    settings.replayed, note,
                )  # fmt: skip
            self.server = Server(self.service, host, port, limits, token)
            parts.callback(self.server.close)
            if settings.retrain:
                every = Every.parse(settings.retrain)
                self.service.tasks.append(
                    Retraining(self.state / _RETRAINING, every, self.service, self.predictor, note)
                )
            self._parts = parts.pop_all()

    def run(self) -> None:
        """Serve until a signal, and write a last snapshot.

        Raises:
            ServiceError: the service failed.
        """
        gc.collect()
        gc.freeze()  # what stays until the end need not be looked through again and again
        self._parts.callback(gc.unfreeze)  # at the interpreter's end libraries complain of what stays
        with self._parts:
            self.service.start()
            threading.Thread(target=self._watch, name="watch", daemon=True).start()
            if self.follower is not None:
                self.follower.start(self.service, self.server.stop)
            try:
                self.server.run()
            finally:
                if self.follower is not None:
                    self.follower.stop()
                self.service.stop()
        failure = self.service.failure or (self.follower and self.follower.failure)
        if failure:
            raise ServiceError(f"the service has stopped: {failure}") from failure

    def _watch(self) -> None:
        """Stop the server when the service ends by itself."""
        self.service.stopped.wait()
        self.server.stop()


def is_local(host: str) -> bool:
    """Return True for a name or an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
