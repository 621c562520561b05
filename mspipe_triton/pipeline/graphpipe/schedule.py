"""Schedules of micro-batches: how many a stage holds, and the order of its forward and backward passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import gcd, isqrt
from typing import NamedTuple

from mspipe_triton.errors import ConfigError

GROUPS = {"1f1b": (1,), "kfkb": (1, 2, 4)}
"""Sizes of the groups of passes that a schedule may use."""


@dataclass(frozen=True)
class Rhythm:
    """The passes of a stage in steady state: `group` forward passes, then as many backward passes (kFkB).

    Args:
        micro_batch: samples per pass.
        group: k; 1 is 1F1B.

    Raises:
        ConfigError: a number is below 1.
    """

    micro_batch: int
    group: int = 1

    def __post_init__(self) -> None:
        for name in ("micro_batch", "group"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def unit(self) -> int:
        """Samples per group of passes."""
        return self.micro_batch * self.group


def divisors(batch: int) -> list[int]:
    """Return the divisors of a mini-batch, ascending: the micro-batches that it can be cut into."""
    small = [each for each in range(1, isqrt(batch) + 1) if not batch % each]
    return sorted({*small, *(batch // each for each in small)})


class Held(NamedTuple):
    """Samples that a stage holds between their forward and backward passes, and the unit in which it takes them."""

    samples: int
    unit: int


def held(unit: int, successors: Iterable[Held], batch: int) -> Held:
    """Return what a stage must hold, so that none of its successors ever waits for it.

    The last stage holds one unit. Between the forward and the backward passes over a sample, another stage holds what a
    successor holds, and the units of both that are under way: u + v. Where units do not begin together, a backward pass
    comes up to u − gcd(u, v) samples after the successor's, and so far ahead must the forward passes be. The sum is
    2u + v − 2 gcd(u, v) more than the successor. With equal units that is one unit more than the successor that holds
    most, so a chain of S stages holds S, …, 2, 1.

    In branches this presumes that all stages divide their time equally between forward and backward passes; otherwise
    a pass may wait a little.

    Args:
        unit: samples per group of passes of the stage.
        successors: the same of the stages that use its output.
        batch: samples per mini-batch, the most that a stage can hold.
    """
    most = unit
    for each in successors:
        most = max(most, each.samples + 2 * unit + each.unit - 2 * gcd(unit, each.unit))
    return Held(min(batch, -(-most // unit) * unit), unit)


def passes(rhythm: Rhythm, samples: int, batch: int) -> Iterator[tuple[bool, int]]:
    """Yield the passes of a stage over a mini-batch in order: forward or not, and the number of the micro-batch.

    Forward passes over all that it holds come first; then groups of backward and forward passes alternate.

    Args:
        rhythm: micro-batch and group size; `batch` is a multiple of the micro-batch.
        samples: samples that the stage holds.
        batch: samples per mini-batch.
    """
    total = batch // rhythm.micro_batch
    ahead, behind = min(total, samples // rhythm.micro_batch), 0
    yield from ((True, number) for number in range(ahead))
    while behind < total:
        for number in range(behind, min(total, behind + rhythm.group)):
            yield False, number
        behind = min(total, behind + rhythm.group)
        for number in range(ahead, min(total, ahead + rhythm.group)):
            yield True, number
        ahead = min(total, ahead + rhythm.group)
