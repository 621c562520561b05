"""Fixtures that all tests share: Triton's interpreter, real streams, a small one, the installed command, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before torch imports triton: tests run kernels in Triton's interpreter, on the CPU, whatever the machine has.
os.environ["TRITON_INTERPRET"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# torchmetrics imports matplotlib where it is installed, which writes its list of fonts, else into a test's own cache.
os.environ.setdefault("MPLCONFIGDIR", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "matplotlib"))
# Before torch loads OpenMP: threads that wait leave the cores to the tests beside them, and do not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch._dynamo
import torch._inductor.config  # these two read the environment when they are imported, and tests change it

from mspipe_triton import devices
from mspipe_triton.cli import commands as cli
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.kernels.runtime import launch
from tests.processes.pool import Pool, pool

Command = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # before `-m` deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `sample(n)` leaves out of the quick tests.

    Of all combinations of a test's parameters, those stay quick whose places along the axes sum to a multiple of n:
    each value of an axis is among them if another axis has at least n values.
    """
    orders: dict[tuple[object, object], dict[tuple[int, ...], int]] = {}  # of an axis's values: their places
    for item in items:
        sample = item.get_closest_marker("sample")
        if sample is None or not isinstance(item, pytest.Function):
            continue
        total = 0
        for names in _axes(item):
            values = tuple(id(item.callspec.params[name]) for name in names)
            order = orders.setdefault((item.function, names), {})
            total += order.setdefault(values, len(order))
        if total % sample.args[0]:
            item.add_marker(pytest.mark.slow)


def _axes(item: pytest.Function) -> list[tuple[str, ...]]:
    """Names that each decorator `parametrize` or fixture with parameters gives values to."""
    parts = [mark.args[0] for mark in item.iter_markers("parametrize")]
    axes = [tuple(name.strip() for name in part.split(",")) if isinstance(part, str) else tuple(part) for part in parts]
    names = {name for axis in axes for name in axis}
    return axes + [(name,) for name in item.callspec.params if name not in names]


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
    """The folder of the real streams; skips if it is missing."""
    folder = Path(os.environ.get("MSPIPE_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "uci.csv").exists():
        pytest.skip(f"no real streams: neither MSPIPE_DATA nor {folder} holds uci.csv")
    return folder


@pytest.fixture(scope="session")
def real_cases() -> Path:
    """The folder of tables that users reported; skips if it is missing."""
    folder = ROOT.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"no tables of users: {folder} is missing")
    return folder


@pytest.fixture(scope="session")
def small_stream() -> EventStream:
    """1,200 synthetic events with 3 edge features."""
    return synthetic_stream(SyntheticConfig(events=1200, users=60, items=30, edge_features=3, seed=1))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `mspipe-triton` in this process, which spares its imports, in an empty folder with a cache of its own.

    Unless the test asks for it, loops are not fused and training is not tuned.
    """

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as changes:
            changes.chdir(tmp_path)
            for name, value in (_environment(tmp_path) | environment).items():
                changes.setenv(name, value)
            changes.setattr("sys.argv", ["mspipe-triton", *_untuned(arguments)])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """The same in a process of its own, as a user does."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mspipe_triton", *_untuned(arguments)],
            cwd=tmp_path,
            env={**os.environ, "TRITON_INTERPRET": "0", "COLUMNS": "120", **_environment(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def _environment(folder: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(folder / "cache"), "TORCHDYNAMO_DISABLE": "1"}


def _untuned(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if arguments[:1] == ("train",) and not {"--autotune", "--no-autotune"} & set(arguments):
        return (*arguments, "--no-autotune")
    return arguments


@pytest.fixture(scope="session")
def processes() -> Iterator[Pool]:
    """Four processes, for cases on up to as many."""
    with pool(4) as result:
        yield result


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a usable GPU: answers to what torch is asked about one; no tensor can be on it."""
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(launch, "triton", launch.triton or object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (20 * 2**30, 24 * 2**30))
    monkeypatch.setattr(devices, "_try_tensor", lambda: None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests run in parallel, so each takes one thread."""
    torch.set_num_threads(1)
