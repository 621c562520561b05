"""Plans of GraphPipe's models beside the best chains: time per sample, depth, search, and where Piper's planner stops."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.report import command, header, show
from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.choice import Choice, Planned, plan_model
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.models import MODELS, candle_uno, mmt, two_branch
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph
from mspipe_triton.pipeline.graphpipe.piper import Piper, count_downsets
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

console = Console(stderr=True, highlight=False)
ACCELERATOR = ACCELERATORS["v100"]
SAMPLES = {"mmt": 16, "dlrm": 128, "candle-uno": 128}  # of a mini-batch, per device
DEVICES = (4, 8, 16, 32)


def main(out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None) -> None:
    """Plan; all times but those of the search are the cost model's, for the cluster of the paper."""
    show(
        {
            **header(command("bench.studies.graphpipe")),
            "accelerator": ACCELERATOR.name,
            "case": _case(),
            "models": {name: {str(count): _model(name, count) for count in DEVICES} for name in SAMPLES},
            "branches": {str(count): _branches(count) for count in (4, 8, 16)},
            "micro_batches": {str(size): _fixed(size) for size in (1, 2, 4, 8, 16)},
            "chain": _chain(),
            "piper": [_piper(branches, layers) for branches, layers in ((2, 8), (3, 4), (3, 8), (4, 4), (4, 8), (7, 4))],
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
    """A published model: the best plans, and those with the micro-batch of the chain for both."""
    console.print(f"{name} on {devices} devices")
    problem = Problem(MODELS[name](ACCELERATOR), ACCELERATOR.cluster(devices), SAMPLES[name] * devices)
    best = plan_model(problem)
    facts = _facts(best)
    if best.sequential is not None:
        size = best.sequential.plan.stages[0].rhythm.micro_batch
        facts["parallel_speedup"] = plan_model(problem, micro_batch=size).speedup
    return facts


def _branches(count: int) -> dict[str, Any]:
    """CANDLE-Uno without a trunk, with as many branches as devices."""
    graph = candle_uno(ACCELERATOR, branches=count, trunk=0)
    return _facts(plan_model(Problem(graph, ACCELERATOR.cluster(count), 128 * count)))


def _fixed(micro_batch: int) -> dict[str, Any]:
    """MMT on 8 devices at mini-batch 128 with one micro-batch."""
    problem = Problem(mmt(ACCELERATOR), ACCELERATOR.cluster(8), 128)
    return _facts(plan_model(problem, micro_batch=micro_batch))


def _chain() -> dict[str, Any]:
    """A sequential transformer, of which both planners should find the same plan."""
    graph = mmt(ACCELERATOR, branches=1, layers=32)
    planned = plan_model(Problem(graph, ACCELERATOR.cluster(8), 128))
    assert planned.sequential is not None
    return {**_facts(planned), "same_stages": planned.graph.plan.stages == planned.sequential.plan.stages}
