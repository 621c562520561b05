"""Strategies: the settings that a run trains under, fixed before it starts or chosen block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session


def short_line(seconds: float, gains: str) -> str:
    """Return the line on a run that is too short to gain from something."""
    return f"Training takes about {max(1, round(seconds))} s, too short to gain from {gains}."


@dataclass(frozen=True)
class Block:
    """Iterations in a row under the same settings.

    Args:
        settings: of the iterations.
        iterations: their number; None for all that the epoch has left.
        seconds: time after which the block takes in no more iterations.
    """

    settings: RunSettings
    iterations: int | None = None
    seconds: float = float("inf")


@dataclass(frozen=True)
class BlockTimes:
    """Times of a block that has ended, without those of compiling.

    Args:
        settings: of the block.
        epoch, iteration: of its first iteration. iterations: their number.
        wall: seconds of the whole block, with filling and draining the pipeline.
        timed, seconds: the number of its last iterations, between which the pipeline was full, and their seconds.
        stages: seconds of each of these iterations, by stage.
        disturbed: True if other work used the machine meanwhile, so that the times say little about the settings.
    """

    settings: RunSettings
    epoch: int
    iteration: int
    iterations: int
    wall: float
    timed: int
    seconds: float
    stages: Mapping[str, Sequence[float]] = field(default_factory=dict)
    disturbed: bool = False


@dataclass(frozen=True)
class Prospect:
    """A run before its first iteration.

    Args:
        session: the run's session.
        iterations: the number of training iterations to come, over all epochs.
        note: gets lines for the user. record: gets entries of metrics.jsonl.
    """

    session: Session
    iterations: int
    note: Callable[[str], None]
    record: Callable[[dict[str, Any]], None]


class Strategy:
    """Settings of a run's blocks; this class keeps the run's own.

    All settings that a strategy uses must compute the same. Before each block the run asks for it (`block`), and tells
    the times afterwards (`ended`). Strategies that are not `in_blocks` are asked for nothing.

    Attributes:
        settings: those of the first iteration and, later, those in force outside trials; None for the config's.
        stage_seconds: seconds of every stage for the first plan; empty if they are not known.
        in_blocks: True if the settings may change between blocks.
    """

    settings: RunSettings | None = None
    stage_seconds: Mapping[str, float] = {}
    in_blocks = False

    def begin(self, prospect: Prospect) -> None:
        """Prepare for a run that starts; only strategies in blocks are told."""

    def block(self, quiet: bool) -> Block:
        """Return the next block; `quiet` is False while other work uses the machine."""
        raise NotImplementedError

    def ended(self, times: BlockTimes) -> None:
        """Take in the times of the block that has just ended."""

    def declines(self, seconds: float) -> bool:
        """Return True if settings are not searched for, since training takes only so many seconds in all.

        The strategy says no more of it; whoever asks does.
        """
        return False

    def result(self, stage_seconds: Mapping[str, float]) -> dict[str, Any] | None:
        """Return "tuning" of `result.json`, from the stage times of the fastest epoch; called once, at the end."""
        return None


class Fixed(Strategy):
    """Settings and stage times from a profile, for the whole run.

    Args:
        settings: of the run.
        stage_seconds: as in `Strategy`.
        profile: the profile's name, for `result.json`.
    """

    def __init__(
        self, settings: RunSettings, stage_seconds: Mapping[str, float] | None = None, profile: str = ""
    ) -> None:
        self.settings, self.stage_seconds, self.profile = settings, stage_seconds or {}, profile

    def result(self, stage_seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the profile's stage times, and the relative errors that measured ones show."""
        planned = dict(self.stage_seconds)
        errors = {name: stage_seconds[name] / time - 1 for name, time in planned.items() if name in stage_seconds}
        return {"profile": self.profile, "trials": 0, "stage_seconds": planned, "stage_seconds_off": errors}
