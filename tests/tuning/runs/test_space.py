"""The search space of a run on a CPU and on a GPU, and the settings at its points."""

from __future__ import annotations

from dataclasses import replace

from mspipe_triton.config import TrainConfig
from mspipe_triton.execution import RunSettings
from mspipe_triton.tuning.runs.space import run_space, settings_at

DEFAULT = RunSettings(schedule="exact", prefetch=3, threads=3, host_threads=1)


def test_choices_of_a_run_on_the_cpu() -> None:
    space = run_space(DEFAULT, TrainConfig(), "cpu", 6)
    assert space.choices == {
        "threads": (1, 2, 3, 4, 6),
        "host_threads": (1, 2, 4, 6),
        "schedule": ("serial", "prefetch", "exact"),
        "prefetch": (1, 2, 3, 4, 6),
        "deduplicate": ("all", "roots"),
        "fused": (True, False),
    }
    assert space.size == 5 * 4 * (1 + 2 * 5) * 2 * 2
    assert settings_at(DEFAULT, space.default) == DEFAULT


def test_a_gpu_adds_the_place_of_features_and_the_way_to_gather_rows() -> None:
    space = run_space(DEFAULT, TrainConfig(), "cuda", 6)
    assert space.choices["features"] == ("host", "device")
    assert space.choices["gather"] == ("copy", "kernel")
    assert space.size == run_space(DEFAULT, TrainConfig(), "cpu", 6).size * 4


def test_deduplication_is_fixed_without_neighbours_and_with_the_mitigation() -> None:
    assert "deduplicate" not in run_space(DEFAULT, TrainConfig(), "cpu", 6, layers=0).choices
    stale = TrainConfig(schedule="mspipe", mitigation="similarity")
    assert "deduplicate" not in run_space(DEFAULT, stale, "cpu", 6).choices


def test_serial_has_no_prefetch() -> None:
    default = replace(DEFAULT, schedule="serial")
    space = run_space(default, TrainConfig(), "cpu", 4)
    assert "prefetch" not in space.default
    assert all(("prefetch" in point) == (point["schedule"] != "serial") for point in space.points())
    assert "prefetch" not in run_space(default, TrainConfig(schedule="serial"), "cpu", 4).choices


def test_flags_are_not_searched() -> None:
    default = replace(DEFAULT, schedule="mspipe", threads=2)
    space = run_space(default, TrainConfig(schedule="mspipe", threads=2), "cpu", 8)
    assert "threads" not in space.choices
    assert space.choices["host_threads"] == (1, 2)
    assert "schedule" not in space.choices
    assert all("prefetch" in point for point in space.points())
    assert {settings_at(default, point).schedule for point in space.points()} == {"mspipe"}


def test_choices_without_a_compiler_or_a_second_core() -> None:
    default = RunSettings("serial", fused=False)
    assert set(run_space(default, TrainConfig(), "cpu", 1).choices) == {"schedule", "prefetch", "deduplicate"}


def test_settings_at_a_point() -> None:
    point = {"schedule": "prefetch", "prefetch": 6, "threads": 1, "fused": False}
    assert settings_at(DEFAULT, point) == replace(DEFAULT, schedule="prefetch", prefetch=6, threads=1, fused=False)
