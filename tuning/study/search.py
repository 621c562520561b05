"""The search for the fastest point of a space within a budget: refuses, measures, cuts short, records and resumes."""

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
    from mspipe_triton.tuning.study.record import Record

Cut = Callable[[float], bool]
Measure = Callable[[Point, Cut], Mapping[str, float]]

MARGIN = 0.2  # by how much of the best trial's score at the same step a trial may lag behind it
# What a measurement may fail of; torch's errors, out of memory among them, are RuntimeErrors.
_FAILURES: tuple[type[Exception], ...] = (RuntimeError, MemoryError, *([] if triton is None else [triton.TritonError]))


@dataclass(frozen=True)
class Told:
    """What came of a trial.

    Args:
        number: how many were told before.
        point: that was tried.
        state: "measured", "cut short", "refused" or "failed".
        score: higher is better; the last one so far where the trial was cut short, None where there is none.
        best: the best measured score up to and with this trial, None as long as there is none.
        facts: all that was measured.
        reason: why it was refused, failed or was cut short, one line.
    """

    number: int
    point: Point
    state: str
    score: float | None
    best: float | None
    facts: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """The best point that was measured whole, its score, and every trial; the default and −inf where none was."""

    point: Point
    score: float
    told: tuple[Told, ...]


class Search:
    """A search by Optuna's TPE (`Proposals`), recorded in a file that `optuna-dashboard` opens.

    A measurement tells its score again and again, and is cut short where it lags behind what the best trial had told by
    then by more than `MARGIN` of it, or twice that the first time. The same step of both is compared, since scores
    drift while caches fill; and the best rather than the median, as of speeds that differ by noise half are below the
    median: what lags by a fifth will not win, whatever the noise.

    Args:
        space: the points; its default is tried first.
        name: of the study. With the space's digest it names what is resumed, so that no other space's points are.
        storage: an SQLite file in a folder that exists; None keeps all in memory.
        seed: of the draws.
        refuse: tells of a point why it cannot be good, in one line, and it is then never measured; None: measure it.
        clock: seconds, for the budget.

    Attributes:
        told: the trials so far, with those of the runs that are resumed.
        notice: why the file is not, or no longer, written to, one line; the search then goes on in memory.
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

        self.told: list[Told] = []
        self.notice: str | None = None
        self.study_name = f"{name} {space.digest()}"
        self._proposals = Proposals(space, seed)
        self._default = dict(space.default)
        self._refuse = refuse
        self._clock = clock
        self._best: Told | None = None
        self._best_scores: list[float] = []  # told on the way to the best
        self._longest = 0.0
        self._record: Record | None = None
        self._storage = storage
        if storage is not None:
            self._open(storage, space)

    def run(
        self,
        measure: Measure,
        seconds: float,
        trials: int | None = None,
        observe: Callable[[Told], None] = lambda told: None,
    ) -> Found:
        """Try points until the budget is spent or all are known.

        Args:
            measure: a point, to be stopped where the `Cut` it is given says so; what it returns holds a "score".
                A RuntimeError of it, or one of Triton's, is the trial's failure; any other exception ends the search,
                which can be resumed.
            seconds: no trial starts that would end later, took it as long as the longest so far. The default's does.
            trials: the most that are measured, those of resumed runs included; a refused one is none.
            observe: is told each trial as it ends.
        """
        start = self._clock()
        while not self._spent(start, seconds, trials) and (point := self._proposals.next()) is not None:
            observe(self._try(point, measure))
        if self._best is None or self._best.score is None:
            return Found(self._default, -math.inf, tuple(self.told))
        return Found(self._best.point, self._best.score, tuple(self.told))

    def _spent(self, start: float, seconds: float, trials: int | None) -> bool:
        if not self.told:
            return False
        tried = sum(told.state != "refused" for told in self.told)
        return self._clock() - start + self._longest > seconds or (trials is not None and tried >= trials)

    def _try(self, point: Point, measure: Measure) -> Told:
        start, scores, cut = self._clock(), list[float](), False

        def report(score: float) -> bool:
            nonlocal cut
            scores.append(float(score))
            self._write(lambda record: record.report(scores[-1], len(scores) - 1))
            cut = cut or self._lags(scores)
            return cut

        self._write(lambda record: record.begin(point))
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
        took = self._clock() - start
        self._write(lambda record: record.end(state, score, facts, reason, took))
        return self._take(point, state, score, facts, reason, scores, took)

    def _lags(self, scores: list[float]) -> bool:
        if self._best is None or self._best.score is None:
            return False
        reached, margin = self._best_scores, MARGIN if len(scores) > 1 else 2 * MARGIN
        least = reached[min(len(scores), len(reached)) - 1] if reached else self._best.score
        return not scores[-1] >= least - margin * abs(least)

    def _take(
        self, point: Point, state: str, score: float | None, facts: Mapping[str, float], reason: str,
        scores: list[float], seconds: float,
    ) -> Told:  # fmt: skip
        """Keep what came of a trial, for the proposals, the budget and what comes out."""
        before = None if self._best is None else self._best.score
        better = state == "measured" and score is not None and (before is None or score > before)
        told = Told(len(self.told), point, state, score, score if better else before, facts, reason)
        if better:
            self._best, self._best_scores = told, scores
        self._longest = max(self._longest, seconds)
        self._proposals.tell(point, score, state == "measured")
        self.told.append(told)
        return told

    def _open(self, storage: Path, space: Space) -> None:
        from mspipe_triton.tuning.study.record import Record

        try:
            self._record = Record(storage, self.study_name, space)
            finished = self._record.finished()
        except Exception as error:  # of SQLite, SQLAlchemy, Alembic or Optuna: none is worth the search
            self._forsake(error)
            return
        for trial in finished:
            self._take(
                trial.point, trial.state, trial.score, trial.facts, trial.reason, trial.scores, trial.seconds
            )  # fmt: skip

    def _write(self, action: Callable[[Record], None]) -> None:
        if self._record is not None:
            try:
                action(self._record)
            except Exception as error:  # as above
                self._forsake(error)

    def _forsake(self, error: Exception) -> None:
        self._record = None
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        self.notice = f"{self._storage}: the search is not recorded, as the file cannot be used: {_line(str(cause))}"


def _line(text: str) -> str:
    """A message's first line with anything in it, at most 200 characters."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line), "no reason given")[:200]
