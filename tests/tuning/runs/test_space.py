"""The search space of a run: what it may choose on a CPU and on a GPU, and the settings of its points."""

from __future__ import annotations

from dataclasses import replace

from mspipe_triton.config import RunSettings, TrainConfig
from mspipe_triton.tuning.runs.space import run_space, settings_at

DEFAULT = RunSettings(schedule="exact", prefetch=3, threads=3, host_threads=1)


def test_what_a_run_on_the_cpu_may_choose() -> None:
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


def test_a_gpu_adds_where_features_lie_and_how_rows_come() -> None:
    space = run_space(DEFAULT, TrainConfig(), "cuda", 6)
    assert space.choices["features"] == ("host", "device")
    assert space.choices["gather"] == ("copy", "kernel")
    assert space.size == run_space(DEFAULT, TrainConfig(), "cpu", 6).size * 4


def test_neighbours_are_deduplicated_where_none_are_read_and_for_the_mitigation() -> None:
    assert "deduplicate" not in run_space(DEFAULT, TrainConfig(), "cpu", 6, layers=0).choices
    stale = TrainConfig(schedule="mspipe", mitigation="similarity")
    assert "deduplicate" not in run_space(DEFAULT, stale, "cpu", 6).choices


def test_serial_knows_no_prefetch() -> None:
    default = replace(DEFAULT, schedule="serial")
    space = run_space(default, TrainConfig(), "cpu", 4)
    assert "prefetch" not in space.default
    assert all(("prefetch" in point) == (point["schedule"] != "serial") for point in space.points())
    assert "prefetch" not in run_space(default, TrainConfig(schedule="serial"), "cpu", 4).choices


def test_flags_are_left_alone() -> None:
    default = replace(DEFAULT, schedule="mspipe", threads=2)
    space = run_space(default, TrainConfig(schedule="mspipe", threads=2), "cpu", 8)
    assert "threads" not in space.choices
    assert space.choices["host_threads"] == (1, 2)
    assert "schedule" not in space.choices
    assert all("prefetch" in point for point in space.points())
    assert {settings_at(default, point).schedule for point in space.points()} == {"mspipe"}


def test_without_a_compiler_or_a_second_core_there_is_less_to_choose() -> None:
    default = RunSettings("serial", fused=False)
    assert set(run_space(default, TrainConfig(), "cpu", 1).choices) == {"schedule", "prefetch", "deduplicate"}


def test_settings_of_a_point() -> None:
    point = {"schedule": "prefetch", "prefetch": 6, "threads": 1, "fused": False}
    assert settings_at(DEFAULT, point) == replace(DEFAULT, schedule="prefetch", prefetch=6, threads=1, fused=False)
