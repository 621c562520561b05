"""Fixtures of predictors: a run on the small stream, one on a shop's table, and a predictor as of all events."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from tests.serving.served import shop, trained


@pytest.fixture(scope="session")
def run(small_stream: EventStream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs"), small_stream, "tgn", "float64")


@pytest.fixture
def predictor(run: Path, small_stream: EventStream) -> Predictor:
    return load(run, stream=small_stream)


@pytest.fixture(scope="session")
def shop_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("shop"))
