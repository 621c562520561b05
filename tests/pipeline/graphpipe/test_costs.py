"""Accelerators and the durations that they assign to work, against hand-made ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS, ATTAINED, Accelerator, total
from mspipe_triton.pipeline.graphpipe.operators import Duration

# 1000 operations/s, 100 bytes/s: 10 operations per byte balance.
SLOW = Accelerator("slow", 1000, 100, 64, 10, 5, 2, overhead=0.5, half_rows=8)


def test_matmul_is_bound_by_operations() -> None:
    # 2000 operations in 2 s, 100 bytes in 1 s; 8 rows of 4 per sample are 2 samples of 2 s; 3 launches of 0.5 s.
    assert SLOW.duration(2000, 100, kernels=3, rows=4) == Duration(1.5 + 4, 2)


def test_copy_is_bound_by_memory() -> None:
    assert SLOW.duration(0, 300) == Duration(0.5, 3)


def test_weights_are_read_once_per_pass() -> None:
    # 10,000 bytes take 100 s, more than the 8 samples of 0.1 s until half of the rate is attained.
    assert SLOW.duration(100, 1, fixed_traffic=10_000) == Duration(0.5 + 100, 0.1)


def test_half_of_the_rate_at_half_rows() -> None:
    device = replace(SLOW, overhead=0)
    duration = device.duration(1000, 0, rows=2)
    samples = 4  # 8 rows
    assert samples * 1000 / (duration.fixed + duration.per_sample * samples) == device.flops / 2


def test_total_adds_and_multiplies() -> None:
    assert total(Duration(1, 2), Duration(3, 4)) == Duration(4, 6)
    assert total(Duration(1, 2), times=2) == Duration(2, 4)


def test_v100_of_the_published_cluster() -> None:
    device = ACCELERATORS["v100"]
    assert device.flops == pytest.approx(12.56e12)
    cluster = device.cluster(32)
    assert (cluster.devices, cluster.memory, cluster.node) == (32, 16e9, 4)
    assert cluster.link((0,), (3,)) == 50e9
    assert cluster.link((3,), (4,)) == 100e9 / 8
    assert device.cluster(4).slowest == 50e9


def test_presets_are_in_order_of_speed() -> None:
    assert list(ACCELERATORS) == ["v100", "a100", "h100", "h200"]
    devices = list(ACCELERATORS.values())
    for slower, faster in pairwise(devices):
        assert slower.flops <= faster.flops
        assert slower.bytes_per_second < faster.bytes_per_second
        assert slower.memory <= faster.memory
    assert 0 < ATTAINED <= 1


@pytest.mark.parametrize("name", ["flops", "bytes_per_second", "memory", "link", "between", "node"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} of slow must be above 0, not 0"):
        replace(SLOW, **{name: 0})


@pytest.mark.parametrize("name", ["overhead", "half_rows"])
def test_overheads_must_not_be_negative(name: str) -> None:
    assert getattr(replace(SLOW, **{name: 0}), name) == 0
    with pytest.raises(ConfigError, match=f"{name} of slow must be at least 0, not -1"):
        replace(SLOW, **{name: -1})
