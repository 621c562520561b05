"""The search for the fastest point of a space within a budget: it refuses, measures, cuts short, logs and resumes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mspipe_triton.kernels.runtime.launch import triton
from mspipe_triton.tuning.study.space import Point, Space

if TYPE_CHECKING:  # they need Optuna, whose import takes a third of a second
    from mspipe_triton.tuning.study.trial_log import TrialLog

Cutoff = Callable[[float], bool]  # gets the score so far, and returns True to end the measurement
Measure = Callable[[Point, Cutoff], Mapping[str, float]]

MARGIN = 0.2  # how far a trial may lag behind the best trial at the same step, relative to its score
# Errors that fail a trial; torch's errors, out of memory among them, are RuntimeErrors.
_FAILURES: tuple[type[Exception], ...] = (RuntimeError, MemoryError, *([] if triton is None else [triton.TritonError]))


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Args:
        number: the number of earlier trials.
        point: the point tried.
        state: "measured", "cut short", "refused" or "failed".
        score: higher is better; the last reported one if the trial was cut short, None if it has no score.
        best: the best measured score up to and including this trial, None if there is none yet.
        facts: all measured values.
        reason: why it was refused, failed or was cut short, in one line.
    """

    number: int
    point: Point
    state: str
    score: float | None
    best: float | None
    facts: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class SearchResult:
    """The best completely measured point with its score, and every trial; without one, the default and −inf."""

    point: Point
    score: float
    trials: tuple[Trial, ...]


class Search:
    """A search by Optuna's TPE (`Proposals`), logged in a file that `optuna-dashboard` opens.

    A measurement reports its score several times, and is cut short if the score lags behind the best trial's score at
    the same step by more than `MARGIN` of it, or twice that at the first step. The steps must match, since scores drift
    while caches fill. The yardstick is the best trial, not the median: among speeds that differ only by noise half are
    below the median, while a trial that lags by a fifth will not win despite the noise.

    Args:
        space: the points; its default is tried first.
        name: of the study. Name and space digest identify the study to resume, so it never has another space's points.
        storage: an SQLite file in an existing folder; None keeps the trials in memory.
        seed: of the random choices.
        refuse: returns one line on why a point cannot be good, and the point is not measured; or None to measure it.
        clock: seconds, for the budget.

    Attributes:
        trials: the trials so far, including those of resumed runs.
        notice: why the file is not, or no longer, written, in one line; the search then continues in memory.
    """

    def __init__(
        self,
        space: Space,
        name: str,
        storage: Path | None = None,
        seed: int = 0,
        refuse: Callable[[Point], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from mspipe_triton.tuning.study.proposals import Proposals

        self.trials: list[Trial] = []
        self.notice: str | None = None
        self.study_name = f"{name} {space.digest()}"
        self._proposals = Proposals(space, seed)
        self._default = dict(space.default)
        self._refuse = refuse
        self._clock = clock
        self._best: Trial | None = None
        self._best_scores: list[float] = []  # reported during the best trial
        self._longest = 0.0
        self._log: TrialLog | None = None
        self._storage = storage
        if storage is not None:
            self._open(storage, space)

    def run(
        self,
        measure: Measure,
        seconds: float,
        trials: int | None = None,
        observe: Callable[[Trial], None] = lambda trial: None,
    ) -> SearchResult:
        """Try points until the budget is used up or no point is left.

        Args:
            measure: measures a point, stops when the `Cutoff` returns True, and returns values with a "score". A
                RuntimeError or an error of Triton fails the trial; any other exception ends the search, which can be
                resumed.
            seconds: a trial starts only if the longest one so far would still fit; the first trial always starts.
            trials: the maximum number of trials, including those of resumed runs; refused ones do not count.
            observe: gets each trial when it ends.
        """
        start = self._clock()
        while not self._out_of_budget(start, seconds, trials) and (point := self._proposals.next()) is not None:
            observe(self._try(point, measure))
        if self._best is None or self._best.score is None:
            return SearchResult(self._default, -math.inf, tuple(self.trials))
        return SearchResult(self._best.point, self._best.score, tuple(self.trials))

    def _out_of_budget(self, start: float, seconds: float, trials: int | None) -> bool:
        if not self.trials:
            return False
        count = sum(trial.state != "refused" for trial in self.trials)
        return self._clock() - start + self._longest > seconds or (trials is not None and count >= trials)

    def _try(self, point: Point, measure: Measure) -> Trial:
        start, scores, cut = self._clock(), list[float](), False

        def report(score: float) -> bool:
            nonlocal cut
            scores.append(float(score))
            self._write(lambda log: log.report(scores[-1], len(scores) - 1))
            cut = cut or self._lags(scores)
            return cut

        self._write(lambda log: log.begin(point))
        state, score, facts, reason = "failed", None, dict[str, float](), ""
        refusal = self._refuse(dict(point)) if self._refuse is not None else None
        if refusal is not None:
            state, reason = "refused", _line(refusal)
        else:
            try:
                facts = {name: float(value) for name, value in measure(dict(point), report).items()}
                state, score = "measured", facts["score"]
            except _FAILURES as error:
                reason = f"{type(error).__name__}: {_line(str(error))}"
            if cut and state == "measured":
                state, score, reason = "cut short", scores[-1], f"{scores[-1]:.4g} lags behind the best"
            elif score is not None and not math.isfinite(score):
                state, reason, score = "failed", f"the score is {score}", None
        duration = self._clock() - start
        self._write(lambda log: log.end(state, score, facts, reason, duration))
        return self._add(point, state, score, facts, reason, scores, duration)

    def _lags(self, scores: list[float]) -> bool:
        if self._best is None or self._best.score is None:
            return False
        best, margin = self._best_scores, MARGIN if len(scores) > 1 else 2 * MARGIN
        target = best[min(len(scores), len(best)) - 1] if best else self._best.score
        return not scores[-1] >= target - margin * abs(target)

    def _add(
        self, point: Point, state: str, score: float | None, facts: Mapping[str, float], reason: str,
        scores: list[float], seconds: float,
    ) -> Trial:  # fmt: skip
        """Add a trial that has ended, and tell the proposals its score."""
        before = None if self._best is None else self._best.score
        better = state == "measured" and score is not None and (before is None or score > before)
        trial = Trial(len(self.trials), point, state, score, score if better else before, facts, reason)
        if better:
            self._best, self._best_scores = trial, scores
        self._longest = max(self._longest, seconds)
        self._proposals.tell(point, score, state == "measured")
        self.trials.append(trial)
        return trial

    def _open(self, storage: Path, space: Space) -> None:
        from mspipe_triton.tuning.study.trial_log import TrialLog

        try:
            self._log = TrialLog(storage, self.study_name, space)
            trials = self._log.trials()
        except Exception as error:  # of SQLite, SQLAlchemy, Alembic or Optuna: none is worth losing the search
            self._drop_log(error)
            return
        for trial in trials:
            self._add(
                trial.point, trial.state, trial.score, trial.facts, trial.reason, trial.scores, trial.seconds
            )  # fmt: skip

    def _write(self, action: Callable[[TrialLog], None]) -> None:
        if self._log is not None:
            try:
                action(self._log)
            except Exception as error:  # as above
                self._drop_log(error)

    def _drop_log(self, error: Exception) -> None:
        self._log = None
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        self.notice = f"{self._storage}: the trials are not saved, since the file cannot be used: {_line(str(cause))}"


def _line(text: str) -> str:
    """Return a message's first line that is not empty, cut to 200 characters."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line), "no reason given")[:200]
