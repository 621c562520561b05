"""Search spaces as data: named choices, their default, the conditions under which a choice applies."""

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
        default: the shipped default, a point of the space and the first of its points.
        applies: by name, another one that comes before it and the values of that under which this one means anything.
    """

    choices: Mapping[str, tuple[Value, ...]]
    default: Point
    applies: Mapping[str, tuple[str, tuple[Value, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.choices)
        for name, (other, _) in self.applies.items():
            if name not in names or other not in names[: names.index(name)]:
                raise ValueError(f"space: {name} applies by {other}, which does not come before it among {names}")
        if not self.contains(self.default):
            raise ValueError(f"space: the default {self.default} is no point of {dict(self.choices)}")

    @cached_property
    def size(self) -> int:
        """How many points there are."""
        return sum(1 for _ in self.points())

    def points(self) -> Iterator[Point]:
        """Every point once, the default first."""
        yield dict(self.default)
        yield from (point for point in self._extended({}, list(self.choices)) if point != self.default)

    def contains(self, point: Mapping[str, Value]) -> bool:
        """Whether the point has a value of this space for every name that applies, and for no other."""
        applying = {name for name in self.choices if self.has(name, point)}
        return applying == set(point) and all(_among(point[name], self.choices[name]) for name in applying)

    def has(self, name: str, point: Mapping[str, Value]) -> bool:
        """Whether a name applies beside what the point has for the names before it."""
        if name not in self.applies:
            return True
        other, values = self.applies[name]
        return other in point and _among(point[other], values)

    def ordered(self, name: str) -> bool:
        """Whether the choices of a name are numbers, so that neighbours resemble each other."""
        return all(type(choice) is int for choice in self.choices[name])

    def digest(self) -> str:
        """A short hash of the content, the same in every process."""
        content = [list(self.choices.items()), sorted(self.default.items()), sorted(self.applies.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def _extended(self, point: Point, names: list[str]) -> Iterator[Point]:
        if not names:
            yield point
        elif self.has(names[0], point):
            for choice in self.choices[names[0]]:
                yield from self._extended({**point, names[0]: choice}, names[1:])
        else:
            yield from self._extended(point, names[1:])


def _among(value: Value, choices: tuple[Value, ...]) -> bool:
    """Whether a value is one of the choices, True being no 1."""
    return any(type(value) is type(choice) and value == choice for choice in choices)
