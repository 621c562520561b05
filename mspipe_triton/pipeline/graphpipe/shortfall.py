"""The explanation of a model that does not fit into the memory of the devices."""

from __future__ import annotations

from dataclasses import replace
from math import inf, sqrt

from mspipe_triton.pipeline.graphpipe.decompose import Tree
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.search import SeriesParallel

PRECISION = 1.01


def shortfall(problem: Problem, tree: Tree, rhythm: Rhythm) -> str:
    """Name the stage that needs most memory, in a plan that needs least of it, to one per cent.

    Args:
        problem: the problem, for which the planner finds no plan.
        tree: the decomposition of its model.
        rhythm: of all stages.
    """
    cluster = problem.cluster
    endless = replace(problem, cluster=replace(cluster, memory=inf))
    low, least = cluster.memory, assemble(endless, [Part(problem.graph.placed, 1, rhythm)])
    while _most(least) > PRECISION * low:
        middle = sqrt(low * _most(least))
        other = replace(problem, cluster=replace(cluster, memory=middle))
        parts = SeriesParallel(other, tree).parts(rhythm, inf)
        if parts is None:
            low = middle
        else:
            least = assemble(other, parts)
    stage = max(least.stages, key=least.memory)
    passes = "1 micro-batch" if stage.in_flight == 1 else f"{stage.in_flight} micro-batches"
    names = problem.graph.summary(stage.operators)
    return (
        f"found no plan that fits into {cluster.devices} devices of {cluster.memory / 1e9:,.4g} GB: in the one that "
        f"needs least, {stage.name} ({names}) needs {_most(least) / 1e9:,.4g} GB on each device, with {passes} of "
        f"{rhythm.micro_batch} in flight; use devices with more memory, or more of them"
    )


def _most(plan: PipelinePlan) -> float:
    """Return the most bytes that a device needs."""
    return max(plan.memory(stage) for stage in plan.stages)
