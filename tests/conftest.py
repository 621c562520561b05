"""Fixtures that all tests share: Triton's interpreter, real streams, a small synthetic one, the installed command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Before the kernels are imported: tests run them in Triton's interpreter, on the CPU.
os.environ["TRITON_INTERPRET"] = "1"

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.kernels import launch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Operations run as Triton kernels in the interpreter, whose memory is the CPU's."""
    if launch.triton is None:
        pytest.skip("triton has no wheel for this platform")
    launch.use_triton(True)
    yield
    launch.use_triton(None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real streams; skips where there is none."""
    folder = Path(os.environ.get("MSPIPE_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "uci.csv").exists():
        pytest.skip(f"no real streams: neither MSPIPE_DATA nor {folder} holds uci.csv")
    return folder


@pytest.fixture(scope="session")
def small_stream() -> EventStream:
    """1,200 synthetic events with 3 edge features."""
    return synthetic_stream(SyntheticConfig(events=1200, users=60, items=30, edge_features=3, seed=1))


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `mspipe-triton` as a user does, in an empty folder with a cache of its own.

    Unless the test asks for it, loops are not fused and training is not tuned.
    """

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if arguments[:1] == ("train",) and not {"--autotune", "--no-autotune"} & set(arguments):
            arguments = (*arguments, "--no-autotune")
        environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
        return subprocess.run(
            [sys.executable, "-m", "mspipe_triton", *arguments],
            cwd=tmp_path,
            env={**os.environ, "TRITON_INTERPRET": "0", "TORCHDYNAMO_DISABLE": "1", "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests run in parallel, so each takes one thread."""
    torch.set_num_threads(1)
