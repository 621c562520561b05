"""Running of a service in this process: it ends with one error, whichever part fails."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.cli.serve import say
from mspipe_triton.serving.service.running import Running
from mspipe_triton.serving.service.settings import ServiceSettings
from mspipe_triton.serving.service.web.limits import Limits
from mspipe_triton.serving.service.work import ServiceError
from tests.serving.service.clients import Client, purchase
from tests.serving.service.services import PATIENCE, started, wait_for
from tests.serving.service.services import purchase as batch


def running(run: Path, state: Path, **settings: Any) -> Running:
    return Running(
        run, None, "127.0.0.1", 0, None, ServiceSettings(state=str(state), **settings), Limits(), lambda line: None
    )


@contextmanager
def beside(service: Running, *work: Any) -> Iterator[None]:
    """Do some work in a thread after the service is ready, and stop the service if it still runs much later."""

    def do() -> None:
        wait_for(lambda: service.service.status().ready)
        for each in work:
            each()

    watchdog = threading.Timer(PATIENCE, service.server.stop)
    thread = threading.Thread(target=do)
    watchdog.start()
    thread.start()
    try:
        yield
    finally:
        watchdog.cancel()
        thread.join()


def test_a_failure_of_the_engine_ends_the_service(
    shop_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[int, Any]] = []
    service = running(shop_run, tmp_path)
    monkeypatch.setattr(service.predictor, "take", lambda events: 1 / 0)

    def observe() -> None:
        answers.append(Client(service.server.url).ask("/observe", purchase(("u1", 100, 1))))

    with beside(service, observe), pytest.raises(ServiceError, match="the service has stopped: division by zero"):
        service.run()
    assert answers == [(503, {"detail": "the service has failed (division by zero); start it again"})]
    service = running(shop_run, tmp_path)
    monkeypatch.setattr(service.predictor, "take", lambda events: 1 / 0)
    with pytest.raises(ServiceError, match="the service has stopped: division by zero"):  # before it is ready
        service.run()
    with started(shop_run, tmp_path) as again:
        assert again.service.status().observed == 1


def test_a_failure_of_the_source_ends_the_service(shop_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user,item,when,amount,channel\nu1,100,2024-04-01,1.5,web\n", encoding="utf-8")
    service = running(shop_run, tmp_path / "state", follow=str(path))
    replace = [lambda: wait_for(lambda: service.service.status().observed == 1), lambda: path.write_text("")]
    with beside(service, *replace), pytest.raises(ServiceError, match="was cut or replaced while it was followed"):
        service.run()


def test_nobody_need_read_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = os.pipe()
    os.close(source)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", io.TextIOWrapper(io.FileIO(target, "w"), write_through=True))
        say("Following waits")


def test_a_service_that_cannot_start_leaves_nothing_open(shop_run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Exception, match="cannot be followed"):
            running(shop_run, tmp_path, follow=str(tmp_path / "missing"))
    before = threading.active_count()
    service = running(shop_run, tmp_path)
    with beside(service, service.server.stop):
        service.run()
    wait_for(lambda: threading.active_count() == before)
    with started(shop_run, tmp_path) as parts:
        assert parts.service.observe(batch(1)).result(PATIENCE).observed == 2
