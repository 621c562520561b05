"""Kernel launches: on the device of the tensors, whichever device is current."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.runtime.launch import Config, Kernel
from tests.kernels.attention.attention_case import Case
from tests.kernels.attention.layer_case import LayerCase

CURRENT, OTHER = torch.device("cuda:0"), torch.device("cuda:1")


class DeviceLog:
    """Stand-in for Triton's function that logs the current device at every launch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current, self.devices = CURRENT, list[torch.device]()
        monkeypatch.setattr(torch.cuda, "device", self.device)
        self.kernel = Kernel(lambda: None, {"float32": (Config(),)})
        self.kernel.function = self

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device
        yield
        self.current = before

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.devices.append(self.current)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a tuple"])
def test_a_kernel_runs_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    log = DeviceLog(monkeypatch)
    with FakeTensorMode():
        pinned, table = torch.empty(3), torch.empty(3, device=OTHER)
    log.kernel.launch((1,), Config(), pinned, None, 7, (pinned, table) if inside else table)
    assert (log.devices, log.current) == ([OTHER], CURRENT)


def test_without_a_gpu_no_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    log = DeviceLog(monkeypatch)
    log.kernel.launch((1,), Config(), torch.empty(3))
    assert log.devices == [CURRENT]


@pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")
@pytest.mark.parametrize("make", [partial(Case, 3, fanout=20), partial(LayerCase, 3, dim=260)], ids=["slots", "rows"])
def test_a_configuration_fitted_to_shapes_keeps_the_variant_of_its_base(make: Callable[[], Any]) -> None:
    case = make().to(torch.float32)
    with launch.recording() as launches:
        case.function(**case.keywords())
    fitted = [each for each in launches if each.config.base is not None]
    assert fitted
    assert {each.variant for each in fitted} <= {"float32", "ieee"}
