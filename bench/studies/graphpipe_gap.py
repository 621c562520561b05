"""Gap between planners and all valid plans: least bottlenecks on small random models, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.report import command, header, show
from mspipe_triton.pipeline.graphpipe.decompose import decompose
from mspipe_triton.pipeline.graphpipe.planner import Planner
from mspipe_triton.pipeline.graphpipe.problem import Problem
from mspipe_triton.pipeline.graphpipe.rewrites import REWRITES
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from mspipe_triton.pipeline.graphpipe.search import SeriesParallel
from mspipe_triton.pipeline.graphpipe.sequential import Sequential, linear_orders
from tests.pipeline.graphpipe import random_problems
from tests.pipeline.graphpipe.enumeration import Enumeration, cuts_of

console = Console(stderr=True, highlight=False)
KINDS = {"series-parallel": random_problems.series_parallel, "any": random_problems.any_graph}
SAME = 1 + 1e-9  # ratios up to here are roundings


def main(
    models: Annotated[int, typer.Option(help="Random models of each kind.")] = 300,
    operators: Annotated[int, typer.Option(help="Operators per model.")] = 7,
    devices: Annotated[int, typer.Option(help="Most devices of a cluster.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure; the table goes to stderr, JSON to stdout."""
    report = {
        **header(command("bench.studies.graphpipe_gap")), "models": models, "operators": operators, "devices": devices,
        "kinds": {kind: measure(kind, models, operators, devices) for kind in KINDS},
    }  # fmt: skip
    console.print(_table(report["kinds"]))
    show(report, out)


def measure(kind: str, models: int, operators: int, devices: int) -> dict[str, Any]:
    """Compare planners on random models of one kind; seeds whose problem no plan solves, or one of 0 s, are skipped."""
    ratios: list[dict[str, float]] = []
    seed = skipped = 0
    while len(ratios) < models:
        random = Random(seed)
        graph = KINDS[kind](random, operators)
        ratio = compare(*random_problems.problem(random, graph, devices))
        ratios += [ratio] if ratio else []
        skipped += not ratio
        seed += 1
    return {
        "skipped": skipped,
        "families": {family: summary([each[family] for each in ratios]) for family in ratios[0]},
        "chain_faster_than_splits": statistics.mean(each["chains"] < each["splits"] / SAME for each in ratios),
        "splits_faster_than_chain": statistics.mean(each["splits"] < each["chains"] / SAME for each in ratios),
    }


def compare(problem: Problem, rhythm: Rhythm) -> dict[str, float] | None:
    """Return each family's least bottleneck over that of all valid plans; None without a plan of more than 0 s.

    A family without a plan has an infinite ratio. Freed chains are cuts of an order whose stages depend on those whose
    outputs they use, so that fewer micro-batches are in flight.
    """
    plans = Enumeration(problem, rhythm.micro_batch, rhythm.group).all_plans()
    optimum = min((plan.bottleneck for plan in plans), default=0.0)
    if not optimum:
        return None
    trees = dict.fromkeys(decompose(problem.graph, rewrite).tree for rewrite in REWRITES)
    orders = dict.fromkeys(linear_orders(problem.graph).values())
    splits = least([SeriesParallel(problem, tree) for tree in trees], rhythm)
    chains = least([Sequential(problem, order) for order in orders], rhythm)
    freed = min((plan.bottleneck for order in orders for plan in cuts_of(order, plans)), default=inf)
    bottlenecks = {
        "splits": splits, "chains": chains, "splits or chains": min(splits, chains),
        "splits or freed chains": min(splits, freed),
    }  # fmt: skip
    return {family: bottleneck / optimum for family, bottleneck in bottlenecks.items()}


def least(planners: Iterable[Planner], rhythm: Rhythm) -> float:
    """Return the least bottleneck of the plans that some planners find; infinite if there is none."""
    return min((_least(planner, rhythm) for planner in planners), default=inf)


def _least(planner: Planner, rhythm: Rhythm) -> float:
    limits = planner.limits(rhythm)
    return next((float(limit) for limit in limits if planner.parts(rhythm, limit) is not None), inf)


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Summarise ratios: the share of models at the optimum and without a plan, and statistics of those with a plan."""
    finite = [ratio for ratio in ratios if ratio < inf]
    return {
        "at_optimum": statistics.mean(ratio <= SAME for ratio in ratios),
        "no_plan": statistics.mean(ratio == inf for ratio in ratios),
        "mean_ratio": statistics.mean(finite), "largest_ratio": max(finite),
    }  # fmt: skip


def _table(kinds: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="least bottlenecks over that of all valid plans")
    table.add_column("models")
    for name in ("at the optimum", "no plan", "mean", "largest"):
        table.add_column(name, justify="right")
    for kind, results in kinds.items():
        table.add_row(f"[bold]{kind}")
        for family, each in results["families"].items():
            shares = (f"{each[name]:.1%}" for name in ("at_optimum", "no_plan"))
            table.add_row(f" {family}", *shares, f"{each['mean_ratio']:.4f}", f"{each['largest_ratio']:.3f}")
        table.add_section()
    return table


if __name__ == "__main__":
    typer.run(main)
