"""Tuning a run for its model, data and machine: search, confirm, plan, and save the result as a profile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import TuningError
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds, limit_compiling
from mspipe_triton.machine import cores
from mspipe_triton.settings import default_settings, process_settings
from mspipe_triton.training.footprint import resolve_placement
from mspipe_triton.training.threads import check_threads
from mspipe_triton.tuning.kernels.operations import record_calls
from mspipe_triton.tuning.kernels.tune import KernelChoice, tune_kernels
from mspipe_triton.tuning.profile.key import Key, digest
from mspipe_triton.tuning.profile.profile import Profile, build
from mspipe_triton.tuning.profile.store import ProfileStore
from mspipe_triton.tuning.runs.gate import RunGate
from mspipe_triton.tuning.runs.measure import OutOfTime, RunMeasurer, stage_summary
from mspipe_triton.tuning.runs.space import run_space, settings_at
from mspipe_triton.tuning.study.comparison import ROUNDS, Comparison
from mspipe_triton.tuning.study.search import Cutoff, Search, SearchResult, Trial
from mspipe_triton.tuning.study.space import Point, Space

BUDGET = 60.0
_PAIRS = 3  # of blocks per trial
_KERNELS, _CONFIRMING = 0.5, 0.35  # shares of the remaining time
_STARTING = 5.0  # seconds of a command's start-up that do not count
_GRACE = 6.0  # seconds from the deadline until measuring stops


class BudgetError(TuningError):
    """The budget ran out before anything was measured."""


class TuningObserver:
    """Receives the progress of tuning and ignores it; screens override the methods that they need."""

    def phase(self, name: str) -> None:
        """A phase of the work begins."""

    def start(self, space: Space, shipped: RunSettings) -> None:
        """The search over a run's settings begins."""

    def trial(self, trial: Trial) -> None:
        """A trial of that search has ended."""

    def note(self, message: str) -> None:
        """One line that the user should see."""


@dataclass
class Tuner:
    """The tuning of one run; use it through `autotune`.

    Args:
        config: of the run; the search leaves out what it fixes (threads, schedule). stream: its events.
        store: for profiles and studies. observer: receives the progress.
        until: deadline, in the time of `time.perf_counter`. shipped: the settings to beat.
        key: of the run; it is passed because computing it reads all data.
        line: about the device, shown to the user after the session is built and the input is checked.
    """

    config: RunConfig
    stream: EventStream
    store: ProfileStore
    observer: TuningObserver
    until: float
    shipped: RunSettings
    key: Key
    line: str | None = None

    def prepare(self, compiling_counts: bool) -> None:
        """Build the session, run the shipped settings once to compile and warm up, and build the gate."""
        self.session = Session.create(replace(self.config, settings=self.shipped), self.stream)
        self.measurer = RunMeasurer(self.session, self.shipped)
        if self.line is not None:
            self.observer.note(self.line)
        self.observer.phase("compiling and warming up")
        if compiling_counts:
            self._limit()
        start = time.perf_counter()
        self.measurer.warm_up()
        if not compiling_counts:
            self.until += time.perf_counter() - start
            self._limit()
        self.gate = RunGate(self.config, self.stream)

    def kernels(self) -> KernelChoice:
        """Tune the kernels that one training iteration launches, on a GPU; on the CPU the choice is empty."""
        if not self.session.state.placement.apart:
            return KernelChoice({}, {}, {})
        self.observer.phase("tuning kernels")
        place, free = self.measurer.place(), self.config.train.schedule == "auto"
        settings = replace(self.shipped, schedule="serial") if free else self.shipped  # serial: all on this thread
        if self.shipped.resident:
            settings = replace(self.shipped, captured=False, branch=False)  # a replay makes no calls
        calls = record_calls(lambda: self.measurer.block(settings, place))
        choice = tune_kernels(calls, self._remaining() * _KERNELS, self.store.studies(self.key), self.config.train.seed)
        choice.apply()
        return choice

    def search(self, trials: int | None) -> SearchResult:
        """Search the run's settings with Optuna."""
        train, device = self.config.train, self.session.state.placement.device.type
        space = run_space(self.shipped, train, device, cores(), self.session.model.layers)
        self.observer.start(space, self.shipped)
        name = f"run settings {digest(self.key.circumstances)}"  # trials with other software do not count
        search = Search(space, name, self.store.studies(self.key), train.seed)
        remaining = self._remaining()
        reserve = min(1.2 * ROUNDS * self.measurer.round_seconds, _CONFIRMING * remaining)
        result = search.run(self._measure, remaining - reserve, trials, self.observer.trial)
        if search.notice:
            self.observer.note(search.notice)
        return result

    def confirm(self, settings: RunSettings) -> Comparison:
        """Compare the best settings with the shipped ones in the remaining time."""
        self.observer.phase("comparing the best settings with the shipped ones")
        return self.measurer.head_to_head(settings, self._remaining(), 1 if settings == self.shipped else ROUNDS)

    def profile(self, settings: RunSettings, kernels: KernelChoice, facts: Mapping[str, Any]) -> Profile:
        """Build the profile of the best settings, with the plan for their stage times."""
        stages = stage_summary(self.measurer.stages[settings])
        facts = {**facts, "shipped": asdict(self.shipped), "shipped_kept": settings == self.shipped, **kernels.facts}
        staleness = self.config.train.staleness
        return build(self.key, staleness, settings, stages, facts, kernels.kernels, kernels.variants)

    def _measure(self, point: Point, cutoff: Cutoff) -> Mapping[str, float]:
        """Run a trial: the gate, then pairs of blocks; the score is the median of their ratios."""
        settings = settings_at(self.shipped, point)
        reason = self.gate.refusal(settings)
        if reason is not None:
            raise RuntimeError(f"the results are wrong: {reason}")
        pairs: list[tuple[float, float]] = []
        for number in range(_PAIRS):
            try:
                pairs.append(self.measurer.pair(settings, self.measurer.place(), number % 2 == 1))
            except OutOfTime:
                if not pairs:
                    raise
                break
            if cutoff(_ratio(pairs)):
                break
        rate, shipped = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        score = 1.0 if settings == self.shipped else _ratio(pairs)
        return {"score": score, "events_per_s": rate, "shipped_events_per_s": shipped}

    def _remaining(self) -> float:
        return max(0.0, self.until - time.perf_counter())

    def _limit(self) -> None:
        """Stop compiling at the deadline, and measuring shortly after it."""
        limit_compiling(self.until)
        self.measurer.until = self.until + _GRACE


def autotune(
    config: RunConfig,
    stream: EventStream,
    budget: float | None = None,
    store: ProfileStore | None = None,
    observer: TuningObserver | None = None,
    started: float | None = None,
    compiling_counts: bool = True,
    trials: int | None = None,
    shipped: RunSettings | None = None,
    key: Key | None = None,
) -> Profile:
    """Find the fastest settings for a run on this machine, and save them as a profile.

    On a GPU the kernels that a training iteration launches are tuned first. Then Optuna searches the run's settings,
    starting with the shipped ones. A trial's score is its median speed relative to the shipped settings on the same
    stretches of the stream. The best settings are compared head to head with the shipped ones, which stay unless the
    gain exceeds the noise of that comparison. An interrupted search resumes where it stopped.

    Args:
        config: of the run; the search leaves out what its flags fix (threads, schedule). stream: its events.
        budget: seconds, 60 by default, counted from `started` (of `time.perf_counter`) except for a command's start-up.
        store: for profiles and studies; in the user's cache folder by default.
        observer: receives the progress.
        compiling_counts: True counts compiling for the shipped settings towards the budget.
        trials: the maximum number of trials of the run's settings; the budget may end the search earlier.
        shipped: the settings to beat, instead of the shipped ones.
        key: of the run, if already computed.

    Raises:
        ConfigError: the batch exceeds the number of training events, or no usable GPU is found for a GPU run, or the
            threads are far more than the cores.
        BudgetError: the budget ran out before the shipped settings had run.
    """
    begin, budget = time.perf_counter(), BUDGET if budget is None else budget
    store, observer = store or ProfileStore(), observer or TuningObserver()
    start = begin if started is None else min(begin, started + _STARTING)
    check_threads(config.train)
    config, line = resolve_device(config)
    key = key or Key.of(config, stream)
    config, _ = resolve_placement(config, stream)
    shipped = shipped or default_settings(config.train)
    tuner = Tuner(config, stream, store, observer, start + budget, shipped, key, line)
    with process_settings(replace(config, settings=None)):
        try:
            tuner.prepare(compiling_counts)
            kernels, result = tuner.kernels(), tuner.search(trials)
            best = settings_at(tuner.shipped, result.point)
            comparison = tuner.confirm(best)
            if tuner.shipped not in tuner.measurer.stages:
                raise OutOfTime
        except OutOfTime:
            raise BudgetError(
                f"the budget of {budget:g} s ran out before the shipped settings had run (compiling took "
                f"{compile_seconds():.0f} s); use a larger one, as in --budget {max(BUDGET, 2 * budget):g}"
            ) from None
        finally:
            limit_compiling()
    settings = best if comparison.better else tuner.shipped
    profile = tuner.profile(settings, kernels, {
        "budget": budget, "seconds": time.perf_counter() - begin, "seed": config.train.seed,
        "trials": len(result.trials), "best": asdict(best),
        "best_score": result.score if isfinite(result.score) else None, **comparison.to_json(),
    })  # fmt: skip
    store.save(profile)
    store.tell(observer.note)
    return profile


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(rate / shipped for rate, shipped in pairs)
