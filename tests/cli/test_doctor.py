"""The doctor's report on a GPU and its memory, with a fake GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.cli import doctor
from mspipe_triton.config import RunConfig
from mspipe_triton.models import Facts
from mspipe_triton.training.footprint import Footprint

CAPACITY = "resident_events_of_172_features"


@pytest.fixture(autouse=True)
def with_a_gpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake GPU, and no compiler, which the doctor would test."""
    monkeypatch.setattr(doctor, "compiler", lambda: None)


def diagnose(monkeypatch: pytest.MonkeyPatch, free: int) -> dict[str, Any]:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 24 * 2**30))
    return doctor.diagnose()


def test_capacity_is_the_largest_number_of_events_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 20 * 2**30
    facts = diagnose(monkeypatch, free)
    assert (facts["cuda_device"], facts["device_free_mib"], facts["device_total_mib"]) == ("a GPU", 20480, 24576)

    def needed(events: int) -> int:
        return Footprint.planned(RunConfig(), events, events // 10, Facts(172)).needed

    assert needed(facts[CAPACITY]) <= free < needed(facts[CAPACITY] + 20)


def test_no_event_fits_in_a_mebibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnose(monkeypatch, 2**20)[CAPACITY] == 0


def test_memory_that_cannot_be_queried_is_unknown_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise RuntimeError("CUDA error: out of memory\nmore details")

    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    facts = doctor.diagnose()
    assert facts["device_free_mib"] == "unknown: CUDA error: out of memory"
    assert (facts["device_total_mib"], facts[CAPACITY]) == ("unknown", "unknown")


def test_the_device_of_auto_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = doctor.diagnose()
    assert facts["device"] == "cuda"
    assert facts["why"].startswith("Training runs on the GPU a GPU unless --device cpu is set; its loops on the CPU ")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    facts = doctor.diagnose()
    assert (facts["device"], facts["cuda_device"], facts["device_total_mib"]) == ("cpu", "a GPU", 24576)
    assert facts["why"].startswith("Training runs on the CPU, since the GPU a GPU has compute capability 7.5, and the ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = doctor.diagnose()
    assert (facts["device"], facts["cuda_device"], facts["device_total_mib"]) == ("cpu", "none", None)
    assert facts["why"].startswith("Training runs on the CPU, since torch sees no GPU here;")
