"""Model of N ranks: stage times by share and batch, the time of exchanges on a link, and the plan that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, pairwise

import torch

from mspipe_triton.pipeline.plan import Plan, make_plan
from mspipe_triton.pipeline.schedules import stage_names

STAGES = stage_names("exact", shared=True)
WORTHWHILE = 1.1  # events/s after a doubling of the ranks, over those before it
# Parts of an iteration, without which its period is planned again to find what holds it up.
PARTS = {"fixed": "fixed parts", "whole": "work on the whole batch", "link": "the link"}
# What the time of a stage grows with: events of the share, events of the batch, and the batch's distinct ends. Sampling
# sorts the ends of the whole batch, and every rank makes and stores all of its writes.
GROWS = {
    "sample": ("share", "batch"), "features": ("share", "batch"), "memory": ("share",), "patch": ("share", "ends"),
    "forward": ("share",), "backward": ("share",), "exchange": ("batch", "ends"), "update": ("batch", "ends"),
}  # fmt: skip
_ZERO = {"fixed": {"fixed": 0.0}, "whole": {"batch": 0.0, "ends": 0.0}, "link": {}, "": {}}
_NANO = 10**9


@dataclass(frozen=True)
class Link:
    """A link of every rank: bytes per second in each direction, and seconds of latency per message.

    Collectives go around a ring, in N − 1 steps of a gather and twice as many of a reduction. With `tree`, they take
    ⌈log₂ N⌉ steps and twice as many, and send as many bytes.
    """

    bandwidth: float
    latency: float
    tree: bool = False

    def gather(self, total: float, ranks: int) -> float:
        """Seconds of an all-gather of `total` bytes of all ranks: (N − 1)/N · total / bandwidth + steps · latency."""
        return (ranks - 1) / ranks * total / self.bandwidth + self._steps(ranks) * self.latency

    def reduce(self, size: float, ranks: int) -> float:
        """Seconds of an all-reduce of `size` bytes, which sends each of them twice."""
        return 2 * self.gather(size, ranks)

    def _steps(self, ranks: int) -> int:
        return math.ceil(math.log2(ranks)) if self.tree else ranks - 1


LINKS = {
    "NVLink": Link(450e9, 2e-6),
    "400 Gb/s": Link(50e9, 5e-6),
    "25 Gb/s": Link(3.125e9, 20e-6),
}


@dataclass(frozen=True)
class Cost:
    """Seconds of a stage: `fixed`, per event of the rank's `share`, per event of the `batch`, per distinct end."""

    fixed: float = 0.0
    share: float = 0.0
    batch: float = 0.0
    ends: float = 0.0

    def seconds(self, share: float, batch: float, ends: float) -> float:
        """Seconds for a share of C events of a batch of B with E ends: fixed + share · C + batch · B + ends · E."""
        return self.fixed + self.share * share + self.batch * batch + self.ends * ends


Costs = Mapping[str, Cost]


def fit_cost(stage: str, samples: Sequence[tuple[float, float, float, float]]) -> tuple[Cost, float]:
    """Fit a stage's cost to samples (C, B, E, seconds), by least squares of relative errors with no part below 0.

    Returns:
        The cost, and its largest relative error on the samples.
    """
    table = torch.tensor([(1, *sample) for sample in samples], dtype=torch.float64)
    rows = table[:, :-1] / table[:, -1:]
    best, least = torch.zeros(4, dtype=torch.float64), float("inf")
    # The best fit with no part below 0 is the best of those fits to some of the parts that have none below 0.
    possible = [0, *(1 + ("share", "batch", "ends").index(name) for name in GROWS[stage])]
    for count in range(1, 1 + len(possible)):
        for columns in map(list, combinations(possible, count)):
            solution = torch.linalg.lstsq(rows[:, columns], torch.ones(len(samples), 1, dtype=torch.float64)).solution
            parts = torch.zeros(4, dtype=torch.float64)
            parts[columns] = solution.squeeze(1)
            loss = float((rows @ parts - 1).square().sum())
            if bool((parts >= 0).all()) and loss < least:
                best, least = parts, loss
    return Cost(*best.tolist()), float((rows @ best - 1).abs().max())


def message(rows: float, dim: int, itemsize: int = 4) -> float:
    """Bytes that a rank sends to gather: its part of the loss, and R rows of h [D] with their digested times."""
    return 8 + 8 * rows + math.ceil(rows * dim * itemsize / 8) * 8


@dataclass(frozen=True)
class Workload:
    """A batch of B events on N ranks, each with its share.

    Args:
        batch: B. ranks: N. ends: E, the batch's distinct ends. rows: R, rows that a rank sends. dim: D.
        gradients: bytes of all gradients.
    """

    batch: int
    ranks: int
    ends: float
    rows: float
    dim: int
    gradients: int

    @property
    def share(self) -> int:
        """C, events of a rank."""
        return -(-self.batch // self.ranks)

    @property
    def gathered(self) -> float:
        """Bytes that a rank receives in the gather of an iteration, its own included."""
        return self.ranks * message(self.rows, self.dim)


def stage_times(costs: Costs, work: Workload, link: Link, speed: float = 1, without: str = "") -> dict[str, Fraction]:
    """Seconds of each stage of a rank.

    Args:
        speed: of the device, over that of the measured one. without: a part of `PARTS` to leave out.
    """
    remaining = {name: replace(costs[name], **_ZERO[without]) for name in STAGES}
    seconds = {name: cost.seconds(work.share, work.batch, work.ends) / speed for name, cost in remaining.items()}
    if without != "link":
        seconds["exchange"] += link.gather(work.gathered, work.ranks)
        seconds["backward"] += link.reduce(work.gradients, work.ranks)
    return {name: Fraction(max(1, round(time * _NANO)), _NANO) for name, time in seconds.items()}


def plan_ranks(costs: Costs, work: Workload, link: Link, speed: float = 1, without: str = "") -> Plan:
    """Plan `exact` for a rank; arguments as in `stage_times`."""
    return make_plan("exact", stage_times(costs, work, link, speed, without))


def obstacle(costs: Costs, work: Workload, link: Link, speed: float = 1) -> str:
    """The part without which the period would be the shortest."""
    return min(PARTS, key=lambda part: plan_ranks(costs, work, link, speed, part).period)


def last_worthwhile(rates: Iterable[tuple[int, float]]) -> int:
    """The number of ranks from which on one doubling gains less than a tenth; rates are (ranks, events/s), doubling."""
    points = list(rates)
    for (ranks, rate), (_, following) in pairwise(points):
        if following < WORTHWHILE * rate:
            return ranks
    return points[-1][0]
