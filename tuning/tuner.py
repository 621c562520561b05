"""Tuning a run for its model, data and machine: search, confirm, plan, and keep what was found as a profile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from mspipe_triton.config import RunConfig, RunSettings
from mspipe_triton.data.events import EventStream
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import TuningError
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import compile_seconds, limit_compiling
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.settings import Tuned, cores, default_settings, process_settings
from mspipe_triton.training.footprint import resolve_placement
from mspipe_triton.tuning.kernels.operations import recorded
from mspipe_triton.tuning.kernels.tune import KernelChoice, tune_kernels
from mspipe_triton.tuning.profile.describe import described
from mspipe_triton.tuning.profile.key import Key, digest
from mspipe_triton.tuning.profile.profile import Profile, apply
from mspipe_triton.tuning.profile.store import ProfileStore
from mspipe_triton.tuning.runs.gate import RunGate
from mspipe_triton.tuning.runs.measure import OutOfTime, RunMeasurer, stage_summary
from mspipe_triton.tuning.runs.space import run_space, settings_at
from mspipe_triton.tuning.study.comparison import ROUNDS, Comparison
from mspipe_triton.tuning.study.search import Cut, Found, Search, Told
from mspipe_triton.tuning.study.space import Point, Space

BUDGET = 60.0
SHORT_BUDGET = 20.0
_PAIRS = 3
_KERNELS, _CONFIRMING = 0.5, 0.35  # shares of the time that is left
_STARTING = 5.0
_GRACE = 6.0


class TuningObserver:
    """Told of a tuning's progress; this one does nothing with it, screens override what they show."""

    def phase(self, name: str) -> None:
        """Another part of the work begins."""

    def start(self, space: Space, shipped: RunSettings) -> None:
        """The search over a run's settings begins."""

    def trial(self, told: Told) -> None:
        """A trial of it is over."""

    def note(self, message: str) -> None:
        """One line that the user should see."""


@dataclass
class Tuner:
    """The tuning of one run; `autotune` is how to use it.

    Args:
        config: of the run; what it fixes (threads, schedule) is not searched. stream: its events.
        store: where profiles and studies lie. observer: told of progress.
        until: when it has to be over, as `time.perf_counter` counts. shipped: what is to be beaten.
        key: of the run, for which the data were read through once.
        line: about the device, for the user, once the session is built and the input known to be right.
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
        """Build the session, run the shipped settings for the first time, and make the gate."""
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
        """On a GPU, the fastest configurations of the kernels that one training iteration launches; none on the CPU."""
        if not self.session.state.placement.apart:
            return KernelChoice({}, {}, {})
        self.observer.phase("tuning kernels")
        place, free = self.measurer.place(), self.config.train.schedule == "auto"
        alone = replace(self.shipped, schedule="serial") if free else self.shipped  # then all is on this thread
        if self.shipped.resident:
            alone = replace(self.shipped, captured=False, branch=False)  # a replay calls nothing
        calls = recorded(lambda: self.measurer.block(alone, place))
        choice = tune_kernels(calls, self._left() * _KERNELS, self.store.studies(self.key), self.config.train.seed)
        choice.apply()
        return choice

    def search(self, trials: int | None) -> Found:
        """Optuna's search over the run's settings."""
        train, device = self.config.train, self.session.state.placement.device.type
        space = run_space(self.shipped, train, device, cores(), self.session.model.layers)
        self.observer.start(space, self.shipped)
        name = f"run settings {digest(self.key.circumstances)}"  # a trial made with other software tells nothing
        search = Search(space, name, self.store.studies(self.key), train.seed)
        left = self._left()
        confirming = min(1.2 * ROUNDS * self.measurer.round_seconds, _CONFIRMING * left)
        found = search.run(self._measure, left - confirming, trials, self.observer.trial)
        if search.notice:
            self.observer.note(search.notice)
        return found

    def confirm(self, settings: RunSettings) -> Comparison:
        """The best settings beside the shipped ones, with the time that is left."""
        self.observer.phase("confirming the best settings beside the shipped ones")
        return self.measurer.head_to_head(settings, self._left(), 1 if settings == self.shipped else ROUNDS)

    def profile(self, chosen: RunSettings, kernels: KernelChoice, facts: Mapping[str, Any]) -> Profile:
        """The profile of the settings that were chosen, with the plan that their stage times lead to."""
        stages, staleness = stage_summary(self.measurer.stages[chosen]), self.config.train.staleness
        times = {name: seconds["median"] for name, seconds in stages.items()}
        plan = make_plan(chosen.schedule, times, None if staleness < 0 else staleness, depth=chosen.prefetch)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        facts = {**facts, "shipped": asdict(self.shipped), "shipped_kept": chosen == self.shipped, **kernels.facts}
        return Profile(
            self.key, self.stream.name, created, asdict(chosen), kernels.kernels, kernels.variants, stages,
            plan.to_json(), facts,
        )  # fmt: skip

    def _measure(self, point: Point, cut: Cut) -> Mapping[str, float]:
        """A trial: the gate, then pairs of blocks in turn; the score is the median of their ratios."""
        settings = settings_at(self.shipped, point)
        reason = self.gate.refusal(settings)
        if reason is not None:
            raise RuntimeError(f"computes something else: {reason}")
        pairs: list[tuple[float, float]] = []
        for number in range(_PAIRS):
            try:
                pairs.append(self.measurer.pair(settings, self.measurer.place(), number % 2 == 1))
            except OutOfTime:
                if not pairs:
                    raise
                break
            if cut(_ratio(pairs)):
                break
        rate, shipped = (statistics.median(each) for each in zip(*pairs, strict=True))
        score = 1.0 if settings == self.shipped else _ratio(pairs)
        return {"score": score, "events_per_s": rate, "shipped_events_per_s": shipped}

    def _left(self) -> float:
        return max(0.0, self.until - time.perf_counter())

    def _limit(self) -> None:
        """From here on nothing compiles past the end, and what is being measured then may only just be finished."""
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
    """Find the fastest way to carry a run out here, and keep it as a profile.

    On a GPU the kernels that a training iteration launches come first. Then Optuna searches the run's settings, the
    shipped ones first; a trial's score is the median ratio to the shipped settings, which run beside it on the same
    stretches of the stream. The best one is confirmed head to head, and the shipped settings stay unless the gain
    exceeds the noise of that very comparison. A search that was broken off goes on where it was.

    Args:
        config: of the run; what it fixes by flags (threads, schedule) is not searched. stream: its events.
        budget: seconds in all, 60 by default; what came after `started` (of `time.perf_counter`) counts, too, but for
            the few seconds that a command takes to start.
        store: where profiles and studies lie; by default the user's cache folder.
        observer: told of progress.
        compiling_counts: whether the budget pays for compiling what the shipped settings need.
        trials: the most that the search over a run's settings makes, if it is not ended by the budget.
        shipped: what is to be beaten, in the place of the settings that ship.
        key: of the run, where it is known already.

    Raises:
        ConfigError: the batch is above the number of training events, or no GPU is usable to tune on.
        TuningError: the budget was over before the shipped settings had run.
    """
    begun, budget = time.perf_counter(), BUDGET if budget is None else budget
    store, observer = store or ProfileStore(), observer or TuningObserver()
    start = begun if started is None else min(begun, started + _STARTING)
    config, line = resolve_device(config)
    key = key or Key.of(config, stream)
    config, _ = resolve_placement(config, stream)
    shipped = shipped or default_settings(config.train)
    tuner = Tuner(config, stream, store, observer, start + budget, shipped, key, line)
    with process_settings(replace(config, settings=None)):
        try:
            tuner.prepare(compiling_counts)
            kernels, found = tuner.kernels(), tuner.search(trials)
            best = settings_at(tuner.shipped, found.point)
            comparison = tuner.confirm(best)
            if tuner.shipped not in tuner.measurer.stages:
                raise OutOfTime
        except OutOfTime:
            raise TuningError(
                f"the budget of {budget:g} s was over before the shipped settings had run, of which compiling took "
                f"{compile_seconds():.0f} s; give it more, as in --budget {max(BUDGET, 2 * budget):g}"
            ) from None
        finally:
            limit_compiling()
    chosen = best if comparison.better else tuner.shipped
    profile = tuner.profile(chosen, kernels, {
        "budget": budget, "seconds": time.perf_counter() - begun, "seed": config.train.seed, "trials": len(found.told),
        "best": asdict(best), "best_score": found.score if isfinite(found.score) else None, **comparison.to_json(),
    })  # fmt: skip
    store.save(profile)
    for notice in store.notices:
        observer.note(notice)
    return profile


def settings_for(
    config: RunConfig,
    stream: EventStream,
    budget: float | None = None,
    store: ProfileStore | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Tuned | None:
    """What the profile of a run gives it, which is made first, in a short time, where none fits; None where that fails.

    Args:
        config: of the run. stream: its events. store: as in `autotune`.
        budget: seconds that making a profile may take, besides what compiling takes that the run needs itself.
        note: told one line at a time what is done.
    """
    store, budget = store or ProfileStore(), SHORT_BUDGET if budget is None else budget
    resolved, line = resolve_device(config)
    key = Key.of(resolved, stream)
    profile, start = store.find(key), time.perf_counter()
    for notice in store.notices:
        note(notice)
    store.notices.clear()
    path = store.path(key)
    if profile is not None:
        if line is not None:
            note(line)
        note(f"Settings from {path.name}: {described(profile)}.")
        apply(profile)
        return tuned(profile, path.name)
    lines = _Lines(note, f"No tuning profile fits yet: compiling, and tuning for {budget:g} s; --no-autotune skips it.")
    try:
        profile = autotune(config, stream, budget, store, lines, compiling_counts=False, key=key)
    except TuningError as error:
        note(f"Not tuned: {error}.")
        return None
    note(f"Tuned: {described(profile)}.")
    apply(profile)
    return tuned(profile, path.name, time.perf_counter() - start)


class _Lines(TuningObserver):
    """Says one line before the work begins, and passes notes on."""

    def __init__(self, line: Callable[[str], None], first: str) -> None:
        self.line, self.first = line, first

    def phase(self, name: str) -> None:
        """Only the first one counts."""
        if self.first:
            self.line(self.first)
        self.first = ""

    def note(self, message: str) -> None:
        """A line."""
        self.line(message)


def tuned(profile: Profile, name: str, seconds: float = 0.0) -> Tuned:
    """What a profile of this file name gives a run; `seconds` is what making it has cost just now."""
    times = {stage: found["median"] for stage, found in profile.stage_seconds.items()}
    return Tuned(RunSettings(**profile.settings), times, name, seconds)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(mine / shipped for mine, shipped in pairs)
