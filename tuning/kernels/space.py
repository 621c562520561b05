"""A kernel's search space, which stands in its decorator, as the search takes it, and its points as configurations."""

from __future__ import annotations

from collections.abc import Mapping

from mspipe_triton.kernels.runtime.launch import Config, Kernel
from mspipe_triton.tuning.study.space import Point, Space, Value


def kernel_space(kernel: Kernel, variant: str) -> Space:
    """A kernel's space, with the configuration that ships for a variant of the arithmetic as its default."""
    shipped = kernel.configs.get(variant, kernel.configs["float32"])[0]
    return Space(kernel.space, config_point(shipped))


def kernel_config(kernel: Kernel, variant: str, point: Mapping[str, Value]) -> Config:
    """The configuration of a point of `kernel_space`.

    Raises:
        ValueError: the point is none of that space.
    """
    if not kernel_space(kernel, variant).contains(point):
        raise ValueError(f"{kernel.name}: {dict(point)} is no point of its space; take one of kernel_space")
    values = {name: int(value) for name, value in point.items()}
    warps, stages = values.pop("num_warps"), values.pop("num_stages")
    return Config(values, num_warps=warps, num_stages=stages)


def config_point(config: Config) -> Point:
    """A configuration as a point: its blocks, warps and stages."""
    return {**config.blocks, "num_warps": config.num_warps, "num_stages": config.num_stages}
