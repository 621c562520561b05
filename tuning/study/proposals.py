"""Points to measure next: random ones, then by Optuna's TPE and beside the best, never one that is known already."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator, Mapping

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from mspipe_triton.tuning.study.space import Point, Space, Value

RANDOM = 6  # points that are drawn before TPE has enough to go by
LOCAL = 3  # one in so many is beside the best


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Within it, Optuna says nothing of its progress, nor that what is used of it may change."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            yield
    finally:
        optuna.logging.set_verbosity(before)


class Proposals:
    """What to measure next, by what has been told.

    A point that is known gives way to one of the unknown points that the fewest steps lead to, a step being to the next
    number or to any other name. One proposal in three starts from the best point, so that its surroundings are known
    soon; the others are TPE's, to which numbers are categories, since the steps see their order. On landscapes of 2,000
    points this found better points than TPE alone, and than TPE on logarithmic ranges of numbers.

    A proposal hangs on the seed and on what was told alone: a resumed search goes on as if it had never stopped.

    Args:
        space: of the points, the default of which is proposed first.
        seed: of the draws.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._known: set[str] = set()
        self._best: tuple[float, Point] | None = None
        with silent():
            self._study = optuna.create_study(direction="maximize")

    def tell(self, point: Point, score: float | None, whole: bool) -> None:
        """Take in how a point did: its score, if any, higher being better, and whether that was measured whole.

        To TPE, points cut short rank behind all that were measured whole, and points without a score behind those.
        """
        self._known.add(_key(point))
        if whole and score is not None and (self._best is None or score > self._best[0]):
            self._best = score, point
        self._study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if whole else TrialState.PRUNED,
                value=score if whole else None,
                params=dict(point),
                distributions={name: CategoricalDistribution(self._space.choices[name]) for name in point},
                intermediate_values={} if whole or score is None else {0: score},
            )
        )

    def next(self) -> Point | None:
        """A point of which nothing has been told; None where there is none left."""
        if len(self._known) >= self._space.size:
            return None
        if _key(self._space.default) not in self._known:
            return dict(self._space.default)
        chance = random.Random(f"{self._seed} {len(self._known)}")
        if len(self._known) < RANDOM:
            point = self._drawn(chance)
        elif self._best is not None and len(self._known) % LOCAL == 0:
            point = self._best[1]
        else:
            point = self._inferred(chance)
        return self._nearest_unknown(point, chance)

    def _drawn(self, chance: random.Random) -> Point:
        point: Point = {}
        for name, choices in self._space.choices.items():
            if self._space.has(name, point):
                point[name] = chance.choice(choices)
        return point

    def _inferred(self, chance: random.Random) -> Point:
        """TPE's proposal; `group` lets it see names together that do not always apply."""
        point: Point = {}
        with silent():
            self._study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=0, multivariate=True, group=True, constant_liar=False, seed=chance.randrange(2**32)
            )
            trial = self._study.ask()
            for name in self._space.choices:
                if self._space.has(name, point):
                    point[name] = suggest(trial, self._space, name)
            self._study.tell(trial, state=TrialState.FAIL)  # a proposal is no result; TPE overlooks what failed
        return point

    def _nearest_unknown(self, point: Point, chance: random.Random) -> Point:
        ring, seen = {_key(point): point}, {_key(point)}
        while not (unknown := sorted(ring.keys() - self._known)):
            around = {_key(other): other for near in ring.values() for other in self._neighbours(near)}
            ring = {key: other for key, other in around.items() if key not in seen}
            seen |= ring.keys()
        return ring[chance.choice(unknown)]

    def _neighbours(self, point: Point) -> Iterator[Point]:
        """The points that differ in one name, by one step where it is ordered, and in what applies through it."""
        for name, value in point.items():
            choices = self._space.choices[name]
            at = choices.index(value)
            for i, choice in enumerate(choices):
                if abs(i - at) == 1 or (i != at and not self._space.ordered(name)):
                    yield from self._completed({}, {**point, name: choice}, list(self._space.choices))

    def _completed(self, point: Point, wanted: Point, names: list[str]) -> Iterator[Point]:
        """The points that are as wanted, with every choice of the names that now apply and did not before."""
        if not names:
            yield point
        elif not self._space.has(names[0], point):
            yield from self._completed(point, wanted, names[1:])
        else:
            given = (wanted[names[0]],) if names[0] in wanted else self._space.choices[names[0]]
            for choice in given:
                yield from self._completed({**point, names[0]: choice}, wanted, names[1:])


def suggest(trial: optuna.Trial, space: Space, name: str) -> Value:
    """A name's value in a trial, as the study's sampler chooses it."""
    at: int = space.choices[name].index(trial.suggest_categorical(name, space.choices[name]))
    return space.choices[name][at]


def _key(point: Mapping[str, Value]) -> str:
    return repr(sorted(point.items()))
