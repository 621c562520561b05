"""Fixtures of the commands that use a run: a run on a shop's table, and new events of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.using import NEW
from tests.serving.served import copied, shop, write_rows


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("shop"), dtype="float64")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """The run as `run` in the command's folder, on shop.csv there."""
    return copied(trained_run, tmp_path)


@pytest.fixture
def new(tmp_path: Path) -> list[dict[str, Any]]:
    """Three new events, in new.csv: of new nodes and an unknown category too."""
    write_rows(tmp_path / "new.csv", NEW)
    return NEW
