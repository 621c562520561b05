"""Plan, run, plan again: a two-branch model whose layers sleep for unequal times that the planner believes equal."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from bench.studies.processes import train
from bench.studies.sleeping import BATCH, FORWARD, UNEQUAL, build_unequal, graph
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.planning import plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.profile import measured_costs
from mspipe_triton.pipeline.graphpipe.run.settings import RunSettings

DEVICES = 4
MODEL, DATA = "bench.studies.sleeping:build_unequal", "bench.studies.sleeping:data"


def main(
    steps: Annotated[int, typer.Option(help="Mini-batches of a run; the first one warms up.")] = 6,
    rounds: Annotated[int, typer.Option(help="Plans, each from what the run of the one before measured.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure on processes of this machine; a sleep takes no core, so two cores are enough for four of them."""
    torch.set_num_threads(1)
    show({**header(command("bench.studies.graphpipe_again")), **measure(steps, rounds)}, out)


def measure(steps: int, rounds: int) -> dict[str, Any]:
    """Return each round's plan and seconds per mini-batch, and the time of the first round over that of the last."""
    model, bandwidth = graph(model=build_unequal), inf
    rows = []
    for _ in range(rounds):
        plan = plan_model(Problem(model, Cluster(DEVICES, inf, bandwidth), BATCH, replicas=1)).graph.plan
        (result,) = train([plan], MODEL, DATA, RunSettings(steps=steps), profile=True)
        rows.append(_facts(plan, result))
        passes = [(each["forward"]["measured"], each["backward"]["measured"]) for each in result["stages"]]
        operators = {name: (each["forward"], each["backward"]) for name, each in result["operators"].items()}
        model, bandwidth = measured_costs(plan, passes, operators), result["bandwidth"] or inf
    return {
        "devices": DEVICES,
        "batch": BATCH,
        "forward": {"fixed": FORWARD.fixed, "per_sample": FORWARD.per_sample},
        "layers": UNEQUAL,
        "steps": steps,
        "rounds": rows,
        "gain": rows[0]["measured"] / rows[-1]["measured"],
    }


def _facts(plan: PipelinePlan, result: dict[str, Any]) -> dict[str, Any]:
    """Layers of the stages, micro-batch, depth, and seconds per mini-batch."""
    graph, seconds = plan.problem.graph, result["step_seconds"]
    return {
        "stages": [graph.names(each.operators & graph.placed) for each in plan.stages],
        "micro_batch": plan.stages[0].rhythm.micro_batch,
        "depth": plan.depth,
        "simulated": seconds["planned"],
        "measured": seconds["measured"],
        "ratio": seconds["measured"] / seconds["planned"],
    }


if __name__ == "__main__":
    typer.run(main)
