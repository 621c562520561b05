"""Predictor in use: events observed per second, latency of observing and ranking, and what kept embeddings cost.

`python -m bench.predictor --data wiki.csv --out bench/results/predictor-wiki.json` trains TGN with default settings and
feeds the events after training, in order: validation in batches, then test one by one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from bench.report import command, header, show
from mspipe_triton import load
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.serving.destinations import Destinations
from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.training.trainer import train

BATCH = 200
TOP = 10
WARM_UP = 50  # calls before those that are timed
SHARES = (0.1, 0.25, 0.5, 1.0, 2.0)
MODES = ("exact", "cached")


class Events(NamedTuple):
    """Ids and times of a stream's events, as a user has them."""

    src: list[Any]
    dst: list[Any]
    t: list[Any]

    @staticmethod
    def of(stream: EventStream) -> Events:
        """Name the nodes of all events."""
        ids = stream.ids
        names = [nodes.tolist() if ids is None else ids.of(nodes) for nodes in (stream.src, stream.dst)]
        plain = [[each[1] if isinstance(each, tuple) else each for each in column] for column in names]
        return Events(plain[0], plain[1], stream.t.tolist())

    def observe(self, predictor: Predictor, event: int) -> None:
        """Let a predictor observe one event."""
        predictor.observe(self.src[event], self.dst[event], self.t[event])

    def question(self, event: int) -> tuple[Any, Any]:
        """The source and the time of an event, before it happens."""
        return self.src[event], self.t[event]


def main(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, or `synthetic`.")],
    out: Annotated[Path | None, typer.Option(help="JSON report to write.")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 3,
    calls: Annotated[int, typer.Option(help="Calls that are timed one by one.")] = 3000,
    rankings: Annotated[int, typer.Option(help="Test events that are ranked for the MRR.")] = 4000,
) -> None:
    """Train, and measure the predictor."""
    settings = DataConfig(path=data)
    stream = load_stream(settings)
    events, split = Events.of(stream), stream.split()
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        config = RunConfig(settings, ModelConfig("tgn"), TrainConfig(epochs=epochs, device="cpu"))
        result = train(config, stream, out=run)
        report = {
            **header(command("bench.predictor")),
            "stream": stream.name, "events": len(stream), "model": "tgn", "epochs": epochs, "top": TOP,
            "test_ap": result["test"]["ap"], "loading_seconds": seconds(lambda: load(run)),
            "batches": throughput(lambda: load(run, at="training"), events, split.train_end, split.val_end),
            "latency_ms": latencies(load(run, at=str(events.t[split.val_end])), events, split.val_end, calls),
            "mrr": ages(run, stream, events, split.val_end, rankings),
        }  # fmt: skip
    show(report, out)


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def throughput(restore: Callable[[], Predictor], events: Events, first: int, stop: int) -> dict[str, Any]:
    """Events per second in batches of 200, observed alone and scored as well; medians of three runs."""
    acts: dict[str, list[float]] = {"observe": [], "predict": []}
    for _ in range(3):
        for act, rates in acts.items():
            predictor = restore()
            start = time.perf_counter()
            for begin in range(first, stop, BATCH):
                part = slice(begin, min(begin + BATCH, stop))
                getattr(predictor, act)(events.src[part], events.dst[part], events.t[part])
            rates.append((stop - first) / (time.perf_counter() - start))
    return {"size": BATCH, **{f"{act}_events_per_s": statistics.median(rates) for act, rates in acts.items()}}


def latencies(predictor: Predictor, events: Events, first: int, calls: int) -> dict[str, Any]:
    """Quantiles of single calls: observing an event, and observing one and ranking for the next, in either mode.

    Modes alternate in blocks of 50 calls, so that the machine treats both alike. The destination set is all that an
    event so far has.
    """
    observing = []
    for event in range(first, first + WARM_UP + calls):
        observing.append(seconds(lambda event=event: events.observe(predictor, event)))
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    event = first + WARM_UP + calls
    for block in range(2 * (-(-calls // 50) + 1)):
        mode = MODES[block % 2]
        for _ in range(50):

            def call(event: int = event, mode: str = mode) -> None:
                events.observe(predictor, event)
                predictor.rank(*events.question(event + 1), TOP, mode=mode, new=True)

            times[mode].append(seconds(call))
            event += 1
    return {
        "candidates": predictor.destinations,
        "observe": quantiles(observing[WARM_UP:]),
        **{f"observe_and_rank_{mode}": quantiles(values[WARM_UP:]) for mode, values in times.items()},
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99 % quantile and maximum of seconds, in milliseconds."""
    ordered = sorted(1e3 * value for value in values)
    return {
        "calls": len(ordered), "p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)],
        "max": ordered[-1],
    }  # fmt: skip


def ages(run: str, stream: EventStream, events: Events, first: int, count: int) -> list[dict[str, Any]]:
    """MRR among all destinations so far, with embeddings computed for every query and kept up to a share of their gap.

    Every event is ranked and then observed. Events whose destination no earlier one has are left out.
    """
    predictor = load(run, at=str(events.t[first]))
    live = predictor._live
    variants = {share: Destinations(live, share) for share in (0.0, *SHARES)}
    ranks: dict[float, list[float]] = {share: [] for share in variants}
    times = {share: 0.0 for share in variants}
    for event in range(first, first + count):
        source, destination = stream.src[event : event + 1], int(stream.dst[event])
        t = predictor._times.query(events.t[event], "rank")
        if int(live.pairs.received[destination]) >= 0:
            nodes = live.destinations
            place = int(torch.searchsorted(nodes, destination))
            for share, destinations in variants.items():
                start = time.perf_counter()
                scores = destinations.scores(source, nodes, t)[0]
                times[share] += time.perf_counter() - start
                ahead = (scores > scores[place]).sum() + 0.5 * ((scores == scores[place]).sum() - 1)
                ranks[share].append(1 / (1 + float(ahead)))
        events.observe(predictor, event)
    return [
        {
            "share": share, "events": len(ranks[share]), "mrr": statistics.fmean(ranks[share]),
            "computed": 1.0 if share == 0 else share_computed(destinations),
            "ranking_ms": 1e3 * times[share] / len(ranks[share]),
        }
        for share, destinations in variants.items()
    ]  # fmt: skip


def share_computed(destinations: Destinations) -> float:
    """Share of embeddings that were computed and not kept."""
    return destinations.misses / (destinations.hits + destinations.misses)


if __name__ == "__main__":
    typer.run(main)
