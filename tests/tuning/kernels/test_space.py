"""Kernels' search spaces: every kernel has one, with its shipped configurations and values that Triton accepts."""

from __future__ import annotations

import pytest

import mspipe_triton.kernels  # noqa: F401  # registers the kernels
from mspipe_triton.kernels.runtime.launch import KERNELS, VARIANTS, Config
from mspipe_triton.kernels.updaters import gru
from mspipe_triton.tuning.kernels.space import config_point, kernel_config, kernel_space

NAMES = [name for name, kernel in KERNELS.items() if kernel.space]


def test_exactly_our_kernels_have_a_space() -> None:
    functions = {name: getattr(kernel.function, "fn", kernel.function) for name, kernel in KERNELS.items()}
    ours = {name for name, function in functions.items() if function.__module__.startswith("mspipe_triton.")}
    assert {name for name, kernel in KERNELS.items() if kernel.space} == ours


@pytest.mark.parametrize("name", NAMES)
def test_a_kernels_space_has_every_shipped_configuration(name: str) -> None:
    kernel = KERNELS[name]
    for variant, configs in kernel.configs.items():
        space = kernel_space(kernel, variant)
        assert space.default == config_point(configs[0])
        for config in configs:
            assert set(space.choices) == {*config.blocks, "num_warps", "num_stages"}
            assert space.contains(config_point(config)), config
            assert kernel_config(kernel, variant, config_point(config)) == config


@pytest.mark.parametrize("name", NAMES)
def test_choices_are_ascending_and_accepted_by_triton(name: str) -> None:
    for choice, values in KERNELS[name].space.items():
        assert list(values) == sorted(set(values))
        if choice not in ("HELD", "num_stages"):
            assert all(value & (value - 1) == 0 for value in values), choice


@pytest.mark.parametrize("name", ["fused_gru_kernel", "fused_rnn_kernel", "weights_backward_kernel"])
def test_blocks_of_products_are_at_least_sixteen(name: str) -> None:
    assert min(min(values) for block, values in KERNELS[name].space.items() if block.startswith("BLOCK")) == 16


def test_a_variant_without_its_own_default_uses_float32s() -> None:
    kernel = KERNELS["gates_kernel"]
    assert kernel_space(kernel, "float64").default == kernel_space(kernel, "float32").default


def test_a_configuration_outside_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gates_kernel: .*7.* is not a point"):
        kernel_config(KERNELS["gates_kernel"], "float32", config_point(Config({"BLOCK_U": 7})))


def test_variants_match_the_launcher() -> None:
    assert {"memory_gru": tuple(gru.VARIANTS)} == VARIANTS
