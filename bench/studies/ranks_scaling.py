"""Scaling of N ranks, planned for 1 to 1,024 of them from stage times that one process measures.

The process works as rank 0 of N, with stand-ins for the others: its share is 1/N of each batch, and a gather returns
its own message N times. So all its stages run as in a real rank, without a network; the time of the network is
computed. `python -m bench.studies.ranks_scaling --data wiki.csv --out bench/results/ranks-scaling.json`, and then
`python -m bench.pages`, write the page.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from bench.report import command, header, show
from bench.studies.ranks_model import (
    GROWS,
    LINKS,
    STAGES,
    WORTHWHILE,
    Cost,
    Costs,
    Link,
    Workload,
    fit_cost,
    last_worthwhile,
    obstacle,
    plan_ranks,
)
from bench.studies.ranks_paper import on_paper
from mspipe_triton.config import DataConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.source import load_stream
from mspipe_triton.distributed.ends import Ends
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.iteration.scene import Batch, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.shares import SharedStages
from mspipe_triton.pipeline.simulate import simulate
from mspipe_triton.pipeline.slow_link import staleness_gain
from mspipe_triton.settings import process_settings

console = Console(stderr=True, highlight=False)
# Speeds of the device, over that of one thread of the measured processor, by the ends of a batch: those of the measured
# stream, or all distinct, as in a large stream where nodes rarely come twice in a batch.
CASES = {"measured": (1, 100), "distinct": (100,)}
RANKS = tuple(2**power for power in range(11))
PLANNED = (600, 4_800, 38_400)  # events per batch
BATCHES, SHARES = (600, 2_400, 9_600), (1, 4, 16, 64)  # measured: events per batch, and numbers of ranks
# A stream of random pairs, whose batches have almost only distinct ends; for the parts on the whole batch.
RANDOM_NODES, RANDOM_EVENTS, RANDOM = 200_000, 140_000, ((600, 4), (600, 64), (9_600, 4), (9_600, 64))
_GAIN = 1.05  # period of exact over that of mspipe from which on staleness pays
_ITERATIONS = 300  # of a simulation


@dataclass(frozen=True)
class OneOfMany(Ranks):
    """Rank 0 of N, with stand-ins for the others: what it gathers is its own message N times."""

    @property
    def alone(self) -> bool:
        """True, so that nothing is sent."""
        return True


def run_iterations(session: Session, items: Sequence[Batch]) -> tuple[dict[str, list[float]], list[tuple[int, int]]]:
    """Run batches through the stages of a rank on this thread; each fetch misses the update of the batch before.

    So every patch has the writes of one iteration to patch, as under `exact`.

    Returns:
        CPU seconds of every stage, which other processes hardly change; and of every batch the number of distinct nodes
        that the share reads, and of its ends.
    """
    functions = SharedStages(session).training()
    seconds: dict[str, list[float]] = {name: [] for name in STAGES}
    sizes = list[tuple[int, int]]()

    def run(name: str, work: Any) -> Any:
        start = time.process_time()
        result = functions[name](work)
        seconds[name].append(time.process_time() - start)
        return result

    def fetch(batch: Batch) -> Any:
        work = run("memory", run("features", run("sample", batch)))
        sizes.append((work.nodes.numel(), work.all_ends.nodes.numel()))
        return work

    session.state.reset()
    session.model.train()
    following = fetch(items[0])
    for number in range(len(items)):
        work = run("forward", run("patch", following))
        if number + 1 < len(items):
            following = fetch(items[number + 1])
        run("update", run("exchange", run("backward", work)))
    return seconds, sizes


def measure(stream: EventStream, batch: int, ranks: int, iterations: int, warmup: int = 2) -> dict[str, Any]:
    """Measure the stages of rank 0 of N; medians over iterations after the first ones."""
    count = iterations + warmup
    config = RunConfig(train=TrainConfig(batch_size=batch, threads=1, device="cpu", schedule="exact"))
    start = max(0, min(len(stream) // 2, len(stream) - count * batch))
    with process_settings(config):
        session = Session.create(config, stream, ranks=OneOfMany(count=ranks))
        span = (start, start + count * batch)
        items = list(batches(*span, batch, session.negatives, Purpose.TRAIN_NEGATIVES, 1))
        seconds, sizes = run_iterations(session, items)
    nodes, ends = (statistics.mean(each) for each in zip(*sizes[warmup:], strict=True))
    gradients = sum(each.numel() * each.element_size() for each in session.model.parameters())
    return {
        "batch": batch, "ranks": ranks, "share": items[0].share(session.ranks).size, "gradient_bytes": gradients,
        "nodes": nodes, "ends": ends,
        "seconds": {name: statistics.median(times[warmup:]) for name, times in seconds.items()},
    }  # fmt: skip


def rows_sent(stream: EventStream, batch: int, ranks: int, samples: int = 6) -> dict[str, float]:
    """Means over batches across the stream: E distinct ends, and R, the most rows that one of N ranks sends."""
    whole = len(stream) // batch
    starts = [number * whole // min(samples, whole) * batch for number in range(min(samples, whole))]
    ends = [
        Ends.of(stream.src[start : start + batch], stream.dst[start : start + batch], batch, OneOfMany(count=ranks))
        for start in starts
    ]
    return {
        "ends": statistics.mean(each.nodes.numel() for each in ends),
        "rows": statistics.mean(each.mine.numel() for each in ends),
    }


def fit(samples: Sequence[Mapping[str, Any]]) -> tuple[Costs, dict[str, Any]]:
    """Fit every stage's cost; also returns the report's entries, in microseconds.

    Random pairs have few neighbours, so they count only for stages that work on the whole batch too.
    """
    costs, entries = dict[str, Cost](), dict[str, Any]()
    for name in STAGES:
        rows = [each for each in samples if not each["random"] or GROWS[name] != ("share",)]
        cost, error = fit_cost(
            name, [(each["share"], each["batch"], each["ends"], each["seconds"][name]) for each in rows]
        )
        costs[name] = cost
        entries[name] = {f"{part}_us": seconds * 1e6 for part, seconds in vars(cost).items()}
        entries[name]["largest_error"] = error
    return costs, entries


def random_pairs() -> EventStream:
    """Stream of random pairs of nodes, an event per second."""
    generator = torch.Generator().manual_seed(0)
    src, dst = (torch.randint(0, RANDOM_NODES, (RANDOM_EVENTS,), generator=generator) for _ in range(2))
    return EventStream(src, dst, torch.arange(RANDOM_EVENTS), num_nodes=RANDOM_NODES, name="random pairs")


def scale(costs: Costs, works: Sequence[Workload], case: str, name: str, speed: float) -> dict[str, Any]:
    """Plan a batch on 1, 2, 4, … ranks over a link: events/s, where doubling stops to pay and why, and staleness."""
    link = LINKS[name]
    points = [_point(costs, work, link, speed) for work in works]
    stop = last_worthwhile((each["ranks"], each["events_per_s"]) for each in points)
    tree = replace(link, tree=True)
    trees = [(work.ranks, float(work.batch / plan_ranks(costs, work, tree, speed).period)) for work in works]
    place = RANKS.index(stop)
    after = works[min(place + 1, len(works) - 1)]  # the doubling that does not pay
    gains = [each for each in points if each["staleness_gain"] >= _GAIN]
    return {
        "ends": case, "speed": speed, "link": name, "batch": works[0].batch, "points": points, "stops_at": stop,
        "speedup": points[place]["events_per_s"] / points[0]["events_per_s"],
        "best": max(points, key=lambda each: each["events_per_s"])["ranks"],
        "because": obstacle(costs, after, link, speed), "tree_stops_at": last_worthwhile(trees),
        "tree_speedup": dict(trees)[last_worthwhile(trees)] / trees[0][1],
        "staleness_pays_from": gains[0]["ranks"] if gains else None,
        "largest_staleness_gain": max(each["staleness_gain"] for each in points),
    }  # fmt: skip


def _point(costs: Costs, work: Workload, link: Link, speed: float) -> dict[str, Any]:
    plan = plan_ranks(costs, work, link, speed)
    gain = staleness_gain(plan)
    simulation = simulate(plan.graph, _ITERATIONS).period()
    return {
        "ranks": work.ranks, "events_per_s": float(work.batch / plan.period), "period_ms": float(plan.period) * 1e3,
        "exchange_ms": float(plan.graph.times["exchange"]) * 1e3, "gathered_bytes": work.gathered,
        "simulated_over_planned": float(simulation / plan.period),
        "staleness": 0 if gain is None else gain.staleness,
        "staleness_gain": 1.0 if gain is None else float(gain.before / gain.period),
    }  # fmt: skip


def _scalings(costs: Costs, stream: EventStream, dim: int, gradients: int) -> Iterator[dict[str, Any]]:
    for case, speeds in CASES.items():
        for batch in PLANNED:
            works = list[Workload]()
            for ranks in RANKS:
                share = -(-batch // ranks)
                distinct = {"ends": 2 * batch, "rows": 2 * share}
                sizes = distinct if case == "distinct" else rows_sent(stream, batch, ranks)
                works.append(Workload(batch, ranks, **sizes, dim=dim, gradients=gradients))
            for speed in speeds:
                for name in LINKS:
                    yield scale(costs, works, case, name, speed)


def study(stream: EventStream, iterations: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure, fit, plan, and work through the large stream; the report without its header."""
    config, samples = RunConfig(), list[dict[str, Any]]()
    cases = [(stream, batch, ranks) for batch in BATCHES for ranks in SHARES]
    cases += [(pairs, *sizes) for pairs in [random_pairs()] for sizes in RANDOM]
    for events, batch, ranks in cases:
        samples.append({"random": events is not stream, **measure(events, batch, ranks, iterations)})
        seconds = sum(samples[-1]["seconds"].values())
        note(f"{events.name}, B {batch:,}, rank 0 of {ranks}: {seconds * 1e3:,.1f} ms")
    costs, entries = fit(samples)
    scalings = list(_scalings(costs, stream, config.model.dim, samples[0]["gradient_bytes"]))
    large = next(each for each in scalings if each["ends"] == "distinct" and each["batch"] == PLANNED[-1])
    distinct = next(each["nodes"] / each["batch"] for each in samples if each["ranks"] == 1)
    return {
        "stream": {"name": stream.name, "events": len(stream), "nodes": stream.num_nodes, "iterations": iterations},
        "model": {"name": config.model.model, "dim": config.model.dim, "gradient_bytes": samples[0]["gradient_bytes"]},
        "links": {
            name: {"gb_per_s": link.bandwidth / 1e9, "latency_us": link.latency * 1e6} for name, link in LINKS.items()
        },
        "worthwhile": WORTHWHILE,
        "rows": {str(batch): {str(n): rows_sent(stream, batch, n) for n in (1, 8, 64, 1024)} for batch in PLANNED},
        "costs": entries,
        "largest_error": max(each["largest_error"] for each in entries.values()),
        "simulation_difference": max(
            abs(point["simulated_over_planned"] - 1) for each in scalings for point in each["points"]
        ),
        "paper": on_paper(config, LINKS, distinct, large["points"][0]["events_per_s"]),
        "scalings": scalings,
        "samples": samples,
    }  # fmt: skip


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, or `synthetic`.")] = "synthetic",
    iterations: Annotated[int, typer.Option(help="Iterations per measurement, after two to warm up.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure and plan; progress goes to stderr, JSON to stdout."""
    stream = load_stream(DataConfig(path=data))
    report = {**header(command("bench.studies.ranks_scaling"), 1), **study(stream, iterations, console.print)}
    show(report, out)


if __name__ == "__main__":
    typer.run(main)
