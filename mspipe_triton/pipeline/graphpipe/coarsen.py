"""Grouping of a traced model's steps into operators, so that parallel branches stay parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.operators import members

OPERATORS = 64


@dataclass(frozen=True)
class Step:
    """One operation of a traced model.

    Args:
        name: for messages.
        uses: indices of the earlier steps whose results it uses.
        call: the innermost module call that it is part of.
        heavy: it uses parameters, or multiplies matrices.
        idle: it takes no time, as a view does.
        data: it depends on the model's inputs.
        once: it draws random numbers or changes a tensor in place, so it must not be computed twice.
        trained: names of the trained parameters that it uses, and of the buffers that a step changes in place.
        work: its cost in any unit, by which the cheapest operators are merged first.
    """

    name: str
    uses: tuple[int, ...] = ()
    call: str = ""
    heavy: bool = False
    idle: bool = False
    data: bool = True
    once: bool = False
    trained: frozenset[str] = frozenset()
    work: float = 0.0


def group(steps: Sequence[Step], outputs: frozenset[int], most: int = OPERATORS) -> list[tuple[int, ...]]:
    """Group the steps of a model into operators.

    1. Heavy steps of one module call, and light steps between them, are one operator, if no step on another branch then
       has to wait for more.
    2. Light steps join the last operator that they use, or the first one that uses their result if branches start
       before them. Those that join branches join the operator after them, or stay one of their own if branches start
       there.
    3. Operators that train the same parameter become one, as do those that use a buffer that a step changes.
    4. Above `most` operators, neighbours of which no branch starts or ends between are merged, the cheapest first.

    Light steps that use only inputs or constants, and that can be computed twice, are part of every operator that uses
    their result, since computing them again is cheaper than waiting for another device. So are views of parameters,
    which count as the parameter.

    Args:
        steps: in topological order.
        outputs: the steps whose results the model returns.
        most: operators, unless parallel branches make more necessary.

    Returns:
        The steps of each operator, ascending, in a topological order of the operators.

    Raises:
        GraphError: operators train the same parameter or use the same changed buffer, and others lie between them.
    """
    free: list[bool] = []
    trained: list[frozenset[str]] = []
    used = {each for step in steps for each in step.uses}
    for index, step in enumerate(steps):
        light = not step.heavy or (step.idle and not step.data)
        repeatable = not (step.once and index in used)
        free.append(light and repeatable and all(free[each] for each in step.uses) and index not in outputs)
        trained.append(step.trained.union(*(trained[each] for each in step.uses if free[each])))
    clusters = _Clusters(steps, free, trained)
    clusters.join_calls()
    clusters.join_light()
    clusters.tie()
    clusters.join_calls()
    clusters.join_light()
    clusters.shorten(most)
    return _with_free(clusters.groups(), steps, free, trained)


def _with_free(
    groups: Sequence[Sequence[int]], steps: Sequence[Step], free: Sequence[bool], trained: Sequence[frozenset[str]]
) -> list[tuple[int, ...]]:
    """Add to every operator the free steps that it uses.

    Those that nothing uses, such as the change of a buffer, join an operator that uses the same trained parameter or
    changed buffer, or else one of their call, or else the first one.
    """
    used = {each for step in steps for each in step.uses}
    calls, states = dict[str, int](), dict[str, int]()
    for place, each in reversed([*enumerate(groups)]):
        for index in each:
            calls[steps[index].call] = place
            states.update(dict.fromkeys(trained[index], place))
    unused: dict[int, list[int]] = {}
    for index in (index for index, alone in enumerate(free) if alone and index not in used):
        places = [states[name] for name in sorted(trained[index]) if name in states]
        unused.setdefault((*places, calls.get(steps[index].call, 0))[0], []).append(index)
    result = []
    for place, each in enumerate(groups):
        whole, waiting = set[int](), [*each, *unused.get(place, ())]
        while waiting:
            index = waiting.pop()
            whole.add(index)
            waiting += [other for other in steps[index].uses if free[other] and other not in whole]
        result.append(tuple(sorted(whole)))
    return result


class _Clusters:
    """Disjoint groups of steps. A group is numbered by one of its steps; sets of groups are integers, as of operators.

    `ancestors` and `descendants` are transitive, so they tell which order a merge would add.
    """

    def __init__(self, steps: Sequence[Step], free: Sequence[bool], trained: Sequence[frozenset[str]]) -> None:
        self.steps, self.trained = steps, trained
        self.content = {index: 1 << index for index in range(len(steps)) if not free[index]}
        self.before, self.after = dict.fromkeys(self.content, 0), dict.fromkeys(self.content, 0)
        for index in self.content:
            for other in steps[index].uses:
                if not free[other]:
                    self.before[index] |= 1 << other
                    self.after[other] |= 1 << index
        self.heavy = sum(1 << index for index in self.content if steps[index].heavy and steps[index].data)
        self.sources = sum(1 << index for index in self.content if not steps[index].data)
        self.work = {index: steps[index].work for index in self.content}
        self.close()

    def close(self) -> None:
        """Compute `ancestors` and `descendants` from `before` and `after`.

        A group that uses parameters alone is no source any more if one of these came to share a group with data.
        """
        self.merged = 0
        order = list(TopologicalSorter({index: members(each) for index, each in self.before.items()}).static_order())
        self.ancestors, self.descendants = self._closure(order, self.before), self._closure(order[::-1], self.after)
        for index in order:
            if self.sources >> index & 1 and self.before[index] & ~self.sources:
                self.sources ^= 1 << index
                self.heavy |= 1 << index

    @staticmethod
    def _closure(order: Iterable[int], near: dict[int, int]) -> dict[int, int]:
        far: dict[int, int] = {}
        for index in order:
            far[index] = near[index]
            for each in members(near[index]):
                far[index] |= far[each]
        return far

    def groups(self) -> list[tuple[int, ...]]:
        """Return the steps of each group, in topological order, and where that leaves a choice in that of the steps."""
        ranks: dict[int, int] = {}
        for index in sorted(self.content, key=lambda each: self.ancestors[each].bit_count()):
            first = next(members(self.content[index]))
            ranks[index] = max([first, *(ranks[each] for each in members(self.before[index]))])
        order = sorted(self.content, key=lambda each: (ranks[each], self.ancestors[each].bit_count()))
        return [tuple(members(self.content[index])) for index in order]

    def join_calls(self) -> None:
        """Join steps with the last group that they use, if it is part of the same module call."""
        for index in list(self.content):
            into = self._last(index, self.sources)
            if into is None or self.steps[into].call != self.steps[index].call:
                continue
            view = self.steps[index].idle and not self.heavy >> index & 1
            if view or self._waits_for_all(into, index):
                self.merge(into, index)
        self.close()

    def join_light(self) -> None:
        """Join groups without heavy steps with the last group that they use, or else the first that uses them.

        Parameters that are changed before they are used, such as normalised weights, join the first as well.
        """
        self._join_last(self._waits_for_all)
        for index in self._sorted(self.descendants, ~self.heavy):
            into = self._first(index)
            if into is not None:
                self.merge(into, index)
        self.close()
        self._join_last(lambda into, index: True)

    def _join_last(self, fits: Callable[[int, int], bool]) -> None:
        for index in self._sorted(self.ancestors, ~self.heavy & ~self.sources):
            into = self._last(index, self.sources)
            if into is not None and fits(into, index):
                self.merge(into, index)
        self.close()

    def _waits_for_all(self, into: int, index: int) -> bool:
        """Return True if all heavy groups that wait for `into` wait for `index` too."""
        return not self.descendants[into] & self.heavy & ~(1 << index) & ~self.descendants[index]

    def tie(self) -> None:
        """Merge groups that train the same parameter or use the same changed buffer, with the groups between them.

        Raises:
            GraphError: a heavy group that shares none of its parameters lies between them.
        """
        users: dict[str, int] = {}
        for index, content in self.content.items():
            for step in members(content):
                for name in self.trained[step]:
                    users[name] = users.get(name, 0) | 1 << index
        shared = {name: each for name, each in users.items() if each.bit_count() > 1}
        tied = 0
        for each in shared.values():
            tied |= each
        place = {index: index for index in self.content}
        for name, each in shared.items():
            whole = sum(1 << index for index in {place[index] for index in members(each)})
            if whole.bit_count() == 1:
                continue
            after = before = 0
            for index in members(whole):
                after, before = after | self.descendants[index], before | self.ancestors[index]
            between = after & before & ~whole
            strangers = between & self.heavy & ~tied
            if strangers:
                ends = [self._label(index) for index in self._sorted(self.ancestors, whole)]
                raise GraphError(
                    f"operators {ends[0]!r} and {ends[-1]!r} use the same state, {name!r}, which training changes, so "
                    f"they must share a device, but {strangers.bit_count()} others lie between them, such as "
                    f"{self._label(next(members(strangers)))!r}; use state of its own in each"
                )
            into, *others = members(whole | between)
            for other in others:
                self.merge(into, other)
            for index, at in place.items():
                place[index] = into if at in others else at
            tied |= 1 << into
            self.close()

    def shorten(self, most: int) -> None:
        """Merge neighbours in chains, the cheapest first, until at most `most` groups are left or no chain is."""
        following = {
            into: index
            for index in self.content
            if (into := self._last(index)) is not None and self._first(into) == index
        }
        while len(self.content) > most and following:
            into = min(following, key=lambda each: (self.work[each] + self.work[following[each]], each))
            index = following.pop(into)
            if index in following:
                following[into] = following.pop(index)
            self.merge(into, index)
        self.close()

    def merge(self, into: int, index: int) -> None:
        """Merge group `index` into another.

        `ancestors` and `descendants` stay right, apart from merged groups, if `_last` or `_first` chose `into`, since
        what comes before or after `index` then comes before or after `into` anyway. Otherwise `close` them.
        """
        old, new = 1 << index, 1 << into
        both = old | new
        for sets, others in ((self.before, self.after), (self.after, self.before)):
            for other in members(others[index] & ~new):
                sets[other] = sets[other] & ~old | new
        for sets in (self.before, self.after, self.ancestors, self.descendants):
            sets[into] = (sets[into] | sets.pop(index)) & ~both
        self.merged |= old
        self.content[into] |= self.content.pop(index)
        self.work[into] += self.work.pop(index)
        self.heavy = self.heavy & ~both | (new if self.heavy & both else 0)
        self.sources = self.sources & ~both | (new if self.sources & both == both else 0)

    def _sorted(self, by: dict[int, int], among: int) -> list[int]:
        """Return the groups of a set, sorted by the number of their ancestors or descendants."""
        return sorted((each for each in self.content if among >> each & 1), key=lambda each: by[each].bit_count())

    def _last(self, index: int, ignored: int = 0) -> int | None:
        """Return the group, among those that a group uses, that comes after all others that it needs, or None."""
        needed = self.ancestors[index] & ~ignored & ~self.merged
        return self._covering(self.before[index] & needed, needed, self.ancestors)

    def _first(self, index: int) -> int | None:
        """Return the group, among those that use a group, that comes before all others that need it, or None."""
        return self._covering(self.after[index], self.descendants[index] & ~self.merged, self.descendants)

    @staticmethod
    def _covering(among: int, needed: int, sets: dict[int, int]) -> int | None:
        return next((each for each in members(among) if not needed & ~(1 << each) & ~sets[each]), None)

    def _label(self, index: int) -> str:
        """Return the name of a group's first heavy step, or of its first step."""
        content = list(members(self.content[index]))
        return self.steps[next((each for each in content if self.steps[each].heavy), content[0])].name
