"""The head-to-head comparison that decides a search: rounds of a candidate beside what ships, their gain and noise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDS = 5
Rounds = Sequence[tuple[tuple[float, float], tuple[float, float]]]


def compare(rounds: Rounds) -> tuple[float, float]:
    """Gain and noise from rounds of two rates of a candidate and two of what is shipped each.

    The gain is the median over rounds of how much faster the candidate is, as a share. The noise is what it has to
    exceed: two standard errors of it, or how far what is shipped stands from itself, if that is further. The two rates
    of what is shipped differ within a round by noise alone. A round's ratio averages two runs of each kind, so it
    scatters by 1/√2 of how that difference does, and a median of n by 1.25/√n of what it is taken of.
    """
    apart = [shipped[0] / shipped[1] - 1 for _, shipped in rounds]
    spread = 1.4826 * statistics.median(abs(each) for each in apart)
    noise = max(2 * 1.25 * spread / (2 * len(rounds)) ** 0.5, abs(statistics.median(apart)))
    return statistics.median(sum(mine) / sum(shipped) for mine, shipped in rounds) - 1, noise


@dataclass(frozen=True)
class Comparison:
    """One way beside the shipped one, over rounds that ran both twice on the same stretch of the stream (`compare`).

    Args:
        rounds: of two rates (events a second) of the way and two of the shipped one each.
    """

    rounds: Rounds

    @property
    def better(self) -> bool:
        """Whether the gain exceeds the noise, which takes `ROUNDS` rounds to tell."""
        if len(self.rounds) < ROUNDS:
            return False
        gain, noise = compare(self.rounds)
        return gain > noise

    def to_json(self) -> dict[str, float | int | None]:
        """Median events a second of both, gain and noise; None before the first round."""
        if not self.rounds:
            return dict.fromkeys(("events_per_s", "shipped_events_per_s", "gain", "noise"), None) | {"rounds": 0}
        mine, shipped = (statistics.median(rate for each in self.rounds for rate in each[side]) for side in (0, 1))
        gain, noise = compare(self.rounds)
        facts = {"events_per_s": mine, "shipped_events_per_s": shipped, "gain": gain, "noise": noise}
        return {**facts, "rounds": len(self.rounds)}
