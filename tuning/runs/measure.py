"""Measuring a run: events per second under two settings in turn, and the stage times under each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds
from mspipe_triton.pipeline.flight import SpanLog
from mspipe_triton.settings import process_settings
from mspipe_triton.training.interrupt import Interrupts
from mspipe_triton.training.way import Way, carry_out
from mspipe_triton.tuning.study.comparison import ROUNDS, Comparison

WARM = 2  # iterations before the clock starts, while the first stages fill their queues
MIN_ITERATIONS, MAX_ITERATIONS = 4, 64  # timed iterations per block
_SLOW = 2.5  # a block this much slower than the shipped one is stopped
_GOLDEN = 0.6180339887498949


class OutOfTime(RuntimeError):
    """The time for measuring is over."""


class RunMeasurer:
    """Times blocks of training iterations of one session under different settings.

    Blocks start at different places in the training events, which the golden ratio spreads evenly for any number of
    blocks; settings are compared at the same place. Every block starts from an empty node state, and the weights keep
    changing; neither affects the cost of an iteration.

    Args:
        session: the session to train; measuring overwrites its node state and weights.
        shipped: the settings that others are compared with.
        seconds: target duration of the timed part of a block.
        until: time of `time.perf_counter` at which `OutOfTime` ends a measurement.
    """

    def __init__(
        self, session: Session, shipped: RunSettings, seconds: float = 0.2, until: float = float("inf")
    ) -> None:
        self.session, self.shipped, self.seconds, self.until = session, shipped, seconds, until
        self.size = session.config.train.batch_size
        self.batches = session.training_events // self.size
        self.iterations = min(MIN_ITERATIONS, self.batches)
        self.ways: dict[RunSettings, Way] = {}
        self.stages: dict[RunSettings, dict[str, list[float]]] = {}
        self.places, self.block_seconds = 0, float("inf")

    def warm_up(self) -> None:
        """Compile what the shipped settings need, and set the length of blocks."""
        place = self.place()
        self.block(self.shipped, place)
        iteration = self.size / self.block(self.shipped, place)
        self.iterations = max(self.iterations, min(MAX_ITERATIONS, self.batches, round(self.seconds / iteration)))
        self.block_seconds = self.iterations * iteration
        self.stages.clear()

    @property
    def round_seconds(self) -> float:
        """Approximate seconds per round of a comparison: four blocks, with the iterations that fill the pipeline."""
        return 4 * self.block_seconds * (self.iterations + WARM) / self.iterations

    def place(self) -> int:
        """Return the first batch of the next stretch."""
        self.places += 1
        return int(self.batches * (self.places * _GOLDEN % 1))

    def pair(self, settings: RunSettings, place: int, first: bool) -> tuple[float, float]:
        """Return rates of the settings and of the shipped ones on a stretch; `first` puts the settings' block first."""
        if first:
            return self.block(settings, place), self.block(self.shipped, place)
        shipped = self.block(self.shipped, place)
        return self.block(settings, place), shipped

    def head_to_head(
        self, settings: RunSettings, seconds: float, min_rounds: int = ROUNDS, max_rounds: int = 4 * ROUNDS
    ) -> Comparison:
        """Run blocks of both settings in turn, for about `seconds`; fewer than `min_rounds` only if time runs out."""
        rounds: list[tuple[tuple[float, float], tuple[float, float]]] = []
        start = time.perf_counter()
        try:
            while (count := len(rounds)) < max_rounds:
                elapsed = time.perf_counter() - start
                if count >= min_rounds and elapsed * (count + 1) / max(count, 1) >= seconds:
                    break
                place, first = self.place(), count % 2 == 1
                one, two = (self.pair(settings, place, first) for _ in range(2))
                rounds.append(((one[0], two[0]), (one[1], two[1])))
        except OutOfTime:
            pass
        return Comparison(tuple(rounds))

    def block(self, settings: RunSettings, place: int) -> float:
        """Return training events per second on a stretch; measured again if loops were compiled meanwhile.

        Settings far slower than the shipped ones are stopped early, and their rate up to there is returned.

        Raises:
            OutOfTime: the time `until` has passed.
        """
        for _ in range(3):
            before = compile_seconds()
            rate = self._train(settings, place)
            if compile_seconds() == before:
                break
        return rate

    def _train(self, settings: RunSettings, place: int) -> float:
        """Measure once; `settle` waits for the device at both ends of the timed part."""
        log = SpanLog()
        with process_settings(replace(self.session.config, settings=settings)):
            way = self._way(settings)
            start = stop = time.perf_counter()
            stretch = way.train_stretch(place, WARM + self.iterations, log)
            with Interrupts() as interrupts, closing(stretch) as iterations:
                for count, _ in enumerate(iterations, 1):
                    interrupts.check()
                    if count == WARM:
                        way.settle()
                    stop = time.perf_counter()
                    if stop > self.until:
                        raise OutOfTime("the time for measuring is over")
                    if count == WARM:
                        start = stop
                    if count == WARM + self.iterations or (count > WARM and stop - start > _SLOW * self.block_seconds):
                        break
                way.settle()
        has_stages = bool(log.samples)
        elapsed = (stop if has_stages else time.perf_counter()) - start
        if settings == self.shipped:
            self.block_seconds = elapsed
        stages = self.stages.setdefault(settings, {})
        for stage, seconds in log.samples.items():
            stages.setdefault(stage, []).extend(seconds[WARM:])
        if not has_stages:
            stages.setdefault("iteration", []).append(elapsed / (count - WARM))
        return (count - WARM) * self.size / elapsed

    def _way(self, settings: RunSettings) -> Way:
        """Return the settings' way, the same for every block, so that its plan learns the stage times."""
        if settings not in self.ways:
            ways = (way for other, way in self.ways.items() if other.features == settings.features)
            base = next((way.session for way in ways), self.session)  # its features are already in the right place
            self.ways[settings] = carry_out(base.under(settings))
        return self.ways[settings]


def stage_summary(stages: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return median, 90th percentile and mean seconds of every stage."""
    return {
        stage: {
            "median": statistics.median(seconds),
            "p90": sorted(seconds)[min(len(seconds) - 1, len(seconds) * 9 // 10)],
            "mean": statistics.fmean(seconds),
        }
        for stage, seconds in stages.items()
    }
