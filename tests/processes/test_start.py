"""The start of a process: what it reads from the environment, the device that it chooses, and its process group."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed import HashStore

from mspipe_triton.errors import ConfigError
from mspipe_triton.processes import start
from mspipe_triton.processes.watch import Watch


def test_the_environment_says_whether_this_is_a_process_and_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert not start.is_process()
    with pytest.raises(ConfigError, match="RANK='' in the environment is not a number; start the processes with"):
        start.rank()
    monkeypatch.setenv("RANK", "2")
    assert start.is_process()
    assert (start.rank(), start.world_size()) == (2, 3)
    monkeypatch.setenv("WORLD_SIZE", "three")
    with pytest.raises(ConfigError, match="WORLD_SIZE='three' in the environment is not a number"):
        start.world_size()


@pytest.mark.parametrize(
    ("device", "gpus", "chosen"),
    [("cpu", 2, "cpu"), ("auto", 2, "cuda"), ("auto", 1, "cpu"), ("auto", 0, "cpu"), ("cuda", 3, "cuda")],
)
def test_every_process_of_a_machine_has_a_gpu_or_none_has(
    device: str, gpus: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert start.choose_device(device) == chosen


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device cuda: 2 processes share 0 GPUs, and each needs one; use --device c"):
        start.choose_device("cuda")


def test_a_process_group_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(start, "choose_device", lambda device: "cuda")
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(distributed, "init_process_group", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert start.start_group("auto", Watch(HashStore(), 3, 4, None)) == "cuda"
    gpu, (args, kwargs) = calls
    assert (gpu, *args, kwargs["rank"], kwargs["world_size"]) == (1, "cpu:gloo,cuda:nccl", 3, 4)
    assert kwargs["timeout"] == kwargs["store"].timeout == timedelta(days=1)  # the watch ends what waits for the dead
