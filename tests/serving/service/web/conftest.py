"""Fixtures of fronts: one of the shop's run that no test changes, and others that tests may change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mspipe_triton import load
from mspipe_triton.data.events import EventStream
from tests.serving.service.web.fronts import Client, Predicting, serving


@pytest.fixture(scope="session")
def shop_backend(shop_run: Path) -> Predicting:
    return Predicting(load(shop_run))


@pytest.fixture(scope="session")
def shop_front(shop_backend: Predicting) -> Iterator[Client]:
    """A front that no test changes."""
    with serving(shop_backend, max_ids=100, max_body=200_000) as client:
        yield client


@pytest.fixture
def backend(shop_run: Path) -> Predicting:
    return Predicting(load(shop_run))


@pytest.fixture
def front(backend: Predicting) -> Iterator[Client]:
    with serving(backend) as client:
        yield client


@pytest.fixture
def plain_front(run: Path, small_stream: EventStream) -> Iterator[Client]:
    """A front of a run with one kind of nodes, integers as times and a matrix of features."""
    with serving(Predicting(load(run, stream=small_stream))) as client:
        yield client
