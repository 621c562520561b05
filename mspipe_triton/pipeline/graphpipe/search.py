"""The planner of series-parallel models: the shallowest partition whose stages keep to a limit of time per sample.

GraphPipe's dynamic programme (Jeon et al., ASPLOS 2025, arXiv 2406.17145) asks for the fewest in-flight micro-batches
of a subgraph's source stage, for every number of devices and every schedule of what follows. Here the question is
turned round: on how few devices does a subgraph reach level l, if level s follows it? If all stages have one rhythm, a
level is the number of stages to the end, and of groups of passes in flight. The answers for a subgraph are a matrix
over (s, l), and splits are algebra on matrices: parallel branches add up, a series is a (min, +) product, a stage is a
diagonal. So the number of devices is no part of the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mspipe_triton.pipeline.graphpipe.decompose import Leaf, Series, Tree
from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.plan import Part
from mspipe_triton.pipeline.graphpipe.planner import NONE, StageTable
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.space import Beside, Child, First, Last, Space, Split, Then

Matrix = npt.NDArray[np.int32]


class SeriesParallel:
    """The planner of the partitions in a `Space`; see `Planner`.

    Args:
        problem: the problem.
        tree: the decomposition of its model.
    """

    chain = False

    def __init__(self, problem: Problem, tree: Tree) -> None:
        self.problem, self.states = problem, 0
        self.space = Space(problem.graph, tree)
        self.levels = min(problem.cluster.devices, _longest(tree))
        self.table = StageTable(problem, self.levels)
        self._packs = [_Pack(node.splits, self.table) for node in self.space.nodes]
        self._solved = lru_cache(maxsize=1)(self._solve)

    def limits(self, rhythm: Rhythm) -> Sequence[float]:
        """Return the times per sample that stages have, ascending."""
        return self.table.limits(rhythm)

    def parts(self, rhythm: Rhythm, limit: float) -> tuple[Part, ...] | None:
        """Return the shallowest partition within the limit, or None, as in `Planner`."""
        matrices, fewest = self._solved(rhythm, limit)
        levels = np.flatnonzero(matrices[self.space.root.node, 0] <= self.problem.cluster.devices)
        if not len(levels):
            return None
        stages = self._stages(self.space.root, (0, int(levels[0])), matrices, fewest)
        return tuple(Part(operators, devices, rhythm) for operators, devices in stages)

    def _solve(self, rhythm: Rhythm, limit: float) -> tuple[Matrix, Matrix]:
        """Return the matrix of every node, and the fewest devices of every stage by the level that follows it.

        Levels that follow are 0 to `levels`, of which the last one leaves no level for another stage.
        """
        size = self.levels + 1
        fewest = np.pad(self.table.fewest(rhythm, limit), ((0, 0), (0, 1)), constant_values=NONE)
        matrices = np.full((len(self._packs), size, size), NONE, np.int32)
        for number, pack in enumerate(self._packs):
            pack.solve(fewest, matrices, matrices[number])
        self.states += len(self._packs) * size * self.levels // 2
        return matrices, fewest

    def _stages(
        self, place: Child, levels: tuple[int, int], matrices: Matrix, fewest: Matrix
    ) -> Iterator[tuple[int, int]]:
        """Yield the stages of a best partition of a subproblem, with their devices, by retracing its splits."""
        follow, reach = levels
        node, target = self.space.nodes[place.node], matrices[place.node, follow, reach]

        def actual(operators: int) -> int:
            """Translate operators of the node into those that take their places."""
            return sum(1 << places[index] for index in members(operators))

        def below(child: Child, follow: int, reach: int) -> Iterator[tuple[int, int]]:
            moved = Child(child.node, tuple(places[index] for index in child.operators))
            return self._stages(moved, (follow, reach), matrices, fewest)

        places = dict(zip(node.operators, place.operators, strict=True))
        for split in node.splits:
            match split:
                case Last(stage, front):
                    devices = fewest[self.table.row(stage), follow]
                    before = 0 if front is None else matrices[front.node, follow + 1, reach]
                    if devices + before == target and (front is not None or reach > follow):
                        yield actual(stage), int(devices)
                        if front is not None:
                            yield from below(front, follow + 1, reach)
                        return
                case Beside(some, rest):
                    if matrices[some.node, follow, reach] + matrices[rest.node, follow, reach] == target:
                        yield from below(some, follow, reach)
                        yield from below(rest, follow, reach)
                        return
                case Then(front, back):
                    sums = matrices[back.node, follow] + matrices[front.node, :, reach]
                    if sums.min() == target:
                        middle = int(sums.argmin())
                        yield from below(front, middle, reach)
                        yield from below(back, follow, middle)
                        return
                case First(stage, back):
                    sums = matrices[back.node, follow, :reach] + fewest[self.table.row(stage), :reach]
                    if sums.min() == target:
                        middle = int(sums.argmin())
                        yield actual(stage), int(fewest[self.table.row(stage), middle])
                        yield from below(back, follow, middle)
                        return


class _Pack:
    """The splits of a node as arrays of stage rows and node numbers, by kind."""

    def __init__(self, splits: list[Split], table: StageTable) -> None:
        last = [each for each in splits if isinstance(each, Last)]
        first = [each for each in splits if isinstance(each, First)]
        then = [each for each in splits if isinstance(each, Then)]
        beside = [each for each in splits if isinstance(each, Beside)]
        self.whole = np.array([table.row(each.stage) for each in last if each.front is None], np.intp)
        self.last = np.array([(table.row(each.stage), each.front.node) for each in last if each.front], np.intp)
        self.first = np.array([(table.row(each.stage), each.back.node) for each in first], np.intp)
        self.then = np.array([(each.front.node, each.back.node) for each in then], np.intp)
        self.beside = np.array([(each.some.node, each.rest.node) for each in beside], np.intp)

    def solve(self, fewest: Matrix, matrices: Matrix, out: Matrix) -> None:
        """Write a node's matrix, from those of the nodes that its splits leave.

        Args:
            fewest: devices of stages, [rows, levels that follow].
            matrices: devices of nodes, [nodes, levels that follow, levels to reach].
            out: the node's own matrix.
        """
        if len(self.whole):
            above = ~np.tri(len(out), dtype=bool)  # levels to reach above those that follow
            out[...] = np.where(above, fewest[self.whole].min(axis=0)[:, None], NONE)
        if len(self.last):
            rows, fronts = self.last.T
            sums = fewest[rows][:, :-1, None] + matrices[fronts, 1:]
            np.minimum(out[:-1], sums.min(axis=0), out=out[:-1])
        if len(self.first):
            rows, backs = self.first.T
            sums = (matrices[backs] + fewest[rows][:, None, :]).min(axis=0)
            np.minimum(out[:, 1:], np.minimum.accumulate(sums[:, :-1], axis=1), out=out[:, 1:])
        for front, back in self.then:
            sums = matrices[back][:, :, None] + matrices[front][None]
            np.minimum(out, sums.min(axis=1), out=out)
        if len(self.beside):
            some, rests = self.beside.T
            np.minimum(out, (matrices[some] + matrices[rests]).min(axis=0), out=out)
        np.minimum(out, NONE, out=out)


def _longest(tree: Tree) -> int:
    """Return the number of operators on the longest path."""
    if isinstance(tree, Leaf):
        return 1
    lengths = map(_longest, tree.parts)
    return sum(lengths) if isinstance(tree, Series) else max(lengths)
