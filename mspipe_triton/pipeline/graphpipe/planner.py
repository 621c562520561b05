"""A planner's interface, and the fewest devices with which a stage keeps to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mspipe_triton.pipeline.graphpipe.plan import Part
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

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

    def parts(self, rhythm: Rhythm, limit: float, depth: int | None = None) -> tuple[Part, ...] | None:
        """Return the partition of least depth whose stages need at most `limit` seconds per sample, or None.

        It fits into the devices and their memory, and is at most `depth` stages deep. Among equals it needs the fewest
        devices.
        """


def fewest_devices(problem: Problem, operators: int, rhythm: Rhythm, level: int, limit: float) -> int:
    """Return the fewest devices on which a stage needs at most `limit` seconds per sample, and fits into their memory.

    Args:
        problem: the problem.
        operators: the stage's.
        rhythm: of all stages.
        level: the number of stages on the longest path from this one to the end, itself included; with one rhythm for
            all stages it is also the number of groups of passes that the stage holds (`held`).
        limit: seconds per sample.

    Returns:
        The number of devices; `NONE` if no number suffices.
    """
    in_flight = min(level * rhythm.unit, problem.batch) // rhythm.micro_batch
    for devices in range(1, min(problem.cluster.devices, rhythm.micro_batch) + 1):
        if (
            problem.time_per_sample(operators, rhythm.micro_batch, devices) <= limit
            and problem.memory(operators, rhythm.micro_batch, devices, in_flight) <= problem.cluster.memory
        ):
            return devices
    return NONE
