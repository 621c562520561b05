"""A lower bound on the time per sample of all plans, and the reason if devices lack memory for any plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import fsum, inf, isinf
from typing import NamedTuple

from mspipe_triton.errors import ConfigError, GraphError
from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.problem import Problem


@dataclass(frozen=True)
class Bound:
    """Seconds per sample that every plan needs at least: one synchronous iteration's time over its samples.

    It holds for any partition into convex stages, any DAG of them, any numbers of devices and any order of passes.

    Args:
        load: from the work of all operators, shared by all devices, and of the slowest operator alone.
        path: from operators that start only after their predecessors, and end before these can.
        memory: from operators of which no device holds two, so that they share out the devices; 0 without such.
    """

    load: float
    path: float
    memory: float

    @property
    def seconds(self) -> float:
        """The largest of the parts."""
        return max(self.load, self.path, self.memory)


class _Mode(NamedTuple):
    """A way to run an operator: its seconds per iteration and per pass, on a number of devices."""

    devices: int
    work: float
    sync: float
    forward: float
    backward: float


def lower_bound(problem: Problem, micro_batches: Iterable[int]) -> Bound:
    """Return a lower bound on the seconds per sample of all plans.

    Args:
        problem: the model, the devices and the mini-batch.
        micro_batches: samples per pass that stages may use; stages may differ in it.

    Raises:
        ConfigError: no micro-batches, or one does not divide the mini-batch.
        GraphError: no plan fits into the memory of the devices (`shortage`).
    """
    sizes = _checked(problem, micro_batches)
    reason = shortage(problem, sizes)
    if reason:
        raise GraphError(f"{reason}; use larger devices, more of them, or fewer copies of the parameters")
    caps = _caps(problem, sizes)
    modes = {each: _modes(problem, each, sizes, caps[each]) for each in caps}
    heads, tails = _ends(problem, modes)
    load = _load(problem, modes)
    path = _path(problem, modes, heads, tails)
    memory = _memory(problem, modes, heads, tails, _exclusive(problem, sizes))
    return Bound(load / problem.batch, path / problem.batch, memory / problem.batch)


def shortage(problem: Problem, micro_batches: Iterable[int]) -> str | None:
    """Return the reason why no plan can fit into the memory of the devices, or None if none is obvious.

    Args:
        problem: the model, the devices and the mini-batch.
        micro_batches: samples per pass that stages may use.

    Raises:
        ConfigError: no micro-batches, or one does not divide the mini-batch.
    """
    sizes = _checked(problem, micro_batches)
    graph, cluster = problem.graph, problem.cluster
    least = _least(problem, sizes)
    share = _share(problem, sizes)
    for each, size in least.items():
        if size > cluster.memory:
            return (
                f"operator {graph.operators[each].name!r} needs {_gigabytes(size)} on each device with {share} "
                f"{'sample' if share == 1 else 'samples'} in flight; devices have {_gigabytes(cluster.memory)}"
            )
    if _free(problem, least) < 0:
        return (
            f"the model needs at least {_gigabytes(sum(least.values()))}; {cluster.devices} devices of "
            f"{_gigabytes(cluster.memory)} have {_gigabytes(cluster.devices * cluster.memory)}"
        )
    alone = _exclusive(problem, sizes)
    if len(alone) > cluster.devices:
        two = sorted(least[each] for each in alone)[:2]
        return (
            f"{len(alone)} operators need a device each, since any two need at least {_gigabytes(sum(two))} and a "
            f"device has {_gigabytes(cluster.memory)}; there are {cluster.devices} devices"
        )
    for each, cap in _caps(problem, sizes).items():
        if not _modes(problem, each, sizes, cap):
            size = problem.memory(1 << each, sizes[0], min(cap, sizes[0]), 1)
            rest = "1 device" if cap == 1 else f"{cap} devices"
            return (
                f"operator {graph.operators[each].name!r} needs {_gigabytes(size)} on each device with 1 micro-batch "
                f"of {sizes[0]} in flight, on at most {rest}; devices have {_gigabytes(cluster.memory)}"
            )
    return None


def _load(problem: Problem, modes: dict[int, list[_Mode]]) -> float:
    """Return the seconds per iteration from the work of all operators, and of the slowest one.

    Proof: a stage on d devices occupies them for its passes and its all-reduce, whose seconds are sums over its
    operators, each at the stage's micro-batch and d. So it takes at least the sum of its operators' least device
    seconds, and all stages together have no more than makespan · devices. A stage is never faster than one of its
    operators.
    """
    shared = fsum(min(each.devices * (each.work + each.sync) for each in ways) for ways in modes.values())
    slowest = max(min(each.work + each.sync for each in ways) for ways in modes.values())
    return max(shared / problem.cluster.devices, slowest)


def _path(problem: Problem, modes: dict[int, list[_Mode]], heads: Sequence[float], tails: Sequence[float]) -> float:
    """Return the seconds per iteration from every operator's work between its head and its tail.

    Proof: let stage S hold operator v. Its first pass starts after one forward pass of each stage before S on v's head,
    and after its last pass follow one backward pass of each stage before S on v's tail, or its own all-reduce. As S is
    convex, a path that has entered it does not leave it before v. So head and tail have only operators in stages before
    S and operators in S; the latter's passes, at least one each, are work of S beside that of v.
    A costless operator joins branches: it comes after all their forward passes over a sample, and before all backward.
    """
    spans = [min(_span(way, heads[each], tails[each]) for way in ways) for each, ways in modes.items()]
    return max(*spans, *(heads[each] + tails[each] for each in problem.graph.joins), 0.0)


def _memory(
    problem: Problem,
    modes: dict[int, list[_Mode]],
    heads: Sequence[float],
    tails: Sequence[float],
    alone: Sequence[int],
) -> float:
    """Return the seconds per iteration from operators of which no device holds two.

    Proof: they are in different stages, so the devices of their stages add up to no more than the cluster's. By the
    proof of `_path`, a makespan of T needs for each of them a mode whose span is at most T; let d(T) be the fewest
    devices of such a mode. T is possible only if the sum of d(T) over these operators fits into the cluster. That sum
    falls as T grows, and changes only where T is a span; the result is the least such T.
    """
    if len(alone) < 2:
        return 0.0
    options = [[(way.devices, _span(way, heads[each], tails[each])) for way in modes[each]] for each in alone]
    spans = sorted({span for option in options for _, span in option})
    low, high = 0, len(spans) - 1
    while low < high:
        middle = (low + high) // 2
        needs = (min((devices for devices, span in each if span <= spans[middle]), default=inf) for each in options)
        if sum(needs) <= problem.cluster.devices:
            high = middle
        else:
            low = middle + 1
    return spans[low]


def _span(way: _Mode, head: float, tail: float) -> float:
    """Return the seconds from an iteration's start to its end that an operator's stage implies (proof: `_path`)."""
    return head + way.work + max(tail, way.sync)


def _ends(problem: Problem, modes: dict[int, list[_Mode]]) -> tuple[list[float], list[float]]:
    """Return of every operator the least seconds of forward passes that precede it, and of backward ones that follow.

    Both are over one micro-batch, on the longest path to the operator; forward and backward paths may differ.
    """
    heads: list[float] = []
    tails: list[float] = []
    for sources in problem.graph.predecessors:
        before = list(members(sources))
        heads.append(max((heads[each] + min(way.forward for way in modes[each]) for each in before), default=0.0))
        tails.append(max((tails[each] + min(way.backward for way in modes[each]) for each in before), default=0.0))
    return heads, tails


def _modes(problem: Problem, operator: int, sizes: Sequence[int], cap: int) -> list[_Mode]:
    """Return the ways to run an operator on at most `cap` devices that fit into memory with 1 micro-batch in flight.

    More than `Problem.most_devices` are left out: those without work only make the all-reduce longer.
    """
    result, single = [], 1 << operator
    for size in sizes:
        for devices in range(1, min(cap, problem.most_devices(size)) + 1):
            if problem.memory(single, size, devices, 1) <= problem.cluster.memory:
                forward, backward = problem.seconds(single, size, devices)
                work = (forward + backward) * (problem.batch // size)
                result.append(_Mode(devices, work, problem.sync(single, devices), forward, backward))
    return result


def _caps(problem: Problem, sizes: Sequence[int]) -> dict[int, int]:
    """Return the most devices that the stage of each operator can have.

    Proof: each of its devices holds at least the operator's least bytes, and every other operator's least bytes lie on
    some device, while all devices have D · memory. Of n operators that exclude one another, it can hold one, so n − 1
    others need at least one other device each.
    """
    least = _least(problem, sizes)
    free = _free(problem, least)
    most = problem.cluster.devices - len(_exclusive(problem, sizes)) + 1
    return {
        each: most if isinstance(free, float) or not size else min(most, 1 + free // Fraction(size))
        for each, size in least.items()
    }


def _free(problem: Problem, least: dict[int, float]) -> Fraction | float:
    """Return the bytes that the operators' least bytes leave on all devices together, exactly; `inf` if unlimited."""
    if isinf(problem.cluster.memory):
        return inf
    return problem.cluster.devices * Fraction(problem.cluster.memory) - sum(map(Fraction, least.values()))


def _exclusive(problem: Problem, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the most operators of which no device has memory for two.

    In descending order of size they are the first ones, up to the last that does not fit beside the one before it.
    """
    least = _least(problem, sizes)
    order = sorted(least, key=lambda each: -least[each])
    count = 1
    while count < len(order) and least[order[count - 1]] + least[order[count]] > problem.cluster.memory:
        count += 1
    return tuple(order[:count])


def _least(problem: Problem, sizes: Sequence[int]) -> dict[int, float]:
    """Return the least bytes that each operator needs on each of its devices: state, and 1 micro-batch in flight."""
    share = _share(problem, sizes)
    return {each: problem.memory(1 << each, share, 1, 1) for each in members(problem.graph.placed)}


def _share(problem: Problem, sizes: Sequence[int]) -> int:
    """Return the fewest samples that a device can hold of a micro-batch: it grows with the micro-batch."""
    return -(-sizes[0] // problem.most_devices(sizes[0]))


def _checked(problem: Problem, micro_batches: Iterable[int]) -> list[int]:
    """Return the micro-batches in ascending order."""
    sizes = sorted(set(micro_batches))
    if not sizes:
        raise ConfigError("a plan needs at least one micro-batch size to choose from")
    for each in sizes:
        if each < 1 or problem.batch % each:
            raise ConfigError(f"micro-batch {each} does not divide the mini-batch of {problem.batch} samples")
    return sizes


def _gigabytes(size: float) -> str:
    """Format bytes."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e9:.3g} GB"
