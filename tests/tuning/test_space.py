"""Search spaces: their points and conditions, what a run may choose, and that every kernel's fits what it ships."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

import mspipe_triton.kernels  # noqa: F401  # registers the kernels
from mspipe_triton.config import RunSettings, TrainConfig
from mspipe_triton.kernels.launch import KERNELS, Config
from mspipe_triton.tuning.space import (
    KERNEL_SPACES,
    OPERATION_VARIANTS,
    Space,
    config_point,
    kernel_config,
    kernel_space,
    run_settings,
    run_space,
)

DEFAULT = RunSettings(schedule="exact", prefetch=3, threads=3, host_threads=1)
SMALL = Space(
    {"schedule": ("serial", "exact"), "depth": (1, 2, 4), "fused": (True, False)},
    {"schedule": "serial", "fused": False},
    {"depth": ("schedule", ("exact",))},
)


def test_points_are_the_default_and_then_every_other_once() -> None:
    points = list(SMALL.points())
    assert points[0] == SMALL.default
    assert len(points) == SMALL.size == 2 + 3 * 2
    assert len({str(sorted(point.items())) for point in points}) == SMALL.size
    assert all(SMALL.contains(point) for point in points)


@pytest.mark.parametrize(
    "point",
    [
        {"schedule": "serial", "fused": True, "depth": 1},  # a name that does not apply
        {"schedule": "exact", "fused": True},  # one that is missing
        {"schedule": "exact", "fused": True, "depth": 3},  # no choice
        {"schedule": "exact", "fused": 1, "depth": 1},  # 1 is not True
        {"schedule": "serial", "fused": True, "more": 1},
    ],
)
def test_what_is_no_point(point: dict[str, bool | int | str]) -> None:
    assert not SMALL.contains(point)


def test_a_space_whose_default_or_conditions_are_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="no point"):
        replace(SMALL, default={"schedule": "serial"})
    with pytest.raises(ValueError, match="does not come before"):
        replace(SMALL, applies={"schedule": ("depth", (1,))})


def test_only_numbers_are_ordered() -> None:
    assert [SMALL.ordered(name) for name in SMALL.choices] == [False, True, False]


def test_the_digest_is_of_the_content() -> None:
    assert SMALL.digest() == Space(dict(SMALL.choices), dict(SMALL.default), dict(SMALL.applies)).digest()
    others = [
        replace(SMALL, default={"schedule": "serial", "fused": True}),
        replace(SMALL, choices={**SMALL.choices, "depth": (1, 2)}),
        replace(SMALL, applies={"depth": ("schedule", ("exact", "serial"))}, default=next(reversed([*SMALL.points()]))),
    ]
    assert len({SMALL.digest(), *(other.digest() for other in others)}) == 4


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
    assert run_settings(DEFAULT, space.default) == DEFAULT


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
    assert {run_settings(default, point).schedule for point in space.points()} == {"mspipe"}


def test_without_a_compiler_or_a_second_core_there_is_less_to_choose() -> None:
    default = RunSettings("serial", fused=False)
    assert set(run_space(default, TrainConfig(), "cpu", 1).choices) == {"schedule", "prefetch", "deduplicate"}


def test_settings_of_a_point() -> None:
    point = {"schedule": "prefetch", "prefetch": 6, "threads": 1, "fused": False}
    assert run_settings(DEFAULT, point) == replace(DEFAULT, schedule="prefetch", prefetch=6, threads=1, fused=False)


def test_every_kernel_has_a_space_and_no_other() -> None:
    written = {name: getattr(kernel.function, "fn", kernel.function) for name, kernel in KERNELS.items()}
    ours = {name for name, function in written.items() if function.__module__.startswith("mspipe_triton.")}
    assert set(KERNEL_SPACES) == ours


@pytest.mark.parametrize("name", KERNEL_SPACES)
def test_a_kernels_space_has_every_shipped_configuration(name: str) -> None:
    kernel = KERNELS[name]
    for variant, configs in kernel.configs.items():
        space = kernel_space(kernel, variant)
        assert space.default == config_point(configs[0])
        for config in configs:
            assert set(space.choices) == {*config.blocks, "num_warps", "num_stages"}
            assert space.contains(config_point(config)), config
            assert kernel_config(kernel, variant, config_point(config)) == config


@pytest.mark.parametrize("name", KERNEL_SPACES)
def test_choices_are_ascending_and_what_triton_takes(name: str) -> None:
    for choice, values in KERNEL_SPACES[name].items():
        assert list(values) == sorted(set(values))
        if choice not in ("HELD", "num_stages"):
            assert all(value & (value - 1) == 0 for value in values), choice


@pytest.mark.parametrize("name", ["fused_gru_kernel", "fused_rnn_kernel", "weights_backward_kernel"])
def test_blocks_of_products_are_at_least_sixteen(name: str) -> None:
    assert min(min(values) for block, values in KERNEL_SPACES[name].items() if block.startswith("BLOCK")) == 16


def test_an_arithmetic_that_a_kernel_does_not_treat_apart_takes_float32s_default() -> None:
    kernel = KERNELS["gates_kernel"]
    assert kernel_space(kernel, "float64").default == kernel_space(kernel, "float32").default


def test_a_configuration_beside_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gates_kernel: .*7.* is no point"):
        kernel_config(KERNELS["gates_kernel"], "float32", config_point(Config({"BLOCK_U": 7})))


def test_operations_variants_are_those_there_are() -> None:
    there = {
        operation: tuple(sys.modules[f"mspipe_triton.kernels.{operation}"].VARIANTS) for operation in OPERATION_VARIANTS
    }
    assert there == OPERATION_VARIANTS
