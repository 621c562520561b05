"""Program of a stage: the piece of a traced module that a process runs, and the values that cross between stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture.build import GROWTH, check_alike, partition, smallest_batch
from mspipe_triton.pipeline.graphpipe.capture.load import Model
from mspipe_triton.pipeline.graphpipe.capture.meter import size
from mspipe_triton.pipeline.graphpipe.capture.pieces import Piece, changes, cut, draws, functions
from mspipe_triton.pipeline.graphpipe.capture.trace import Trace, trace
from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.run.layout import Layout
from mspipe_triton.pipeline.graphpipe.run.losses import check_loss, is_sum, join_weights
from mspipe_triton.pipeline.graphpipe.run.values import Value, values_of
from mspipe_triton.pipeline.graphpipe.work import carried


@dataclass(frozen=True)
class Program:
    """Operations of a process in a pass, and the values that it exchanges.

    Args:
        samples: that the process has in a micro-batch.
        piece: the operations of its stage.
        operators: the same operations cut by operators, in topological order, without joins of several stages.
        inputs: all example inputs of the module, with as many samples, by placeholder, in order.
        state: parameters and buffers that the stage uses, by placeholder.
        names: of all state in the module that a stage uses, and for those of this stage the placeholder.
        received: by index of the stage before, the values that come from it; in chains there may be none.
        sent: by index of the stage after, the values that go to it.
        losses: results of this stage that the loss consists of, and the weight of each in that of the mini-batch.
        constant: what a join of losses adds to that in every pass.
        changes: True if an operation changes a tensor in place.
        draws: True if an operation draws random numbers.
    """

    samples: int
    piece: Piece
    operators: tuple[Piece, ...]
    inputs: Mapping[fx.Node, Any]
    state: Mapping[fx.Node, Tensor]
    names: Mapping[str, fx.Node | None]
    received: Mapping[int, tuple[Value, ...]]
    sent: Mapping[int, tuple[Value, ...]]
    losses: Mapping[fx.Node, float]
    constant: float
    changes: bool
    draws: bool


def build_program(plan: PipelinePlan, model: Model, stage: int, samples: int, device: torch.device) -> Program:
    """Build the program of a stage.

    Args:
        plan: the plan.
        model: the module, which returns its loss, and example inputs.
        stage: the stage's index.
        samples: that the process has in a micro-batch.
        device: of the process.

    Raises:
        GraphError: the plan is for another model, torch cannot export the module, it does not return a loss that is a
            mean over samples, or a value without a dimension of samples crosses between stages whose passes have other
            samples.
    """
    module, args, kwargs = model
    smallest = smallest_batch(args, kwargs)
    small = trace(module, args, kwargs, smallest)
    whole = trace(module, args, kwargs, samples)
    other = small if samples != smallest else trace(module, args, kwargs, GROWTH * smallest)
    check_alike(module, whole, other)
    steps, groups, names = partition(small, len(plan.problem.graph.operators))
    operators = cut(whole, names, groups)
    _check_model(plan, whole, operators)
    place = {name: index for index, name in enumerate(names)}
    graph = plan.problem.graph
    order = [place[each.name] for each in graph.operators]  # of the plan's operators, their groups
    contents = _contents(plan)
    merged = [sorted({step for each in content for step in groups[order[each]]}) for content in contents.values()]
    pieces = cut(whole, list(contents), merged)
    stages, joins = pieces[: len(plan.stages)], pieces[len(plan.stages) :]
    owner = {whole.nodes[step]: each for each, group in enumerate(order) for step in groups[group]}
    crossing = _crossing(plan, stages, owner)
    values = values_of(whole, other, pieces, {node: steps[index].data for index, node in enumerate(whole.nodes)})
    for (before, after), nodes in crossing.items():
        _check_aligned(plan, before, after, [values[node] for node in nodes])
    piece, twin = stages[stage], cut(other, list(contents), merged)[stage]
    losses, constant = _losses(whole, stages, joins, values, stage)
    for node, weight in losses.items():
        check_loss(type(module).__name__, values[node])
        if values[node].leaves[0].dim is not None:
            losses[node] = weight / plan.problem.batch
        elif not is_sum((whole, other), (piece, twin), node.name):
            losses[node] = weight * samples / plan.problem.batch

    def crosses(pair: tuple[int, int]) -> tuple[Value, ...]:
        return tuple(values[node] for node in crossing[pair])

    parts = tuple(operators[group] for group in sorted(order[each] for each in contents[piece.name]))
    for each in (piece, *parts):
        _move(each.module, device)
    used = {node for each in stages for node in each.entries if node in whole.state}
    return Program(
        samples,
        piece,
        parts,
        whole.inputs,
        {node: whole.state[node] for node in piece.entries if node in whole.state},
        {whole.names[node]: node if node in piece.entries else None for node in whole.state if node in used},
        {before: crosses((before, stage)) for before in plan.stages[stage].after},
        {after: crosses((stage, after)) for after in plan.followers[stage]},
        losses,
        constant * samples / plan.problem.batch,
        any(changes(each) for each in functions(piece.module)),
        any(draws(each) for each in functions(piece.module)),
    )


def _move(module: fx.GraphModule, device: torch.device) -> None:
    """Make a piece run on a device, on which it need not have been traced."""
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.args, node.kwargs = tree_map(
                    lambda one: device if isinstance(one, torch.device) else one, (node.args, node.kwargs)
                )
            part.recompile()
    module.to(device)


def _contents(plan: PipelinePlan) -> dict[str, list[int]]:
    """Return the operators of every stage by its name, and then every join of several stages, which is in none."""
    graph = plan.problem.graph
    users = {join: [each for each in plan.stages if each.operators & graph.predecessors[join]] for join in graph.joins}
    several = [join for join, stages in users.items() if len(stages) > 1]
    stages = {each.name: [one for one in members(each.operators) if one not in several] for each in plan.stages}
    return stages | {graph.operators[join].name: [join] for join in several}


def _check_model(plan: PipelinePlan, whole: Trace, pieces: Sequence[Piece]) -> None:
    """Refuse a module whose operators are not those of the plan."""
    graph = plan.problem.graph
    planned = {each.name: each.parameters for each in graph.operators}
    actual = {
        piece.name: sum(size(whole.state[node]) for node in piece.entries if node in whole.state) for piece in pieces
    }
    again = f"the plan is for another model, {graph.name}; plan again, with the same --model"
    for name in [*planned, *actual]:
        if name not in actual:
            raise GraphError(f"the model has no operator {name!r}: {again}")
        if name not in planned:
            raise GraphError(f"the plan has no operator {name!r}: {again}")
        if planned[name] != actual[name]:
            raise GraphError(
                f"operator {name!r} has {actual[name]:,} bytes of parameters, in the plan {planned[name]:,}: {again}"
            )


def _crossing(
    plan: PipelinePlan, pieces: Sequence[Piece], owner: Mapping[fx.Node, int]
) -> dict[tuple[int, int], list[fx.Node]]:
    """Return the results that cross each edge of a plan, by indices of its stages."""
    edges = carried(plan)
    needs = [{node for node in piece.entries if node in owner} for piece in pieces]
    result: dict[tuple[int, int], list[fx.Node]] = {}
    place = {node: number for number, node in enumerate(owner)}
    for index in reversed(range(len(plan.stages))):
        for before in plan.stages[index].after:
            nodes = [node for node in needs[index] if edges[before, index] >> owner[node] & 1]
            result[before, index] = sorted(nodes, key=place.__getitem__)
            needs[before] |= {node for node in nodes if node not in pieces[before].exits}
    return result


def _check_aligned(plan: PipelinePlan, before: int, after: int, values: Sequence[Value]) -> None:
    """Refuse a value without a dimension of samples between stages whose passes have other samples."""
    if Layout(plan).aligned(before, after):
        return
    for leaf in (leaf for value in values for leaf in value.leaves):
        if leaf.dim is None and not leaf.shared:
            one, other = plan.stages[before].name, plan.stages[after].name
            raise GraphError(
                f"{one} sends {other} a tensor of shape {leaf.shape}, in which no dimension numbers the samples; plan "
                "both with one micro-batch and as many devices (without --mixed, with --replicas 1)"
            )


def _losses(
    whole: Trace, stages: Sequence[Piece], joins: Sequence[Piece], values: Mapping[fx.Node, Value], stage: int
) -> tuple[dict[fx.Node, float], float]:
    """Return a stage's results that the loss consists of with their weights, and the constant that it adds."""
    owner = {node: index for index, piece in enumerate(stages) for node in piece.exits}
    weights = {node: 1.0 for node in stages[stage].exits if node in whole.outputs}
    constant = 0.0
    for join in joins:
        used = [node for node in join.entries if node in owner]
        each, added = join_weights(whole, join, [values[node] for node in used])
        for node, weight in zip(used, each, strict=True):
            if owner[node] == stage:
                weights[node] = weights.get(node, 0.0) + weight
        if stage == min(owner[node] for node in used):
            constant += added
    return weights, constant
