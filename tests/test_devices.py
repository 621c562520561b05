"""Choice of the device by `auto`, with a fake GPU: decisions, messages, and refusals."""

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
from mspipe_triton.config import RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.devices import Gpu, resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime import launch

Command = Callable[..., subprocess.CompletedProcess[str]]
MESSAGE = "Running on the GPU a GPU (--device cpu for the CPU)."
ABSENT, USABLE = Gpu(None, "torch sees no GPU here"), Gpu("a GPU", None)
SMALL = ("--batch-size", "100", "--dim", "8", "--fanout", "3", "--threads", "1", "--schedule", "serial")
ONE = ("--epochs", "1", "--negatives", "3")


def config_for(device: str, **more: Any) -> RunConfig:
    return RunConfig().with_flags({"device": device, **more})


def replace_gpu(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    monkeypatch.setattr(devices, "find_gpu", lambda: gpu)


@pytest.mark.usefixtures("gpu")
def test_auto_uses_a_usable_gpu_and_reports_it() -> None:
    assert resolve_device(config_for("auto", seed=3)) == (config_for("cuda", seed=3), MESSAGE)
    assert resolve_device(config_for("cuda")) == (config_for("cuda"), None)


def test_auto_uses_the_cpu_silently_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(config_for("auto", seed=3)) == (config_for("cpu", seed=3), None)
    with pytest.raises(ConfigError) as error:
        resolve_device(config_for("cuda"))
    assert str(error.value) == ("device cuda: torch sees no GPU here; use --device cpu, and see `mspipe-triton doctor`")


def test_device_cpu_does_not_query_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(devices, "find_gpu")
    assert resolve_device(config_for("cpu")) == (config_for("cpu"), None)


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
        devices, "_try_tensor", raising("CUDA error: out of memory\nmore details"),
    ),
    "the GPU does not respond (CUDA error: busy)": (torch.cuda, "get_device_name", raising("CUDA error: busy")),
    "torch says 'CUDA initialization: the driver is too old'": (torch.cuda, "is_available", warning),
}  # fmt: skip


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_gpu_leaves_auto_on_the_cpu_with_the_reason(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_device(config_for("auto")) == (config_for("cpu"), f"Running on the CPU: {fault}.")
    with pytest.raises(ConfigError) as error:
        resolve_device(config_for("cuda"))
    assert str(error.value) == f"device cuda: {fault}; use --device cpu, and see `mspipe-triton doctor`"


@pytest.mark.usefixtures("gpu")
def test_triton_s_interpreter_leaves_auto_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    config, line = resolve_device(config_for("auto"))
    assert (config.train.device, line) == (
        "cpu", "Running on the CPU: TRITON_INTERPRET=1 keeps kernels off the GPU a GPU.",
    )  # fmt: skip


def test_the_sum_is_computed_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Any] = []
    monkeypatch.setattr(torch, "ones", lambda count, device: places.append(device) or torch.zeros(count))
    devices._try_tensor()
    assert places == ["cuda"]


def test_importing_queries_no_device(tmp_path: Path) -> None:
    code = """
import torch, torch._dynamo, torch._inductor.config
def refuse(): raise SystemExit("a device was queried")
torch.cuda.is_available = torch.cuda.init = torch.cuda._lazy_init = torch.cuda.device_count = refuse
import mspipe_triton.cli.commands, mspipe_triton.devices, mspipe_triton.cli.doctor, mspipe_triton.training.trainer
import mspipe_triton.tuning.tuner, mspipe_triton.cli.tuning_screen
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def events(small_stream: EventStream, tmp_path: Path) -> None:
    write_stream(small_stream, tmp_path / "events.csv")


@pytest.mark.parametrize("name", ["train", "autotune"])
def test_a_missing_gpu_is_refused_before_the_data_are_read(
    name: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace_gpu(monkeypatch, ABSENT)
    (tmp_path / "none.csv").write_text("no events\n")
    done = command(name, "none.csv", "--device", "cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mspipe-triton: device cuda: torch sees no GPU here; use --device cpu, and see `mspipe-triton doctor`\n"
    )


def test_training_from_python_refuses_a_missing_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mspipe_triton import train

    replace_gpu(monkeypatch, ABSENT)
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        train(config_for("cuda", path=str(tmp_path / "none.csv")))


@pytest.mark.parametrize("name", ["train", "autotune"])
def test_a_cpu_feature_is_refused_if_auto_is_a_gpu(
    name: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace_gpu(monkeypatch, USABLE)
    (tmp_path / "none.csv").write_text("no events\n")
    done = command(name, "none.csv", "--schedule", "mspipe", "--mitigation", "similarity")
    assert done.returncode == 2
    assert done.stderr == (
        "mspipe-triton: mitigation similarity is for the CPU; use --device cpu or --mitigation none\n"
    )


def test_evaluating_a_run_of_a_missing_gpu_names_the_file_to_change(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace_gpu(monkeypatch, ABSENT)
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
def test_a_run_on_the_cpu_does_not_mention_devices(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_gpu(monkeypatch, ABSENT)
    done = command("train", "events.csv", *SMALL, *ONE, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"] == "cpu"
    for word in ("GPU", "CPU", "device", "Running on"):
        assert word not in done.stderr


@pytest.fixture
def gpu_by_name(gpu: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fake GPU, whose runs the CPU computes; the value lists the devices of all sessions so far."""
    names, create = [], Session.create

    def create_on_cpu(config: RunConfig, stream: EventStream, **more: Any) -> Session:
        names.append(config.train.device)
        return create(config.with_flags({"device": "cpu"}), stream, **more)

    monkeypatch.setattr(Session, "create", staticmethod(create_on_cpu))
    return names


@pytest.mark.usefixtures("events")
def test_a_run_of_a_gpu_is_resumed_and_evaluated_without_one(
    gpu_by_name: list[str], command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = command("train", "events.csv", *SMALL, *ONE, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(MESSAGE) == 1
    assert gpu_by_name == ["cuda"]
    assert load_config(tmp_path / "run" / "config.toml").train.device == "auto"

    replace_gpu(monkeypatch, ABSENT)
    evaluation = command("evaluate", "run", "--split", "test", "--json")
    assert json.loads(evaluation.stdout)["ap"] == json.loads(done.stdout)["test"]["ap"]
    resumed = command("train", "events.csv", *SMALL, *ONE, "--epochs", "2", "--out", "run", "--resume", "--json")
    assert json.loads(resumed.stdout)["epochs"] == 2, resumed.stderr
    assert "GPU" not in resumed.stderr
    assert gpu_by_name == ["cuda", "cpu", "cpu"]


@pytest.mark.slow
@pytest.mark.usefixtures("events")
def test_tuning_reports_the_device_once_and_wrong_input_stays_one_line(
    gpu_by_name: list[str], command: Command
) -> None:
    wrong = command("autotune", "events.csv", *SMALL[2:], "--batch-size", "5000")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    done = command("autotune", "events.csv", *SMALL, "--budget", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(MESSAGE) == 1
    done = command("train", "events.csv", *SMALL, *ONE, "--autotune", "--out", "run", COLUMNS="300")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(MESSAGE) == 1
    assert done.stderr.index(MESSAGE) < done.stderr.index("Settings from ")
    assert set(gpu_by_name) == {"cuda"}
