"""Log of a search's trials in an SQLite file: an Optuna study that can be resumed and inspected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from mspipe_triton.tuning.study.proposals import silent, suggest
from mspipe_triton.tuning.study.space import Point, Space

_STATES = {
    "measured": TrialState.COMPLETE,
    "cut short": TrialState.PRUNED,
    "refused": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_REASON, _SECONDS = "reason", "trial_seconds"


class TrialLog:
    """One study in a file; file errors are raised as the exceptions of the library that hits them.

    Trials that a killed process left running are marked failed, without a reason, and `trials` leaves them out.

    Args:
        path: the file, which is created if missing; its folder is not.
        name: of the study, which is resumed if the file has it.
        space: the points.
    """

    def __init__(self, path: Path, name: str, space: Space) -> None:
        self._space = space
        with silent():
            self._study = optuna.create_study(
                study_name=name, storage=f"sqlite:///{path}", direction="maximize", load_if_exists=True
            )
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._study.tell(trial.number, state=TrialState.FAIL)
        self._trial: optuna.Trial | None = None

    def trials(self) -> list[StoredTrial]:
        """Return every trial that has ended, in order."""
        trials = self._study.get_trials(deepcopy=False)
        return [StoredTrial(trial) for trial in trials if trial.state != TrialState.FAIL or _REASON in trial.user_attrs]

    def begin(self, point: Point) -> None:
        """Start a trial."""
        with silent():
            self._study.sampler = optuna.samplers.PartialFixedSampler(point, optuna.samplers.RandomSampler())
            self._trial = self._study.ask()
            for name in point:
                suggest(self._trial, self._space, name)

    def report(self, score: float, step: int) -> None:
        """Log the running trial's score so far."""
        if self._trial is not None:
            self._trial.report(score, step)

    def end(self, state: str, score: float | None, facts: Mapping[str, float], reason: str, seconds: float) -> None:
        """End the running trial."""
        if self._trial is None:
            return
        for name, value in {**facts, _SECONDS: seconds, **({_REASON: reason} if reason else {})}.items():
            self._trial.set_user_attr(name, value)
        with silent():
            self._study.tell(self._trial, score if state == "measured" else None, _STATES[state])
        self._trial = None


class StoredTrial:
    """A trial read from the file.

    Attributes:
        point, state, score, facts, reason: as in `Trial`.
        scores: the scores reported during the trial.
        seconds: the duration of the trial.
    """

    def __init__(self, trial: FrozenTrial) -> None:
        attributes = dict(trial.user_attrs)
        self.point: Point = dict(trial.params)
        self.scores: list[float] = [score for _, score in sorted(trial.intermediate_values.items())]
        self.reason: str = attributes.pop(_REASON, "")
        self.seconds: float = attributes.pop(_SECONDS, 0.0)
        self.facts: dict[str, float] = attributes
        self.score: float | None = None
        if trial.state == TrialState.COMPLETE:
            self.state, self.score = "measured", trial.value
        elif trial.state == TrialState.PRUNED and self.scores:
            self.state, self.score = "cut short", self.scores[-1]
        else:
            self.state = "refused" if trial.state == TrialState.PRUNED else "failed"
