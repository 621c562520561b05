"""Costs of many stages at once, as arrays that equal those of `Problem` bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mspipe_triton.pipeline.graphpipe.problem import Problem

Floats = NDArray[np.float64]


class CostTables:
    """Time and memory of N stages on 1, 2, … devices.

    Args:
        problem: the problem.
        stages: sets of operators [N].
    """

    def __init__(self, problem: Problem, stages: Sequence[int]) -> None:
        self._problem = problem
        self._sums = np.array([problem.cost(each) for each in stages], dtype=np.float64).T[:, :, None]

    def times(self, micro_batch: int) -> Floats:
        """Return `Problem.time_per_sample`, [N, D] with D = min(devices of the cluster, micro_batch)."""
        forward, forward_each, backward, backward_each, parameters, _, received = self._sums
        devices, share = self._devices(micro_batch)
        slowest = self._problem.cluster.slowest
        work = (forward + forward_each * share + (backward + backward_each * share)) / micro_batch
        work += 2 * (devices - 1) / devices * parameters / slowest / self._problem.batch
        times: Floats = np.maximum(work, received / slowest)
        return times

    def memory(self, micro_batch: int, in_flight: int) -> Floats:
        """Return `Problem.memory`, [N, D] with D as in `times`."""
        parameters, activations = self._sums[4:6]
        sizes: Floats = parameters * self._problem.copies + activations * in_flight * self._devices(micro_batch)[1]
        return sizes

    def _devices(self, micro_batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of devices, and the samples of a micro-batch that one of them works on."""
        devices = np.arange(1, min(self._problem.cluster.devices, micro_batch) + 1)
        return devices, -(-micro_batch // devices)
