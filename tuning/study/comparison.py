"""The head-to-head comparison that decides a search: a candidate against the shipped settings, with gain and noise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDS = 5
Rounds = Sequence[tuple[tuple[float, float], tuple[float, float]]]


def compare(rounds: Rounds) -> tuple[float, float]:
    """Return gain and noise of a candidate; each round has two of its rates and two rates of the shipped settings.

    The gain is the candidate's relative speed-up, as the median over rounds. The noise is the threshold that the gain
    must exceed: two standard errors of the gain, or the median difference between the two shipped rates of a round if
    that is larger. Those two rates differ by noise alone. A round's ratio averages two runs of each side, so its spread
    is 1/√2 of the spread of that difference; the median of n values has a spread of 1.25/√n of theirs.
    """
    differences = [shipped[0] / shipped[1] - 1 for _, shipped in rounds]
    spread = 1.4826 * statistics.median(abs(difference) for difference in differences)
    noise = max(2 * 1.25 * spread / (2 * len(rounds)) ** 0.5, abs(statistics.median(differences)))
    return statistics.median(sum(candidate) / sum(shipped) for candidate, shipped in rounds) - 1, noise


@dataclass(frozen=True)
class Comparison:
    """A candidate against the shipped settings; every round runs both twice on one stretch of the stream (`compare`).

    Args:
        rounds: per round, two rates (events per second) of the candidate and two of the shipped settings.
    """

    rounds: Rounds

    @property
    def better(self) -> bool:
        """True if the gain exceeds the noise; False with fewer than `ROUNDS` rounds."""
        if len(self.rounds) < ROUNDS:
            return False
        gain, noise = compare(self.rounds)
        return gain > noise

    def to_json(self) -> dict[str, float | int | None]:
        """Median events per second of both sides, gain and noise; None before the first round."""
        if not self.rounds:
            return dict.fromkeys(("events_per_s", "shipped_events_per_s", "gain", "noise"), None) | {"rounds": 0}
        rate, shipped = (statistics.median(rate for pairs in self.rounds for rate in pairs[side]) for side in (0, 1))
        gain, noise = compare(self.rounds)
        row = {"events_per_s": rate, "shipped_events_per_s": shipped, "gain": gain, "noise": noise}
        return {**row, "rounds": len(self.rounds)}
