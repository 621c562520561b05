"""Pipelined runs beside the unpipelined module: errors of gradients, losses and state, and activations beside plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from tests.pipeline.graphpipe.run.harness import TOLERANCE, joined, train
from tests.pipeline.graphpipe.run.layouts import NAMED, Layout, by_hand
from tests.pipeline.graphpipe.run.memory import held, planned_activations
from tests.pipeline.graphpipe.run.oracle import STEPS, Outcome, differences, expected
from tests.processes.pool import Pool, pool

DTYPES = {"float32": torch.float32, "float64": torch.float64}
OPTIMIZERS = {"float32": "adam", "float64": "sgd"}
Facts = dict[str, Any]


def main(
    models: Annotated[str, typer.Option(help="Models to train, separated by commas.")] = ",".join(NAMED),
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure on two to four processes of this machine."""
    torch.set_num_threads(1)
    layouts = {name: NAMED[name] for name in models.split(",")}
    with pool(4) as processes:
        facts = measure(processes, layouts)
    show({**header(command("bench.studies.graphpipe_equal")), **facts}, out)


def measure(processes: Pool, layouts: Mapping[str, Mapping[int, Layout]]) -> Facts:
    """Return the facts of every model, by number of processes, and the extremes of all.

    An error is the largest one of any tensor, relative to its scale (`tests.pipeline.graphpipe.run.oracle`).
    """
    models = {
        name: {str(world): _facts(processes, name, layout) for world, layout in layouts[name].items()}
        for name in layouts
    }
    cases = [facts for rows in models.values() for facts in rows.values()]
    return {
        "steps": STEPS,
        "optimizers": OPTIMIZERS,
        "tolerance": {name: TOLERANCE[dtype] for name, dtype in DTYPES.items()},
        "models": models,
        **summary(cases),
    }


def summary(cases: Sequence[Facts]) -> Facts:
    """Return the largest error by type and quantity, ratios of activations to the plan's, and what is not as planned.

    Args:
        cases: facts of models on a number of processes.
    """
    ratios = [measured / planned for planned, measured in _pairs(cases, "activations") if planned]
    return {
        "largest_error": {
            dtype: {quantity: max(case[dtype]["errors"][quantity] for case in cases) for quantity in Outcome._fields}
            for dtype in DTYPES
        },
        "activations": {"least_ratio": min(ratios), "largest_ratio": max(ratios)},
        "stages": sum(len(case["stages"]) for case in cases),
        "other_in_flight": sum(planned != measured for planned, measured in _pairs(cases, "in_flight")),
    }


def _pairs(cases: Sequence[Facts], quantity: str) -> Iterator[tuple[float, float]]:
    """Yield a quantity of every stage as planned and as measured."""
    for case in cases:
        for dtype in DTYPES:
            facts = case[dtype][quantity]
            yield from zip(facts["planned"], facts["measured"], strict=True)


def _facts(processes: Pool, name: str, layout: Layout) -> Facts:
    plans = {dtype: by_hand(name, layout, each) for dtype, each in DTYPES.items()}
    first = plans["float64"]
    stages = [{"devices": len(each.devices), "micro_batch": each.rhythm.micro_batch} for each in first.stages]
    return {
        "depth": first.depth,
        "chain": layout.chain,
        "stages": stages,
        **{dtype: _run(processes, name, dtype, plan) for dtype, plan in plans.items()},
    }


def _run(processes: Pool, name: str, dtype: str, plan: PipelinePlan) -> Facts:
    """Train by a plan, and measure its memory; in flight and activations are lists over stages."""
    kind, optimizer = DTYPES[dtype], OPTIMIZERS[dtype]
    actual = joined(plan, processes(plan.devices, train, plan, name, kind, optimizer))
    reference = expected(name, kind, optimizer)
    memory = processes(plan.devices, held, plan, name, kind)
    stages = [[each for each in memory if each.stage == index] for index in range(len(plan.stages))]
    return {
        "errors": {
            quantity: max(differences(getattr(actual, quantity), getattr(reference, quantity)).values())
            for quantity in Outcome._fields
        },
        "in_flight": {
            "planned": [each.in_flight for each in plan.stages],
            "measured": [max(each.in_flight for each in stage) for stage in stages],
        },
        "activations": {
            "planned": [planned_activations(plan, each) for each in plan.stages],
            "measured": [max(each.activations for each in stage) for stage in stages],
        },
    }


if __name__ == "__main__":
    typer.run(main)
