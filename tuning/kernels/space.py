"""A kernel's search space, from its decorator, and the configurations at its points."""

from __future__ import annotations

from collections.abc import Mapping

from mspipe_triton.kernels.runtime.launch import Config, Kernel
from mspipe_triton.tuning.study.space import Point, Space, Value


def kernel_space(kernel: Kernel, variant: str) -> Space:
    """Return a kernel's space; its default is the shipped configuration for a variant of the arithmetic."""
    shipped = kernel.configs.get(variant, kernel.configs["float32"])[0]
    return Space(kernel.space, config_point(shipped))


def kernel_config(kernel: Kernel, variant: str, point: Mapping[str, Value]) -> Config:
    """Return the configuration at a point of `kernel_space`.

    Raises:
        ValueError: the point is not in that space.
    """
    if not kernel_space(kernel, variant).contains(point):
        raise ValueError(f"{kernel.name}: {dict(point)} is not a point of its space; use one of kernel_space")
    values = {name: int(value) for name, value in point.items()}
    warps, stages = values.pop("num_warps"), values.pop("num_stages")
    return Config(values, num_warps=warps, num_stages=stages)


def config_point(config: Config) -> Point:
    """Return a configuration's point: its blocks, warps and stages."""
    return {**config.blocks, "num_warps": config.num_warps, "num_stages": config.num_stages}
