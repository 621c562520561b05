"""Operator graphs: a model's operators with their cost, and the data that flows between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from math import isfinite

from mspipe_triton.errors import GraphError


@dataclass(frozen=True)
class Duration:
    """Time of one pass of an operator over n samples: `fixed` + `per_sample` · n, in seconds."""

    fixed: float = 0.0
    per_sample: float = 0.0


@dataclass(frozen=True)
class Operator:
    """One operator of a model, the smallest part that a plan can place.

    Args:
        name: unique in its graph.
        forward: time of its forward pass.
        backward: time of its backward pass.
        parameters: bytes of its parameters, without gradients and optimiser state.
        activations: bytes per sample that it keeps from its forward pass to its backward pass.
        output: bytes per sample of its output, which stages on other devices receive; the gradient has as many.
    """

    name: str
    forward: Duration = Duration()
    backward: Duration = Duration()
    parameters: int = 0
    activations: int = 0
    output: int = 0

    @property
    def costless(self) -> bool:
        """True if the operator takes neither time nor memory."""
        durations = (self.forward, self.backward)
        return not any((*(each.fixed or each.per_sample for each in durations), self.parameters, self.activations))


@dataclass(frozen=True)
class OperatorGraph:
    """The operators of a model, and which of them use the outputs of which others.

    Sets of operators are integers, here and in the planner: bit i stands for `operators[i]`.

    Args:
        operators: in topological order.
        edges: pairs of indices; the second operator uses the output of the first.
        name: the model's.

    Raises:
        GraphError: no operators, a repeated name, a number that is negative or not finite, an edge to an unknown
            operator, or an edge that does not go forward.
    """

    operators: tuple[Operator, ...]
    edges: tuple[tuple[int, int], ...]
    name: str = "model"

    def __post_init__(self) -> None:
        if not self.operators:
            raise GraphError(f"{self.name} has no operators")
        names: set[str] = set()
        for each in self.operators:
            if each.name in names:
                raise GraphError(f"operator {each.name!r} occurs twice; names must differ")
            names.add(each.name)
            durations = (each.forward.fixed, each.forward.per_sample, each.backward.fixed, each.backward.per_sample)
            for value in (*durations, each.parameters, each.activations, each.output):
                if not (isfinite(value) and value >= 0):
                    raise GraphError(f"operator {each.name!r} has a cost of {value}; costs are numbers of at least 0")
        for before, after in self.edges:
            if not 0 <= before < after < len(self.operators):
                raise GraphError(f"edge {before} → {after} does not go forward among {len(self.operators)} operators")

    @classmethod
    def of(cls, operators: Iterable[Operator], uses: Iterable[tuple[str, str]], name: str = "model") -> OperatorGraph:
        """Sort operators into a topological order, as close to theirs as possible, and connect them by name.

        Args:
            operators: in any order.
            uses: pairs of names; the second operator uses the output of the first.
            name: the model's.

        Raises:
            GraphError: the operators use one another in a cycle, or the graph is invalid.
        """
        by_name: dict[str, Operator] = {}
        for each in operators:
            if each.name in by_name:
                raise GraphError(f"operator {each.name!r} occurs twice; names must differ")
            by_name[each.name] = each
        place = {one: index for index, one in enumerate(by_name)}
        sorter: TopologicalSorter[str] = TopologicalSorter({one: () for one in by_name})
        pairs = list(dict.fromkeys(uses))
        for before, after in pairs:
            for end in (before, after):
                if end not in by_name:
                    raise GraphError(f"an edge names operator {end!r}, which {name} does not have")
            sorter.add(after, before)
        try:
            sorter.prepare()
        except CycleError as error:
            raise GraphError(f"operators use one another in a cycle: {' → '.join(reversed(error.args[1]))}") from None
        order: list[str] = []
        ready: list[str] = []
        while sorter.is_active():
            ready = sorted({*ready, *sorter.get_ready()}, key=place.__getitem__)
            order.append(ready.pop(0))
            sorter.done(order[-1])
        index = {one: number for number, one in enumerate(order)}
        edges = sorted((index[before], index[after]) for before, after in pairs)
        return cls(tuple(by_name[one] for one in order), tuple(edges), name)

    @cached_property
    def everything(self) -> int:
        """The set of all operators."""
        return (1 << len(self.operators)) - 1

    @cached_property
    def predecessors(self) -> tuple[int, ...]:
        """Of every operator, the set of operators whose outputs it uses."""
        sets = [0] * len(self.operators)
        for before, after in self.edges:
            sets[after] |= 1 << before
        return tuple(sets)

    @cached_property
    def successors(self) -> tuple[int, ...]:
        """Of every operator, the set of operators that use its output."""
        sets = [0] * len(self.operators)
        for before, after in self.edges:
            sets[before] |= 1 << after
        return tuple(sets)

    @cached_property
    def ancestors(self) -> tuple[int, ...]:
        """Of every operator, the set of all operators that must come before it."""
        sets: list[int] = []
        for direct in self.predecessors:
            whole = direct
            for each in members(direct):
                whole |= sets[each]
            sets.append(whole)
        return tuple(sets)

    @cached_property
    def joins(self) -> tuple[int, ...]:
        """Indices of costless operators whose output nothing uses, such as the sum of losses.

        They need no device, and a pipeline does not grow deeper by them: each is computed beside the operators that it
        joins, as soon as these have ended.
        """
        return tuple(
            index
            for index, each in enumerate(self.operators)
            if each.costless and self.predecessors[index] and not self.successors[index]
        )

    @cached_property
    def placed(self) -> int:
        """The set of operators that need a device: all but `joins`."""
        return self.everything & ~sum(1 << index for index in self.joins)

    def summary(self, operators: int) -> str:
        """Return the names of a set of operators in one short line, such as "layers.0 … layers.7 (8)"."""
        names = self.names(operators)
        return ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]} ({len(names)})"

    def names(self, operators: int) -> tuple[str, ...]:
        """Return the names of a set of operators, in topological order."""
        return tuple(self.operators[index].name for index in members(operators))


def members(operators: int) -> Iterator[int]:
    """Yield the indices in a set of operators, in ascending order."""
    while operators:
        lowest = operators & -operators
        yield lowest.bit_length() - 1
        operators ^= lowest
