"""Fixtures of pipelined runs: a group of one process, and a folder with a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mspipe_triton.pipeline.graphpipe.run.checkpoint import save_checkpoint
from tests.pipeline.graphpipe.run.standins import process, standin, train


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of checkpoints, in a group of one process."""
    with process(tmp_path / "store"):
        yield tmp_path / "run"


@pytest.fixture
def saved(folder: Path) -> Path:
    """A folder with a checkpoint after 2 steps."""
    trainer = standin()
    train(trainer, 2)
    save_checkpoint(folder, trainer)
    return folder
