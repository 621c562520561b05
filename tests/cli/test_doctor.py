"""The doctor's word on a GPU and its memory, with stand-ins for the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.cli import doctor
from mspipe_triton.config import RunConfig
from mspipe_triton.models import Facts
from mspipe_triton.training.footprint import Footprint

HELD = "resident_events_of_172_features"


@pytest.fixture(autouse=True)
def with_a_gpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU; and no compiler, which would be tried."""
    monkeypatch.setattr(doctor, "compiler", lambda: None)


def diagnosed(monkeypatch: pytest.MonkeyPatch, free: int) -> dict[str, Any]:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 24 * 2**30))
    return doctor.diagnose()


def test_the_events_that_fit_are_the_most_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 20 * 2**30
    facts = diagnosed(monkeypatch, free)
    assert (facts["cuda_device"], facts["device_free_mib"], facts["device_total_mib"]) == ("a GPU", 20480, 24576)

    def needed(events: int) -> int:
        return Footprint.planned(RunConfig(), events, events // 10, Facts(172)).needed

    assert needed(facts[HELD]) <= free < needed(facts[HELD] + 20)


def test_nothing_fits_in_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnosed(monkeypatch, 2**20)[HELD] == 0


def test_a_gpu_that_does_not_tell_is_unknown_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise RuntimeError("CUDA error: out of memory\nmore of it")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    facts = doctor.diagnose()
    assert facts["device_free_mib"] == "unknown: CUDA error: out of memory"
    assert (facts["device_total_mib"], facts[HELD]) == ("unknown", "unknown")


def test_the_device_of_auto_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = doctor.diagnose()
    assert facts["device"] == "cuda"
    assert facts["why"].startswith("Training is on the GPU a GPU unless --device cpu is given; its loops on the CPU ")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    facts = doctor.diagnose()
    assert (facts["device"], facts["cuda_device"], facts["device_total_mib"]) == ("cpu", "a GPU", 24576)
    assert facts["why"].startswith("Training is on the CPU, since the GPU a GPU has compute capability 7.5, and the ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = doctor.diagnose()
    assert (facts["device"], facts["cuda_device"], facts["device_total_mib"]) == ("cpu", "none", None)
    assert facts["why"].startswith("Training is on the CPU, since torch sees no GPU here;")
