"""Times of pipelined runs beside the simulated ones: a two-branch model that sleeps, as a DAG and as a chain."""

from __future__ import annotations

import json
import tempfile
from math import inf
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer

from bench.report import command, header, show
from bench.studies.sleeping import BATCH, FORWARD, LAYERS, graph
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.planning import plan_model
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.run.settings import RunSettings
from mspipe_triton.pipeline.graphpipe.run.worker import work

DEVICES = 4
MODEL, DATA = "bench.studies.sleeping:build", "bench.studies.sleeping:data"
Facts = dict[str, Any]


def main(
    steps: Annotated[int, typer.Option(help="Mini-batches of a run; the first one warms up.")] = 8,
    repeats: Annotated[int, typer.Option(help="Runs of each plan, in turn.")] = 5,
    profile: Annotated[bool, typer.Option(help="Plan from measured times instead of those of the sleep.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure on processes of this machine; a sleep takes no core, so two cores are enough for four of them."""
    torch.set_num_threads(1)
    show({**header(command("bench.studies.graphpipe_run")), **measure(steps, repeats, profile)}, out)


def measure(steps: int, repeats: int, profile: bool = False) -> Facts:
    """Return both plans' times per sample, simulated and measured, and the speedup of the DAG over the chain.

    A period is that of the slowest stage in steady state; a step also fills and drains the pipeline.
    """
    best = plan_model(Problem(graph(profile), Cluster(DEVICES, inf), BATCH, replicas=1))
    assert best.sequential is not None
    plans = {"graph": best.graph.plan, "sequential": best.sequential.plan}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (folder, plans, steps, repeats), DEVICES)
        rows = json.loads((Path(folder) / "rows.json").read_text(encoding="utf-8"))
    facts = {name: _facts(plan, rows[name]) for name, plan in plans.items()}
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


def _process(rank: int, folder: str, plans: dict[str, PipelinePlan], steps: int, repeats: int) -> None:
    """Run all plans in turn, and write the times of the first process."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), DEVICES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=DEVICES)
    rows: dict[str, list[Facts]] = {name: [] for name in plans}
    for _ in range(repeats):
        for name, plan in plans.items():
            result = work(plan, MODEL, DATA, RunSettings(steps=steps))
            if result is not None:
                rows[name].append({"period": result.period._asdict(), "step": result.step_seconds._asdict()})
    if rank == 0:
        (Path(folder) / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _facts(plan: PipelinePlan, rows: list[Facts]) -> Facts:
    """Seconds per sample of a plan, simulated and measured."""
    per_sample = {"period": 1, "step": plan.problem.batch}
    result: Facts = {"depth": plan.depth, "micro_batch": plan.stages[0].rhythm.micro_batch}
    for kind, samples in per_sample.items():
        times = sorted(row[kind]["measured"] / samples for row in rows)
        simulated = rows[0][kind]["planned"] / samples
        measured = median(times)
        result[kind] = {
            "simulated": simulated, "measured": measured, "least": times[0], "largest": times[-1],
            "ratio": measured / simulated,
        }  # fmt: skip
    return result


if __name__ == "__main__":
    typer.run(main)
