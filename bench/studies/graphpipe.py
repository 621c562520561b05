"""Plans of GraphPipe's models beside the best chains: time per sample, depth, search, and Piper's limits."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.report import command, header, show
from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.choice import Choice
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.decompose import decompose
from mspipe_triton.pipeline.graphpipe.models import MODELS, candle_uno, mmt, two_branch
from mspipe_triton.pipeline.graphpipe.piper import Piper, count_downsets
from mspipe_triton.pipeline.graphpipe.planner import Planner
from mspipe_triton.pipeline.graphpipe.planning import Planned, plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.search import SeriesParallel
from mspipe_triton.pipeline.graphpipe.sequential import Sequential, linear_orders

console = Console(stderr=True, highlight=False)
ACCELERATOR = ACCELERATORS["v100"]
SAMPLES = {"mmt": 16, "dlrm": 128, "candle-uno": 128}  # of a mini-batch, per device
DEVICES = (4, 8, 16, 32)
WAYS = {"any": None, "one": 1}  # devices per stage
PIPER = ((2, 8), (3, 4), (3, 8), (4, 4), (4, 8), (7, 4))  # branches, and layers of each


def main(out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None) -> None:
    """Plan; all times but those of the search are the cost model's, for the cluster of the paper."""
    models = {name: {str(count): _model(name, count) for count in DEVICES} for name in SAMPLES}
    show(
        {
            **header(command("bench.studies.graphpipe")),
            "accelerator": ACCELERATOR.name,
            "case": _case(),
            "models": models,
            "longest_search": max(
                row[way]["graph"]["search_seconds"] for rows in models.values() for row in rows.values() for way in WAYS
            ),
            "branches": {str(count): _branches(count) for count in (4, 8, 16)},
            "micro_batches": {str(size): _fixed(size) for size in (1, 2, 4, 8, 16)},
            "chain": _chain(),
            "piper": [
                _piper(branches, layers) for branches, layers in ((2, 8), (3, 4), (3, 8), (4, 4), (4, 8), (7, 4))
            ],
        },
        out,
    )


def _case() -> dict[str, Any]:
    """The case study: two branches of four stages, with the best micro-batch, and with that of the chain for both."""
    problem = Problem(two_branch(), Cluster(8, 16e9), 128)
    best = plan_model(problem)
    assert best.sequential is not None
    size = best.sequential.plan.stages[0].rhythm.micro_batch
    return {"best": _facts(best), "same_micro_batch": _facts(plan_model(problem, micro_batch=size))}


def _model(name: str, devices: int) -> dict[str, Any]:
    """A published model with any number of devices per stage, and with one, both with the best micro-batch."""
    console.print(f"{name} on {devices} devices")
    problem = Problem(MODELS[name](ACCELERATOR), ACCELERATOR.cluster(devices), SAMPLES[name] * devices)
    return {"batch": problem.batch} | {way: _best(replace(problem, replicas=most)) for way, most in WAYS.items()}


def _best(problem: Problem) -> dict[str, Any]:
    """The best plans, and the speedup if both have the micro-batch that is best for the chain."""
    try:
        planned = plan_model(problem)
    except GraphError as error:
        return {"reason": str(error)}
    facts = _facts(planned)
    if planned.sequential is not None:
        size = planned.sequential.plan.stages[0].rhythm.micro_batch
        facts["parallel_speedup"] = plan_model(problem, micro_batch=size).speedup
    return facts


def _branches(count: int) -> dict[str, Any]:
    """CANDLE-Uno without a trunk, with as many branches as devices."""
    graph = candle_uno(ACCELERATOR, branches=count, trunk=0)
    return _best(Problem(graph, ACCELERATOR.cluster(count), SAMPLES["candle-uno"] * count))


def _fixed(micro_batch: int) -> dict[str, Any]:
    """MMT on 8 devices at mini-batch 128, without data parallelism, with one micro-batch."""
    problem = Problem(mmt(ACCELERATOR), ACCELERATOR.cluster(8), 128, replicas=1)
    return _facts(plan_model(problem, micro_batch=micro_batch))


def _chain() -> dict[str, Any]:
    """A sequential transformer, of which both planners should find the same plan."""
    problem = Problem(mmt(ACCELERATOR, branches=1, layers=32), ACCELERATOR.cluster(8), 128, replicas=1)
    planned = plan_model(problem)
    assert planned.sequential is not None
    return {**_facts(planned), "same_stages": planned.graph.plan.stages == planned.sequential.plan.stages}


def _piper(branches: int, layers: int) -> dict[str, Any]:
    """Piper's planner on a multi-modal transformer: its downsets, and its time with one micro-batch if it is able."""
    console.print(f"Piper on {branches} branches of {layers}")
    problem = Problem(mmt(ACCELERATOR, branches=branches, layers=layers), ACCELERATOR.cluster(8), 128)
    facts: dict[str, Any] = {"branches": branches, "layers": layers, "downsets": count_downsets(problem.graph, 10**6)}
    planners: dict[str, Callable[[], Planner]] = {
        "piper": lambda: Piper(problem),
        "graphpipe": lambda: SeriesParallel(problem, decompose(problem.graph).tree),
        "pipedream": lambda: Sequential(problem, linear_orders(problem.graph)["depth first"]),
    }
    for name, build in planners.items():
        start = time.perf_counter()
        try:
            planner = build()
        except GraphError as error:
            facts[name] = {"reason": str(error)}
            continue
        rhythm = Rhythm(8)
        limits = planner.limits(rhythm)
        first = bisect_left(limits, True, key=partial(_fits, planner, rhythm))
        seconds = time.perf_counter() - start
        facts[name] = {"seconds": seconds, "states": planner.states, "bottleneck": float(limits[first])}
    return facts


def _fits(planner: Planner, rhythm: Rhythm, limit: float) -> bool:
    return planner.parts(rhythm, limit) is not None


def _facts(planned: Planned) -> dict[str, Any]:
    """The figures of a planned model."""
    facts = {
        "speedup": planned.speedup,
        "lower_bound": planned.bound.seconds,
        "over_bound": planned.over_bound(planned.graph),
        "graph": _choice(planned.graph),
    }
    return facts if planned.sequential is None else {**facts, "sequential": _choice(planned.sequential)}


def _choice(choice: Choice) -> dict[str, Any]:
    """The figures of one plan and of the search for it."""
    plan = choice.plan
    return {
        "time_per_sample": choice.time_per_sample,
        "depth": plan.depth,
        "stages": len(plan.stages),
        "in_flight": max(stage.in_flight for stage in plan.stages),
        "micro_batch": plan.stages[0].rhythm.micro_batch,
        "memory_gb": max(plan.memory(stage) for stage in plan.stages) / 1e9,
        "search_seconds": choice.search_seconds,
        "states": choice.states,
    }


if __name__ == "__main__":
    typer.run(main)
