"""The device that `auto` stands for, with stand-ins for the GPU: where it is decided, told, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton import devices
from mspipe_triton.config import RunConfig, load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.devices import Gpu, resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime import launch

Command = Callable[..., subprocess.CompletedProcess[str]]
TOLD = "Running on the GPU a GPU (--device cpu for the CPU)."
ABSENT, USABLE = Gpu(None, "torch sees no GPU here"), Gpu("a GPU", None)
SMALL = ("--batch-size", "100", "--dim", "8", "--fanout", "3", "--threads", "1", "--schedule", "serial")
ONE = ("--epochs", "1", "--negatives", "3")


def asking(device: str, **more: Any) -> RunConfig:
    return RunConfig().with_flags({"device": device, **more})


def finds(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    monkeypatch.setattr(devices, "find_gpu", lambda: gpu)


@pytest.mark.usefixtures("gpu")
def test_auto_is_the_gpu_where_one_is_usable_and_says_so() -> None:
    assert resolve_device(asking("auto", seed=3)) == (asking("cuda", seed=3), TOLD)
    assert resolve_device(asking("cuda")) == (asking("cuda"), None)


def test_auto_is_the_cpu_without_a_word_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(asking("auto", seed=3)) == (asking("cpu", seed=3), None)
    with pytest.raises(ConfigError) as refused:
        resolve_device(asking("cuda"))
    assert str(refused.value) == (
        "device cuda: torch sees no GPU here; use --device cpu, and see `mspipe-triton doctor`"
    )


def test_the_cpu_is_taken_without_a_look_at_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(devices, "find_gpu")
    assert resolve_device(asking("cpu")) == (asking("cpu"), None)


def raising(message: str) -> Callable[[], Any]:
    def answer() -> Any:
        raise RuntimeError(message)

    return answer


def warning() -> bool:
    warnings.warn("CUDA initialization: the driver is too old\nUpdate it", stacklevel=1)
    return False


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "the GPU a GPU has compute capability 7.5, and the kernels need 8.0": (
        torch.cuda, "get_device_capability", lambda: (7, 5),
    ),
    "the kernels are for NVIDIA's GPUs, and torch is built for AMD's (a GPU)": (torch.version, "hip", "6.4"),
    "the GPU a GPU needs triton, which is not installed (`pip install triton`)": (launch, "triton", None),
    "the GPU does not respond (CUDA error: out of memory)": (
        devices, "_try_tensor", raising("CUDA error: out of memory\nmore of it"),
    ),
    "the GPU does not respond (CUDA error: busy)": (torch.cuda, "get_device_name", raising("CUDA error: busy")),
    "torch says 'CUDA initialization: the driver is too old'": (torch.cuda, "is_available", warning),
}  # fmt: skip


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_gpu_that_cannot_serve_leaves_auto_on_the_cpu_with_the_reason(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_device(asking("auto")) == (asking("cpu"), f"Running on the CPU: {fault}.")
    with pytest.raises(ConfigError) as refused:
        resolve_device(asking("cuda"))
    assert str(refused.value) == f"device cuda: {fault}; use --device cpu, and see `mspipe-triton doctor`"


@pytest.mark.usefixtures("gpu")
def test_triton_s_interpreter_leaves_auto_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    config, line = resolve_device(asking("auto"))
    assert (config.train.device, line) == (
        "cpu", "Running on the CPU: TRITON_INTERPRET=1 keeps kernels off the GPU a GPU.",
    )  # fmt: skip


def test_the_sum_is_tried_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Any] = []
    monkeypatch.setattr(torch, "ones", lambda count, device: places.append(device) or torch.zeros(count))
    devices._try_tensor()
    assert places == ["cuda"]


def test_importing_asks_for_no_device(tmp_path: Path) -> None:
    code = """
import torch, torch._dynamo, torch._inductor.config
def asked(): raise SystemExit("a device was asked for")
torch.cuda.is_available = torch.cuda.init = torch.cuda._lazy_init = torch.cuda.device_count = asked
import mspipe_triton.cli.commands, mspipe_triton.devices, mspipe_triton.cli.doctor, mspipe_triton.training.trainer
import mspipe_triton.tuning.tuner, mspipe_triton.cli.tuning_screen
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def events(small_stream: EventStream, tmp_path: Path) -> None:
    write_stream(small_stream, tmp_path / "events.csv")


@pytest.mark.parametrize("named", ["train", "autotune"])
def test_a_gpu_that_is_not_there_is_refused_before_the_data_are_read(
    named: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, ABSENT)
    done = command(named, "none.csv", "--device", "cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mspipe-triton: device cuda: torch sees no GPU here; use --device cpu, and see `mspipe-triton doctor`\n"
    )


def test_training_from_python_refuses_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mspipe_triton import train

    finds(monkeypatch, ABSENT)
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        train(asking("cuda", path=str(tmp_path / "none.csv")))


@pytest.mark.parametrize("named", ["train", "autotune"])
def test_what_is_for_the_cpu_is_refused_where_auto_is_a_gpu(
    named: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, USABLE)
    done = command(named, "none.csv", "--schedule", "mspipe", "--mitigation", "similarity")
    assert done.returncode == 2
    assert done.stderr == (
        "mspipe-triton: mitigation similarity is for the CPU; use --device cpu or --mitigation none\n"
    )


def test_evaluating_a_run_of_a_gpu_that_is_not_there_names_the_file_to_change(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    finds(monkeypatch, ABSENT)
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "config.toml"
    file.write_text('[train]\ndevice = "cuda"\n[data]\npath = "none.csv"\n')
    done = command("evaluate", "run")
    assert done.returncode == 2
    assert done.stderr == (
        "mspipe-triton: run/config.toml: device cuda: torch sees no GPU here; use --device cpu, and see "
        '`mspipe-triton doctor` (in that file: device = "cpu")\n'
    )
    file.write_text(file.read_text().replace("cuda", "cpu"))
    assert "none.csv: no such file" in command("evaluate", "run").stderr


@pytest.mark.usefixtures("events")
def test_a_run_on_the_cpu_says_nothing_of_devices(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, ABSENT)
    done = command("train", "events.csv", *SMALL, *ONE, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"] == "cpu"
    for word in ("GPU", "CPU", "device", "Running on"):
        assert word not in done.stderr


@pytest.fixture
def gpu_by_name(gpu: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for a GPU that runs are made for and the CPU computes; the devices that sessions were asked for."""
    asked, create = [], Session.create

    def on_the_cpu(config: RunConfig, stream: EventStream) -> Session:
        asked.append(config.train.device)
        return create(config.with_flags({"device": "cpu"}), stream)

    monkeypatch.setattr(Session, "create", staticmethod(on_the_cpu))
    return asked


@pytest.mark.usefixtures("events")
def test_a_run_on_the_gpu_goes_on_and_is_evaluated_without_one(
    gpu_by_name: list[str], command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = command("train", "events.csv", *SMALL, *ONE, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(TOLD) == 1
    assert gpu_by_name == ["cuda"]
    assert load_config(tmp_path / "run" / "config.toml").train.device == "auto"

    finds(monkeypatch, ABSENT)
    evaluated = command("evaluate", "run", "--split", "test", "--json")
    assert json.loads(evaluated.stdout)["ap"] == json.loads(done.stdout)["test"]["ap"]
    resumed = command("train", "events.csv", *SMALL, *ONE, "--epochs", "2", "--out", "run", "--resume", "--json")
    assert json.loads(resumed.stdout)["epochs"] == 2, resumed.stderr
    assert "GPU" not in resumed.stderr
    assert gpu_by_name == ["cuda", "cpu", "cpu"]


@pytest.mark.usefixtures("events")
def test_tuning_tells_the_device_once_and_a_wrong_input_stays_one_line(
    gpu_by_name: list[str], command: Command
) -> None:
    wrong = command("autotune", "events.csv", *SMALL[2:], "--batch-size", "5000")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    for number, said in enumerate(("Tuned: ", "Settings from ")):  # made first, then found
        done = command(
            "train", "events.csv", *SMALL, *ONE, "--autotune", "--budget", "2", "--out", f"run{number}", COLUMNS="300"
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
        assert done.stderr.count(TOLD) == 1
        assert done.stderr.index(TOLD) < done.stderr.index(said)
    done = command("autotune", "events.csv", *SMALL, "--budget", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(TOLD) == 1
    assert set(gpu_by_name) == {"cuda"}
