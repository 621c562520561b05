"""Tuning of a run while it trains: blocks of its own iterations are the trials, for a small share of its time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.execution import RunSettings
from mspipe_triton.kernels.runtime.fusion import fusion_enabled
from mspipe_triton.machine import cores
from mspipe_triton.training.strategy import Block, BlockTimes, Prospect, Strategy, short_line
from mspipe_triton.tuning.profile.describe import describe
from mspipe_triton.tuning.profile.key import Key
from mspipe_triton.tuning.profile.profile import build
from mspipe_triton.tuning.profile.store import ProfileStore
from mspipe_triton.tuning.runs.gate import RunGate
from mspipe_triton.tuning.runs.measure import stage_summary
from mspipe_triton.tuning.runs.space import run_space, settings_at
from mspipe_triton.tuning.runs.timed_gate import TimedGate
from mspipe_triton.tuning.study.comparison import ROUNDS, Comparison
from mspipe_triton.tuning.study.search import MARGIN

if TYPE_CHECKING:  # it imports Optuna, which takes a third of a second
    from mspipe_triton.tuning.study.proposals import Proposals
    from mspipe_triton.tuning.study.space import Point

SHARE = 0.05  # of the run's training time that tuning may cost
FEWEST = 3  # trials that are worth a start
GATE_SECONDS, TRIAL_SECONDS = 2.5, 0.4  # usual costs of the gate's reference and of a trial
_LEAST = GATE_SECONDS + FEWEST * TRIAL_SECONDS  # seconds that tuning needs
_WATCHED = 24  # iterations before the run's time is estimated
_SECONDS, _MIN, _MAX = 0.4, 10, 64  # aim for a block's seconds, and bounds of its iterations
_WAITING = 2.0  # seconds of a block that waits for the machine to be free
_PAIRS = 3  # of blocks per trial
_TRIES = 4  # of a block that other work disturbs
_SLOW = 2.5  # a block this much slower than the shipped one is stopped
_LEADER = 0.95  # score from which the best trial is compared head to head
_HOPELESS = 8  # trials in a row that are not faster than the shipped settings, after which the search ends
_GAIN = 0.1  # gain that further trials may bring at best

Course = Generator[Block, BlockTimes, None]
Measured = Generator[Block, BlockTimes, BlockTimes | None]


class OnlineTuning(Strategy):
    """Tries other settings on blocks of a run's first epochs, beside blocks of the shipped ones, and keeps the fastest.

    The blocks train as all iterations do, so tuning costs only the gate, draining the pipeline, and time lost in slower
    blocks; it ends when this has reached `SHARE` of the run's estimated training time, or when no gain is in sight.
    Nothing is tried while other work uses the machine.

    Args:
        config: of the run. stream: its events. key: of the run. store: for the profile.
        clock: seconds. gate: makes the gate from the config of the run, its events and its shipped settings.
    """

    in_blocks = True

    def __init__(
        self, config: RunConfig, stream: EventStream, key: Key, store: ProfileStore,
        clock: Callable[[], float] = time.perf_counter, gate: Callable[..., Any] = RunGate,
    ) -> None:  # fmt: skip
        self.config, self.key, self.store, self.gate = config, key, store, TimedGate(gate, stream, clock)
        self.cost = self.wall = 0.0
        self.trials, self.facts, self.name = list[dict[str, Any]](), dict[str, Any](), ""
        self.stages: dict[RunSettings, dict[str, list[float]]] = {}
        self.begun, self.quiet, self.silent, self.place = False, True, False, (1, 0)
        self.times: BlockTimes | None = None
        self.shipped_second: float | None = None  # seconds of an iteration under the shipped settings

    def begin(self, prospect: Prospect) -> None:
        """See `Strategy`."""
        self.begun, self.prospect, self.remaining = True, prospect, prospect.iterations
        self.shipped = self.settings = prospect.session.settings
        self.course: Course | None = self._course()
        if prospect.iterations <= _WATCHED:
            self.course = None

    def block(self, quiet: bool) -> Block:
        """See `Strategy`."""
        self.quiet = quiet
        if self.course is not None:
            try:
                return next(self.course) if self.times is None else self.course.send(self.times)
            except StopIteration:
                self.course = None
        assert self.settings is not None
        return Block(self.settings)

    def ended(self, times: BlockTimes) -> None:
        """See `Strategy`."""
        self.times, self.place = times, (times.epoch, times.iteration)
        self.remaining -= times.iterations
        self.wall += times.wall
        if self.prospect.iterations <= _WATCHED and self.remaining <= 0:
            self._tell(self.wall)
        if self.course is not None and not times.disturbed:
            for stage, seconds in times.stages.items():
                self.stages.setdefault(times.settings, {}).setdefault(stage, []).extend(seconds)

    def declines(self, seconds: float) -> bool:
        """See `Strategy`."""
        if not self.begun or self.trials or (self.course is not None and SHARE * seconds >= _LEAST):
            return False
        self.course, self.silent = None, True
        return True

    def result(self, stage_seconds: Mapping[str, float]) -> dict[str, Any] | None:
        """Return the trials, what they cost, and the choice; None for a run that has not been tuned."""
        if not self.begun:
            return None
        measured = self.wall + self.gate.seconds
        return {
            "profile": self.name, "trials": len(self.trials), "cost_seconds": self.cost,
            "share": self.cost / measured if measured else 0.0, "settings": asdict(self.settings or self.shipped),
            "gain": None, "noise": None, **self.facts, "stage_seconds": {}, "stage_seconds_off": {},
        }  # fmt: skip

    def _course(self) -> Course:
        """The search: estimate the run, try settings while the budget lasts, and compare the best head to head."""
        first = yield Block(self.shipped, _WATCHED)
        if self._too_short(first.wall / first.iterations):
            return
        watched = yield from self._measure(self.shipped, _WATCHED)
        if watched is None or self._too_short(watched.seconds / watched.timed):
            return
        assert self.shipped_second is not None
        self.length = max(_MIN, min(_MAX, round(_SECONDS / self.shipped_second)))
        best = yield from self._search()
        if len(self.trials) >= FEWEST:
            yield from self._choose(best)

    def _too_short(self, second: float) -> bool:
        """Set the budget of a run whose iterations take `second` seconds; say so if it allows for no tuning."""
        training = second * self.prospect.iterations
        self.budget = SHARE * training
        short = self.budget < _LEAST
        if short:
            self._tell(training)
        return short

    def _tell(self, training: float) -> None:
        """Say, once, that the run is too short to tune."""
        if not self.silent:
            self.silent = True
            self.prospect.note(short_line(training, "tuning"))

    def _search(self) -> Generator[Block, BlockTimes, RunSettings | None]:
        """Try settings; return the fastest, or None if there is none but the shipped ones."""
        from mspipe_triton.tuning.study.proposals import Proposals

        proposals, longest, hopeless, scores = self._proposals(Proposals), TRIAL_SECONDS, 0, dict[RunSettings, float]()
        while (point := proposals.next()) is not None and hopeless < _HOPELESS:
            before, settings = self.cost, settings_at(self.shipped, point)
            if self._over(settings):
                proposals.tell(point, None, complete=False)
                continue
            reserve = longest + ROUNDS * 2 * self._drain
            assert self.shipped_second is not None
            if before + reserve > self.budget or _GAIN * self.remaining * self.shipped_second < longest:
                break
            score, complete = yield from self._try(point, settings)
            proposals.tell(point, score, complete)
            if complete and score is not None:
                scores[settings] = score
            hopeless = 0 if score is not None and score > 1 else hopeless + 1
            longest = max(TRIAL_SECONDS, self.cost - before)
        return max(scores, key=scores.__getitem__, default=None)

    def _proposals(self, kind: type[Proposals]) -> Proposals:
        """Return the proposals, to which the shipped settings are known; loops vary only if they are compiled."""
        session = self.prospect.session
        default = replace(self.shipped, fused=self.shipped.fused and fusion_enabled())
        space = run_space(default, session.config.train, "cpu", cores(), session.model.layers)
        proposals = kind(space, session.config.train.seed)
        proposals.tell(dict(space.default), 1.0, complete=True)
        return proposals

    def _over(self, settings: RunSettings) -> bool:
        """Return True for pipelines with more threads than cores, whose threads wait for one another for long."""
        return settings.schedule != "serial" and settings.threads + settings.host_threads > max(2, cores())

    def _try(
        self, point: Point, settings: RunSettings
    ) -> Generator[Block, BlockTimes, tuple[float | None, bool]]:  # fmt: skip
        """Run a trial, and record it; return its score, and whether it is complete."""
        before = self.gate.seconds
        reason = self.gate.refusal(self.prospect.session.config, self.shipped, settings)
        self.cost += self.gate.seconds - before
        if reason is not None:
            self._record(settings, "refused", None, None, reason)
            return None, False
        pairs = list[tuple[float, float]]()
        for number in range(_PAIRS):
            pair = yield from self._pair(settings, number % 2 == 1)
            if pair is None:
                break
            pairs.append(pair)
            if _ratio(pairs) < 1 - (MARGIN if len(pairs) > 1 else 2 * MARGIN):
                break
        if not pairs:
            self._record(settings, "failed", None, None, "other work disturbed every block")
            return None, False
        complete, score = len(pairs) == _PAIRS, _ratio(pairs)
        self._record(settings, "measured" if complete else "cut short", score, statistics.median(p[0] for p in pairs))
        return score, complete

    def _choose(self, best: RunSettings | None) -> Course:
        """Compare the best settings with the shipped ones, adopt them if they are better, and save the profile."""
        rounds, score = list[tuple[tuple[float, float], tuple[float, float]]](), self._score(best)
        if best is not None and score >= _LEADER:
            for number in range(ROUNDS):
                one = yield from self._pair(best, number % 2 == 0)
                two = yield from self._pair(best, number % 2 == 1)
                if one is None or two is None:
                    break
                rounds.append(((one[0], two[0]), (one[1], two[1])))
        comparison = Comparison(tuple(rounds))
        self.facts = {
            **comparison.to_json(), "best": asdict(best or self.shipped), "shipped": asdict(self.shipped),
            "shipped_kept": not comparison.better,
        }  # fmt: skip
        if best is not None and comparison.better:
            self.settings = best
        if rounds or score < _LEADER:
            self._save()

    def _score(self, settings: RunSettings | None) -> float:
        scores = (row["ratio"] for row in self.trials if settings is not None and row["settings"] == asdict(settings))
        return next(scores, 0.0) or 0.0

    def _pair(
        self, settings: RunSettings, first: bool
    ) -> Generator[Block, BlockTimes, tuple[float, float] | None]:  # fmt: skip
        """Return rates of the settings and of the shipped ones in two blocks in a row; None if they were disturbed."""
        for _ in range(_TRIES):
            rates: dict[bool, float] = {}
            for candidate in (True, False) if first else (False, True):
                times = yield from self._measure(settings if candidate else self.shipped, self.length, 1)
                if times is None:
                    break
                rates[candidate] = self.prospect.session.size * times.timed / times.seconds
            if len(rates) == 2:
                return rates[True], rates[False]
        return None

    def _measure(self, settings: RunSettings, iterations: int, tries: int = _TRIES) -> Measured:
        """Run a block while the machine is free; return its times, or None if each try was disturbed or too short."""
        for _ in range(tries):
            while not self.quiet:
                count = round(_WAITING / (self.shipped_second or _WAITING / _WATCHED))
                yield Block(self.shipped, max(_MIN, count))
            expected = None if self.shipped_second is None else self.shipped_second * iterations
            limit = float("inf") if settings == self.shipped or expected is None else _SLOW * expected
            times = yield Block(settings, iterations, limit)
            if self.shipped_second is not None and settings != self.shipped:
                self.cost += max(0.0, times.wall - times.iterations * self.shipped_second)
            whole = times.timed >= min(_MIN, iterations) // 2
            if whole and times.seconds > 0 and not times.disturbed and (times.iteration or self.shipped_second is None):
                if settings == self.shipped:
                    self.shipped_second = times.seconds / times.timed
                return times
        return None

    @property
    def _drain(self) -> float:
        """Seconds that a block may lose while its pipeline fills and drains."""
        return 2 * (self.shipped_second or 0.0)

    def _record(
        self, settings: RunSettings, state: str, ratio: float | None, rate: float | None, reason: str = ""
    ) -> None:
        row = {"settings": asdict(settings), "state": state, "ratio": ratio, "events_per_s": rate, "reason": reason}
        self.trials.append(row)
        epoch, iteration = self.place
        self.prospect.record({"event": "trial", **row, "epoch": epoch, "iteration": iteration})

    def _save(self) -> None:
        """Save the profile, with the stage times of the settings in force."""
        assert self.settings is not None
        if self.settings not in self.stages:
            return
        facts = {"budget": self.budget, "seconds": self.cost, "seed": self.config.train.seed, **self.facts}
        facts |= {"trials": len(self.trials), "online": True}
        stages = stage_summary(self.stages[self.settings])
        profile = build(self.key, self.config.train.staleness, self.settings, stages, facts)
        self.prospect.note(f"Tuned while training: {describe(profile)}.")
        path = self.store.save(profile)
        self.name = "" if path is None else path.name
        self.store.tell(self.prospect.note)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(rate / shipped for rate, shipped in pairs)
