"""Times of pipelined runs beside the simulated ones: a two-branch model that sleeps, as a DAG and as a chain."""

from __future__ import annotations

from math import inf
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from bench.studies.processes import train
from bench.studies.sleeping import BATCH, FORWARD, LAYERS, graph
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.planning import plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.run.settings import RunSettings

DEVICES = 4
MODEL, DATA = "bench.studies.sleeping:build", "bench.studies.sleeping:data"
Facts = dict[str, Any]


def main(
    steps: Annotated[int, typer.Option(help="Mini-batches of a run; the first one warms up.")] = 8,
    repeats: Annotated[int, typer.Option(help="Runs of each plan, in turn.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure on processes of this machine; a sleep takes no core, so two cores are enough for four of them."""
    torch.set_num_threads(1)
    show({**header(command("bench.studies.graphpipe_run")), **measure(steps, repeats)}, out)


def measure(steps: int, repeats: int) -> Facts:
    """Return both plans' times per sample, simulated and measured, and the speedup of the DAG over the chain.

    A period is that of the slowest stage in steady state; a step also fills and drains the pipeline.
    """
    best = plan_model(Problem(graph(), Cluster(DEVICES, inf), BATCH, replicas=1))
    assert best.sequential is not None
    plans = {"graph": best.graph.plan, "sequential": best.sequential.plan}
    results = train([*plans.values()] * repeats, MODEL, DATA, RunSettings(steps=steps))
    facts = {name: _facts(plan, results[place :: len(plans)]) for place, (name, plan) in enumerate(plans.items())}
    speedup = {
        kind: facts["sequential"]["step"][kind] / facts["graph"]["step"][kind] for kind in ("simulated", "measured")
    }
    return {
        "processes": DEVICES,
        "batch": BATCH,
        "layers": LAYERS,
        "forward": {"fixed": FORWARD.fixed, "per_sample": FORWARD.per_sample},
        "steps": steps,
        "repeats": repeats,
        "plans": facts,
        "speedup": speedup,
        "largest_ratio": max(each[kind]["ratio"] for each in facts.values() for kind in ("period", "step")),
        "least_ratio": min(each[kind]["ratio"] for each in facts.values() for kind in ("period", "step")),
    }


def _facts(plan: PipelinePlan, rows: list[Facts]) -> Facts:
    """Seconds per sample of a plan, simulated and measured."""
    per_sample = {"period": ("period", 1), "step": ("step_seconds", plan.problem.batch)}
    result: Facts = {"depth": plan.depth, "micro_batch": plan.stages[0].rhythm.micro_batch}
    for kind, (key, samples) in per_sample.items():
        times = sorted(row[key]["measured"] / samples for row in rows)
        simulated = rows[0][key]["planned"] / samples
        measured = median(times)
        result[kind] = {
            "simulated": simulated, "measured": measured, "least": times[0], "largest": times[-1],
            "ratio": measured / simulated,
        }  # fmt: skip
    return result


if __name__ == "__main__":
    typer.run(main)
