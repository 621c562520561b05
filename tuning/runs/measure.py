"""Measuring a run: events per second of one way to carry it out beside another, and the stage times under each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from mspipe_triton.config import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds
from mspipe_triton.pipeline.flight import Span, StageTimes
from mspipe_triton.settings import process_settings
from mspipe_triton.training.interrupt import Interrupts
from mspipe_triton.training.way import Way, carry_out
from mspipe_triton.tuning.study.comparison import ROUNDS, Comparison

WARM = 2  # iterations before the clock starts, in which the first stages fill their queues
LEAST, MOST = 4, 64  # timed iterations of a block
_SLOW = 2.5
_GOLDEN = 0.6180339887498949


class OutOfTime(RuntimeError):
    """The time to measure in is over."""


@dataclass
class SpanLog(StageTimes):
    """Seconds of every stage, iteration by iteration."""

    kept: dict[str, list[float]] = field(default_factory=dict)

    def add(self, spans: Sequence[Span]) -> None:
        """Count an iteration."""
        super().add(spans)
        for span in spans:
            self.kept.setdefault(span.stage, []).append(span.seconds)


class RunMeasurer:
    """Times blocks of training iterations of one session under different settings.

    Blocks stand at different places of the training events, which the golden ratio spreads evenly however many there
    are; what is compared runs on the same place. Every block starts from an empty node state, and the weights go on
    changing: neither changes what an iteration costs.

    Args:
        session: what is trained; its node state and weights are used up.
        shipped: the settings that others are compared with.
        seconds: how long the timed part of a block is about to take.
        until: time of `time.perf_counter` at which `OutOfTime` ends whatever is being measured.
    """

    def __init__(
        self, session: Session, shipped: RunSettings, seconds: float = 0.2, until: float = float("inf")
    ) -> None:
        self.session, self.shipped, self.seconds, self.until = session, shipped, seconds, until
        self.size = session.config.train.batch_size
        self.whole = session.split.train_end // self.size
        self.timed = min(LEAST, self.whole)
        self.ways: dict[RunSettings, Way] = {}
        self.stages: dict[RunSettings, dict[str, list[float]]] = {}
        self.places, self.taken = 0, float("inf")

    def warm_up(self) -> None:
        """Compile what the shipped settings need, and settle how long blocks are."""
        place = self.place()
        self.block(self.shipped, place)
        iteration = self.size / self.block(self.shipped, place)
        self.timed = max(self.timed, min(MOST, self.whole, round(self.seconds / iteration)))
        self.taken = self.timed * iteration
        self.stages.clear()

    @property
    def round_seconds(self) -> float:
        """About how long a round of a comparison takes: four blocks, with the iterations that fill the pipeline."""
        return 4 * self.taken * (self.timed + WARM) / self.timed

    def place(self) -> int:
        """The first batch of the next stretch."""
        self.places += 1
        return int(self.whole * (self.places * _GOLDEN % 1))

    def pair(self, settings: RunSettings, place: int, first: bool) -> tuple[float, float]:
        """Rates of the settings and of the shipped ones on a stretch, the settings' block first or second."""
        if first:
            return self.block(settings, place), self.block(self.shipped, place)
        shipped = self.block(self.shipped, place)
        return self.block(settings, place), shipped

    def head_to_head(
        self, settings: RunSettings, seconds: float, least: int = ROUNDS, most: int = 4 * ROUNDS
    ) -> Comparison:
        """Rounds of both settings' blocks in turn, for about `seconds`; fewer than `least` only where time is over."""
        rounds: list[tuple[tuple[float, float], tuple[float, float]]] = []
        start = time.perf_counter()
        try:
            while (done := len(rounds)) < most:
                spent = time.perf_counter() - start
                if done >= least and spent * (done + 1) / max(done, 1) >= seconds:
                    break
                place, first = self.place(), len(rounds) % 2 == 1
                one, two = (self.pair(settings, place, first) for _ in range(2))
                rounds.append(((one[0], two[0]), (one[1], two[1])))
        except OutOfTime:
            pass
        return Comparison(tuple(rounds))

    def block(self, settings: RunSettings, place: int) -> float:
        """Training events a second on a stretch; measured again where loops were compiled meanwhile.

        What is far slower than the shipped settings is broken off, and its speed up to there told.

        Raises:
            OutOfTime: see `until`.
        """
        for _ in range(3):
            compiled = compile_seconds()
            rate = self._train(settings, place)
            if compile_seconds() == compiled:
                break
        return rate

    def _train(self, settings: RunSettings, place: int) -> float:
        """The same once; what the device still has to do counts at both ends of the timed part."""
        log = SpanLog()
        with process_settings(replace(self.session.config, settings=settings)):
            way = self._way(settings)
            start = stop = time.perf_counter()
            stretch = way.train_stretch(place, WARM + self.timed, log)
            with Interrupts() as interrupts, closing(stretch) as iterations:
                for count, _ in enumerate(iterations, 1):
                    interrupts.check()
                    if count == WARM:
                        way.settle()
                    stop = time.perf_counter()
                    if stop > self.until:
                        raise OutOfTime("the time to measure in is over")
                    if count == WARM:
                        start = stop
                    if count == WARM + self.timed or (count > WARM and stop - start > _SLOW * self.taken):
                        break
                way.settle()
        staged = bool(log.kept)
        taken = (stop if staged else time.perf_counter()) - start
        if settings == self.shipped:
            self.taken = taken
        kept = self.stages.setdefault(settings, {})
        for stage, seconds in log.kept.items():
            kept.setdefault(stage, []).extend(seconds[WARM:])
        if not staged:
            kept.setdefault("iteration", []).append(taken / (count - WARM))
        return (count - WARM) * self.size / taken

    def _way(self, settings: RunSettings) -> Way:
        """One for each settings, so that its plan gets to know the stages' times."""
        if settings not in self.ways:
            alike = (each for known, each in self.ways.items() if known.features == settings.features)
            base = next((each.session for each in alike), self.session)  # whose features lie where they should
            self.ways[settings] = carry_out(base.under(settings))
        return self.ways[settings]


def stage_summary(stages: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median, 90th percentile and mean seconds of every stage."""
    return {
        stage: {
            "median": statistics.median(seconds),
            "p90": sorted(seconds)[min(len(seconds) - 1, len(seconds) * 9 // 10)],
            "mean": statistics.fmean(seconds),
        }
        for stage, seconds in stages.items()
    }
