"""Where a kernel is launched: on the device of its tensors, whichever is the present one."""

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

PRESENT, OTHER = torch.device("cuda:0"), torch.device("cuda:1")


class Launched:
    """In the place of Triton's function: tells which device was the present one at every launch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.present, self.on = PRESENT, list[torch.device]()
        monkeypatch.setattr(torch.cuda, "device", self.device)
        self.kernel = Kernel(lambda: None, {"float32": (Config(),)})
        self.kernel.function = self

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.present = self.present, device
        yield
        self.present = before

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.on.append(self.present)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a tuple"])
def test_a_kernel_runs_where_its_tensors_lie(monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    launched = Launched(monkeypatch)
    with FakeTensorMode():
        pinned, table = torch.empty(3), torch.empty(3, device=OTHER)
    launched.kernel.launch((1,), Config(), pinned, None, 7, (pinned, table) if inside else table)
    assert (launched.on, launched.present) == ([OTHER], PRESENT)


def test_without_a_gpu_no_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = Launched(monkeypatch)
    launched.kernel.launch((1,), Config(), torch.empty(3))
    assert launched.on == [PRESENT]


@pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")
@pytest.mark.parametrize("make", [partial(Case, 3, fanout=20), partial(LayerCase, 3, dim=260)], ids=["slots", "rows"])
def test_a_configuration_fitted_to_shapes_counts_as_the_one_that_it_was_made_from(make: Callable[[], Any]) -> None:
    case = make().to(torch.float32)
    with launch.recording() as launched:
        case.function(**case.named())
    fitted = [each for each in launched if each.config.base is not None]
    assert fitted
    assert {each.variant for each in fitted} <= {"float32", "ieee"}
