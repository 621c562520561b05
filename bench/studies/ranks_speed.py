"""Speed of TGN on one and two ranks of this machine, epoch by epoch in turn, and the time that the ranks exchange."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from bench.studies.groups import Groups, in_processes
from mspipe_triton.config import DataConfig, RunConfig, TrainConfig
from mspipe_triton.data.source import load_stream
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.iteration.session import Session
from mspipe_triton.settings import process_settings
from mspipe_triton.training.way import Way, carry_out

VARIANTS = ((1, 1), (1, 2), (2, 1))  # ranks, and torch threads of each
SCHEDULES = ("serial", "exact")
SIZES = (600, 2400)
Facts = dict[str, Any]
Run = tuple[int, str, int, int]  # events per batch, schedule, ranks, threads


@dataclass(frozen=True)
class TimedRanks(Ranks):
    """Ranks that append the seconds of each sum of gradients to `seconds`."""

    seconds: list[float] = field(default_factory=list)

    def reduce(self, tensors: Iterable[torch.Tensor]) -> None:
        """See `Ranks`."""
        start = time.perf_counter()
        super().reduce(tensors)
        self.seconds.append(time.perf_counter() - start)


def main(
    data: Annotated[str, typer.Option(help="A CSV or Parquet file.")],
    repeats: Annotated[int, typer.Option(help="Epochs of each run, after a warm-up epoch.")] = 5,
    events: Annotated[int, typer.Option(help="Events per epoch, from the stream's start.")] = 12_000,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure; ratios are medians over pairs of neighbouring epochs."""
    runs = [(size, schedule, *variant) for size in SIZES for schedule in SCHEDULES for variant in VARIANTS]
    rows = in_processes(work, max(ranks for ranks, _ in VARIANTS), data, runs, events, repeats)[0]
    facts = {"events": events, "repeats": repeats, "runs": summary(rows)}
    show({**header(command("bench.studies.ranks_speed"), threads=1), **facts}, out)


def work(groups: Groups, data: str, runs: Sequence[Run], events: int, repeats: int) -> list[Facts]:
    """Train epochs of all runs in turn; return a row for each that this process took part in, without the warm-up."""
    stream, ways, rows = load_stream(DataConfig(path=data)), dict[Run, Way](), list[Facts]()
    for epoch in range(1, repeats + 2):
        for each in runs:
            size, schedule, count, threads = each
            with groups.of(count) as ranks:
                if ranks is None:
                    continue
                config = RunConfig(train=TrainConfig(batch_size=size, schedule=schedule, threads=threads))
                with process_settings(config):
                    if each not in ways:
                        timed = TimedRanks(ranks.rank, ranks.count, ranks.device)
                        ways[each] = carry_out(Session.create(config, stream, ranks=timed))
                    facts = train(ways[each], epoch, events)
            if epoch > 1:
                key = {"batch_size": size, "schedule": schedule, "ranks": count, "threads": threads}
                rows.append({**key, **facts})
    return rows


def train(way: Way, epoch: int, events: int) -> Facts:
    """Train an epoch; return its speed, and seconds per iteration: of all, of each stage, and of sums of gradients."""
    ranks = way.session.ranks
    assert isinstance(ranks, TimedRanks)
    ranks.seconds.clear()
    events = min(events, way.session.training_events)
    result = way.train_epoch(epoch, stop=events)
    iterations = result.losses.numel()
    return {
        "events_per_s": events / result.seconds, "seconds": result.seconds / iterations,
        "stage_seconds": result.facts["stage_seconds"], "reduce_seconds": sum(ranks.seconds) / iterations,
    }  # fmt: skip


def summary(rows: Sequence[Facts]) -> list[Facts]:
    """Return a row for each run: medians over epochs, and of the speed relative to one rank with one thread.

    `exchange_share` is the part of an iteration that a serial rank spends on exchanges, its waits for others included;
    under other schedules, `exchange` overlaps with `backward`, and only the sums of gradients count.
    """
    keys = ("batch_size", "schedule", "ranks", "threads")
    runs: dict[tuple[Any, ...], list[Facts]] = {}
    for row in rows:
        runs.setdefault(tuple(row[key] for key in keys), []).append(row)
    result: list[Facts] = []
    for (size, schedule, ranks, threads), epochs in runs.items():
        first = runs[size, schedule, *VARIANTS[0]]
        stages = {
            name: statistics.median(epoch["stage_seconds"][name] for epoch in epochs)
            for name in epochs[0]["stage_seconds"]
        }
        seconds, reduce = (statistics.median(epoch[key] for epoch in epochs) for key in ("seconds", "reduce_seconds"))
        exchange = reduce + (stages.get("exchange", 0.0) if schedule == "serial" else 0.0)
        result.append({
            "batch_size": size, "schedule": schedule, "ranks": ranks, "threads": threads,
            "events_per_s": statistics.median(epoch["events_per_s"] for epoch in epochs),
            "ratio": statistics.median(
                epoch["events_per_s"] / other["events_per_s"] for epoch, other in zip(epochs, first, strict=True)
            ),
            "seconds": seconds, "stage_seconds": stages, "reduce_seconds": reduce,
            "exchange_share": exchange / seconds,
        })  # fmt: skip
    return result


if __name__ == "__main__":
    typer.run(main)
