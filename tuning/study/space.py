"""Search spaces as data: named choices, a default, and the conditions under which a name applies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

Value = bool | int | str
Point = dict[str, Value]


@dataclass(frozen=True)
class Space:
    """Named choices; a point has a value for every name that applies.

    Args:
        choices: by name; numbers in ascending order.
        default: the shipped default, which is the first point of the space.
        applies: per conditional name, an earlier name and the values of it under which the name applies.
    """

    choices: Mapping[str, tuple[Value, ...]]
    default: Point
    applies: Mapping[str, tuple[str, tuple[Value, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.choices)
        for name, (other, _) in self.applies.items():
            if name not in names or other not in names[: names.index(name)]:
                raise ValueError(f"space: {name} depends on {other}, which does not come before it among {names}")
        if not self.contains(self.default):
            raise ValueError(f"space: the default {self.default} is not a point of {dict(self.choices)}")

    @cached_property
    def size(self) -> int:
        """Number of points."""
        return sum(1 for _ in self.points())

    def points(self) -> Iterator[Point]:
        """Yield every point once, the default first."""
        yield dict(self.default)
        yield from (point for point in self._completions({}, list(self.choices)) if point != self.default)

    def contains(self, point: Mapping[str, Value]) -> bool:
        """Return True if the point has one of this space's values for exactly the names that apply."""
        names = {name for name in self.choices if self.has(name, point)}
        return names == set(point) and all(_among(point[name], self.choices[name]) for name in names)

    def has(self, name: str, point: Mapping[str, Value]) -> bool:
        """Return True if a name applies, given the point's values for the names before it."""
        if name not in self.applies:
            return True
        other, values = self.applies[name]
        return other in point and _among(point[other], values)

    def ordered(self, name: str) -> bool:
        """Return True if the choices of a name are numbers, so that neighbours resemble each other."""
        return all(type(choice) is int for choice in self.choices[name])

    def digest(self) -> str:
        """Return a short hash of the content, the same in every process."""
        content = [list(self.choices.items()), sorted(self.default.items()), sorted(self.applies.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def _completions(self, point: Point, names: list[str]) -> Iterator[Point]:
        if not names:
            yield point
        elif self.has(names[0], point):
            for choice in self.choices[names[0]]:
                yield from self._completions({**point, names[0]: choice}, names[1:])
        else:
            yield from self._completions(point, names[1:])


def _among(value: Value, choices: tuple[Value, ...]) -> bool:
    """Return True if a value is one of the choices; True is not 1."""
    return any(type(value) is type(choice) and value == choice for choice in choices)
