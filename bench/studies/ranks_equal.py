"""Training on 1, 2 and 4 ranks in float64: differences of losses, weights and node state, and the bytes exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.report import command, header, show
from bench.studies.groups import Groups, in_processes
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.distributed.ranks import Ranks, Traffic
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.way import carry_out
from tests.distributed.plain_ends import most_rows
from tests.distributed.streams import hub

RANKS = (1, 2, 4)
MODELS: dict[str, dict[str, Any]] = {
    "tgn": {"model": "tgn"},
    "tgn, mean": {"model": "tgn", "aggregator": "mean", "pair_features": False},
    "jodie": {"model": "jodie", "pair_features": False},
    "apan": {"model": "apan", "pair_features": False},
}
SCHEDULES = ("serial", "exact")
HUB, HUB_EVENTS = "hub", 6_000  # the stream where one node is in every event, and its events
TOLERANCE = 1e-9
Facts = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """An epoch on the first events of a stream, in batches of `size`; memory has `dim` floats per node."""

    data: str
    events: int
    size: int
    dim: int

    def stream(self) -> EventStream:
        """Return the events."""
        return replace(hub(HUB_EVENTS), name=HUB) if self.data == HUB else load_stream(DataConfig(path=self.data))


def main(
    data: Annotated[list[str], typer.Option(help="CSV or Parquet files.")],
    events: Annotated[int, typer.Option(help="Training events of the epoch, at most.")] = 50_000,
    batch_size: Annotated[int, typer.Option(help="Events per batch.")] = 600,
    dim: Annotated[int, typer.Option(help="Width of memory and embeddings.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train on processes of this machine; the last batch is a partial one."""
    torch.set_num_threads(1)
    jobs = [*(Job(path, events, batch_size, dim) for path in data), Job(HUB, events, batch_size, dim)]
    rows = in_processes(work, max(RANKS), RANKS, jobs, MODELS)
    show({**header(command("bench.studies.ranks_equal")), "batch_size": batch_size, "dim": dim, **summary(rows)}, out)


def work(groups: Groups, counts: Sequence[int], jobs: Sequence[Job], models: Mapping[str, Facts]) -> list[Facts]:
    """Train all models on each number of ranks; return a row for each run that this process took part in."""
    rows: list[Facts] = []
    for job in jobs:
        stream = job.stream()
        alone: dict[tuple[str, str], Outcome] = {}
        for count in counts:
            with groups.of(count) as ranks:
                if ranks is None:
                    continue
                for model in models:
                    for schedule in SCHEDULES:
                        outcome = train(job, stream, models[model], schedule, ranks)
                        other = alone.setdefault((model, schedule), outcome) if groups.rank == 0 else outcome
                        key = {"stream": stream.name, "model": model, "schedule": schedule, "ranks": count}
                        rows.append({**key, **facts(outcome, other, job, stream, ranks)})
    return rows


@dataclass(frozen=True)
class Outcome:
    """Losses [iterations], weights and tables of node state after an epoch, and the bytes that this rank received."""

    losses: torch.Tensor
    weights: Mapping[str, torch.Tensor]
    tables: Mapping[str, torch.Tensor]
    traffic: Traffic


def train(job: Job, stream: EventStream, model: Facts, schedule: str, ranks: Ranks) -> Outcome:
    """Train an epoch in float64."""
    config = RunConfig(
        model=ModelConfig(dim=job.dim, dtype="float64", **model),
        train=TrainConfig(batch_size=job.size, schedule=schedule, threads=1),
    )
    traffic = Traffic()
    session = Session.create(config, stream, ranks=replace(ranks, traffic=traffic))
    losses = carry_out(session).train_epoch(1, stop=min(job.events, session.training_events)).losses
    return Outcome(losses, session.model.state_dict(), session.state.state_dict(), traffic)


def facts(outcome: Outcome, other: Outcome, job: Job, stream: EventStream, ranks: Ranks) -> Facts:
    """Return differences from the outcome of one rank, bytes per iteration, and a digest of the replica."""
    iterations = outcome.losses.numel()
    events = min(job.events, stream.split_for(job.size).train_end)
    formula = sum(
        gathered_bytes(stream.src[start:stop].tolist(), stream.dst[start:stop].tolist(), job.size, ranks.count, job.dim)
        for start, stop in ((start, min(start + job.size, events)) for start in range(0, events, job.size))
    )
    digest = blake2b()
    for each in (*outcome.weights.values(), *outcome.tables.values()):
        digest.update(each.contiguous().numpy().tobytes())
    return {
        "iterations": iterations, "events": events,
        "losses": difference({"": outcome.losses}, {"": other.losses}),
        "weights": difference(outcome.weights, other.weights), "state": difference(outcome.tables, other.tables),
        "gathered": outcome.traffic.gathered / iterations, "reduced": outcome.traffic.reduced / iterations,
        "formula": 0.0 if ranks.alone else formula / iterations, "digest": digest.hexdigest(),
    }  # fmt: skip


def difference(tensors: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference of an entry, over the size of the largest entry of its tensor."""
    errors = [0.0]
    for name, other in others.items():
        if other.numel():
            entries, expected = tensors[name].double(), other.double()
            largest = float(expected.abs().max())
            errors.append(float((entries - expected).abs().max()) / (largest or 1.0))
    return max(errors)


def gathered_bytes(src: list[int], dst: list[int], size: int, ranks: int, dim: int, itemsize: int = 8) -> int:
    """Return N · (8 + 8 R + R · D · itemsize), the bytes that a rank receives in an iteration, its own included.

    Args:
        src, dst: nodes of the batch's events; R, the most rows that a rank sends, follows from them.
        size: events of a full batch.
    """
    rows = most_rows(src, dst, size, ranks)
    return ranks * (8 + 8 * rows + -(-rows * dim * itemsize // 8) * 8)


def summary(processes: Sequence[Sequence[Facts]]) -> Facts:
    """Return the rows of process 0 by stream, model, schedule and ranks, and the largest differences.

    Args:
        processes: the rows of each; those of the others only tell replicas that differ.
    """
    keys = ("stream", "model", "schedule", "ranks")
    digests: dict[tuple[Any, ...], set[str]] = {}
    for row in (row for rows in processes for row in rows):
        digests.setdefault(tuple(row[key] for key in keys), set()).add(row["digest"])
    runs = [{key: value for key, value in row.items() if key != "digest"} for row in processes[0]]
    several = [row for row in runs if row["ranks"] > 1]
    return {
        "tolerance": TOLERANCE,
        "runs": runs,
        "largest": {key: max(row[key] for row in several) for key in ("losses", "weights", "state")},
        "other_bytes": sum(row["gathered"] != row["formula"] for row in several),
        "other_replicas": sum(len(each) > 1 for each in digests.values()),
    }


if __name__ == "__main__":
    typer.run(main)
