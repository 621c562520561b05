"""The part of a service that its HTTP front relies on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.serving.service.work import Batch, Observed, Question, Status

T = TypeVar("T")


class Backend(Protocol):
    """A service that takes work from any thread; `observe`, `rank` and `ask` raise BusyError or StartingError at once.

    Futures end with their result, or with an InputError, a LogError or a KeyReusedError.
    """

    @property
    def observing(self) -> bool:
        """False if events come from another source, so that `observe` is not for requests."""
        ...

    def observe(self, batch: Batch) -> Future[Observed]:
        """Take in events."""
        ...

    def rank(self, question: Question) -> Future[list[tuple[Any, float]]]:
        """Rank destinations; the result has pairs (id, logit) in descending order."""
        ...

    def ask(self, call: Callable[[Predictor], T]) -> Future[T]:
        """Answer another question, which changes nothing."""
        ...

    def status(self) -> Status:
        """Return the status of this moment, at little cost."""
        ...

    def latest(self, count: int) -> list[dict[str, Any]]:
        """Return the latest events, the newest first, with the keys src, dst, t and received."""
        ...
