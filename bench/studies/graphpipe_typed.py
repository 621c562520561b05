"""The example with several types of events: its precision, its plans, and a pipelined run beside the plain loop."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bench.report import command, header, show
from bench.studies.processes import train
from mspipe_triton.evaluation.metrics import average_precision
from mspipe_triton.examples import typed
from mspipe_triton.examples.typed import BATCH, FANOUT, TypedModel
from mspipe_triton.examples.typed_batches import TypedBatch, TypedBatches
from mspipe_triton.examples.typed_stream import KINDS, NAMES, TypedConfig, typed_stream
from mspipe_triton.pipeline.graphpipe.capture import capture
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph
from mspipe_triton.pipeline.graphpipe.planning import Planned, plan_model
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.run import module_state
from mspipe_triton.pipeline.graphpipe.run.settings import RunSettings

DEVICES, MICRO_BATCH, LATE, LR = 4, 64, 20, 1e-2
MODEL, DATA = "bench.studies.graphpipe_typed:build", "mspipe_triton.examples.typed:batches"
BRANCHES = {"all": tuple(KINDS), **{name: (kind,) for kind, name in zip(KINDS, NAMES, strict=True)}}
Facts = dict[str, Any]


def main(
    steps: Annotated[int, typer.Option(help="Mini-batches to train.")] = 100,
    seeds: Annotated[int, typer.Option(help="Streams and models, for the precision.")] = 3,
    workers: Annotated[int, typer.Option(help="Processes that train these models side by side.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure on one thread per process."""
    torch.set_num_threads(1)
    report = {
        **header(command("bench.studies.graphpipe_typed")),
        "batch": BATCH,
        "micro_batch": MICRO_BATCH,
        "steps": steps,
        "late": LATE,
        "lr": LR,
        "precision": precisions(steps, seeds, workers),
        "plans": plans(),
        "run": compare(steps),
    }
    show(report, out)


def build() -> tuple[TypedModel, tuple[Tensor, ...]]:
    """Return the example's model in float64, and its example inputs."""
    _, inputs = typed.build()
    return TypedModel(TypedConfig().traders, dtype=torch.float64), inputs


def precisions(steps: int, seeds: int, workers: int) -> Facts:
    """Return the precision of models with all branches and with one, over streams and weights of different seeds."""
    jobs = [(name, steps, seed) for seed in range(seeds) for name in BRANCHES]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        values = [*pool.map(_precision, *zip(*jobs, strict=True))]
    result = {}
    for place, name in enumerate(BRANCHES):
        row = values[place :: len(BRANCHES)]
        error = statistics.stdev(row) / sqrt(seeds) if seeds > 1 else 0.0
        result[name] = {"mean": statistics.mean(row), "standard_error": error, "seeds": row}
    return result


def plans() -> Facts:
    """Return the plans at the usual micro-batch and at the fastest one, on V100s as in `costs.py`."""
    module, inputs = typed.build()
    graph = capture(module, inputs, accelerator=ACCELERATORS["v100"])
    return {title: _plan_facts(_planned(graph, size)) for title, size in (("usual", MICRO_BATCH), ("best", None))}


def compare(steps: int) -> Facts:
    """Train by the plan at the usual micro-batch, and in the plain loop with the same micro-batches, in float64.

    Both then score the mini-batches that follow: the plain loop's module, and one that is loaded from the checkpoint.
    """
    torch.manual_seed(RunSettings.seed)
    module, inputs = build()
    plan = _planned(capture(module, inputs, accelerator=ACCELERATORS["v100"]), MICRO_BATCH).graph.plan
    with tempfile.TemporaryDirectory() as folder:
        (result,) = train([plan], MODEL, DATA, RunSettings(steps=steps, lr=LR), Path(folder))
        state = module_state(folder)
    stream = iter(typed.batches())
    losses, _ = learn(module, islice(stream, steps))
    differences = [(state[name].double() - each.double()).abs().max() for name, each in module.state_dict().items()]
    restored, _ = build()
    restored.load_state_dict(state)
    following = [*islice(stream, LATE)]
    return {
        "processes": plan.devices,
        "dtype": "float64",
        "last_loss": {"pipeline": result["losses"][-1], "loop": losses[-1]},
        "loss_difference": max(abs(one - other) for one, other in zip(result["losses"], losses, strict=True)),
        "state_difference": max(differences).item(),
        "following_precision": {"pipeline": score(restored, following), "loop": score(module, following)},
    }


def learn(module: TypedModel, batches: Iterable[TypedBatch]) -> tuple[list[float], list[Tensor]]:
    """Train in micro-batches, and return each mini-batch's loss and scores [B, 2], before it is learnt."""
    optimizer, losses, scores = torch.optim.Adam(module.parameters(), LR), [], []
    hook = module.decoder.register_forward_hook(lambda *call: parts.append(call[-1].detach()))
    for batch in batches:
        optimizer.zero_grad()
        total, parts = 0.0, list[Tensor]()
        for micro_batch in _micro_batches(batch):
            loss = module(*micro_batch) * len(micro_batch.kind) / len(batch.kind)
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
        scores.append(torch.cat(parts))
    hook.remove()
    return losses, scores


def late(scores: list[Tensor]) -> float:
    """Return the average precision of the last mini-batches."""
    return average_precision(*torch.cat(scores[-LATE:]).unbind(1))


@torch.no_grad()
def score(module: TypedModel, batches: Iterable[TypedBatch]) -> float:
    """Return the average precision of mini-batches that are not learnt; the memory sees them."""
    scores = [module.scores(*part) for batch in batches for part in _micro_batches(batch)]
    return average_precision(*torch.cat(scores).unbind(1))


def _precision(name: str, steps: int, seed: int) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = TypedConfig(events=steps * BATCH, seed=seed)
    module = TypedModel(config.traders, BRANCHES[name], seed=seed)
    return late(learn(module, TypedBatches(typed_stream(config), BATCH, FANOUT, seed))[1])


def _micro_batches(batch: TypedBatch) -> Iterator[TypedBatch]:
    return map(TypedBatch._make, zip(*(column.split(MICRO_BATCH) for column in batch), strict=True))


def _planned(graph: OperatorGraph, micro_batch: int | None) -> Planned:
    cluster = ACCELERATORS["v100"].cluster(DEVICES)
    return plan_model(Problem(graph, cluster, BATCH, replicas=1), micro_batch=micro_batch)


def _plan_facts(planned: Planned) -> Facts:
    """Depth, micro-batch and seconds per mini-batch of a plan and of the best chain, and its speedup over the chain."""
    assert planned.sequential is not None
    rows = {
        kind: {
            "depth": choice.plan.depth,
            "micro_batch": choice.plan.stages[0].rhythm.micro_batch,
            "devices": choice.plan.devices,
            "seconds": choice.seconds,
        }
        for kind, choice in (("graph", planned.graph), ("sequential", planned.sequential))
    }
    return {**rows, "speedup": planned.speedup}


if __name__ == "__main__":
    typer.run(main)
