"""A planner's interface, and the fewest devices with which stages keep to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mspipe_triton.pipeline.graphpipe.plan import Part
from mspipe_triton.pipeline.graphpipe.problem import Problem, StageCost
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

Counts = npt.NDArray[np.int32]
NONE = 1 << 20  # more devices than any cluster has


class Planner(Protocol):
    """A search over one family of partitions, in which all stages have the same rhythm.

    Attributes:
        problem: the problem.
        chain: its plans are chains: each stage depends on the one before it.
        states: states of its dynamic programme that it has visited so far.
    """

    problem: Problem
    chain: bool
    states: int

    def limits(self, rhythm: Rhythm) -> Sequence[float]:
        """Return the times per sample that stages of the family have, ascending, without repetition.

        The bottleneck of every partition of the family is one of them.
        """

    def parts(self, rhythm: Rhythm, limit: float) -> tuple[Part, ...] | None:
        """Return the partition of least depth whose stages need at most `limit` seconds per sample, or None.

        It fits into the devices and their memory. Among equals it needs the fewest devices.
        """


class StageTable:
    """The stages of a family of partitions, a row for each cost, and what they need.

    Levels count the stages on the longest path from a stage to the end, itself included. If all stages have one rhythm,
    the level is also the number of groups of passes that a stage holds (`held`).

    Args:
        problem: the problem.
        levels: the highest level.
    """

    def __init__(self, problem: Problem, levels: int) -> None:
        self.problem, self.levels = problem, levels
        self._rows: dict[StageCost, int] = {}
        self._needs = lru_cache(maxsize=None)(self._needs_of)

    def row(self, operators: int) -> int:
        """Return the row of a stage; it is added if no stage of the same cost is there."""
        return self._rows.setdefault(self.problem.cost(operators), len(self._rows))

    def limits(self, rhythm: Rhythm) -> list[float]:
        """Return the times per sample of all stages on any number of devices, ascending, without repetition."""
        limits: list[float] = np.unique(self._needs(rhythm)[0]).tolist()
        return limits

    def fewest(self, rhythm: Rhythm, limit: float) -> Counts:
        """Return the fewest devices on which stages need at most `limit` seconds per sample, and fit into the memory.

        Returns:
            An entry per row and level, [rows, levels]; the first level is 1. `NONE` if no number of devices suffices.
        """
        times, least = self._needs(rhythm)
        devices = np.where(times <= limit, np.arange(1, times.shape[1] + 1, dtype=np.int32), np.int32(NONE))
        devices = np.minimum.accumulate(devices[:, ::-1], axis=1)[:, ::-1]
        devices = np.pad(devices, ((0, 0), (0, 1)), constant_values=NONE)
        return np.take_along_axis(devices, least, axis=1)

    def _needs_of(self, rhythm: Rhythm) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
        """Return times per sample, [rows, devices], and the devices too few for the memory, [rows, levels]."""
        problem, size = self.problem, rhythm.micro_batch
        costs = StageCost(*np.array(list(self._rows), np.float64).T[:, :, None])
        devices = np.arange(1, problem.most_devices(size) + 1)
        least = np.empty((len(self._rows), self.levels), np.intp)
        for level in range(self.levels):
            in_flight = min((level + 1) * rhythm.unit, problem.batch) // size
            excess = problem.memories(costs, size, devices, in_flight) > problem.cluster.memory
            least[:, level] = excess.sum(axis=1)
        return problem.times_per_sample(costs, size, devices), least
