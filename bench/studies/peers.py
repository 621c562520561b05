"""PyG's TGN against ours: one run, alternating epochs, the same data, split, batches, threads, negatives and seeds."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.report import command, header, show
from bench.studies.peer_data import errors_in_a_line, refuse_missing
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.synthetic import synthetic_stream
from mspipe_triton.evaluation.metrics import Predictions, summarise
from mspipe_triton.iteration.step import reciprocal_ranks
from mspipe_triton.training.usage import peak_rss_mb

console = Console(stderr=True, highlight=False)


def compare(
    data: Annotated[str, typer.Option(help="CSV or Parquet file, or `synthetic`.")] = "synthetic",
    epochs: int = 3,
    batch_size: int = 600,
    peer_batch_size: Annotated[int, typer.Option(help="PyG's batch size; 0: the same as ours.")] = 0,
    peer_epochs: Annotated[int, typer.Option(help="PyG's number of epochs; 0: the same as ours.")] = 0,
    negatives: Annotated[int, typer.Option(help="Random negatives per event for the MRR.")] = 49,
    dim: int = 100,
    fanout: int = 10,
    lr: float = 1e-3,
    threads: int = 2,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Train both, epoch by epoch in turn, and score both with the same code; the table goes to stderr, JSON to stdout.

    Each system runs in its own process, which shows its peak memory, and waits while the other works.
    """
    with errors_in_a_line():
        refuse_missing(data)
    shared = {
        "data": data,
        "dim": dim,
        "fanout": fanout,
        "lr": lr,
        "threads": threads,
        "seed": seed,
        "ranked": negatives,
    }
    plans = {
        "ours": {**shared, "batch_size": batch_size, "epochs": epochs},
        "pyg": {**shared, "batch_size": peer_batch_size or batch_size, "epochs": peer_epochs or epochs},
    }
    workers = {name: _Worker(name, plan) for name, plan in plans.items()}
    histories: dict[str, list[dict[str, Any]]] = {name: [] for name in plans}
    for epoch in range(max(plan["epochs"] for plan in plans.values())):
        for name, plan in plans.items():
            if epoch < plan["epochs"]:
                metrics = workers[name].ask("epoch", epoch)
                histories[name].append(metrics)
                console.print(
                    f"{name} epoch {epoch + 1}: {metrics['seconds']:.1f} s, {metrics['events_per_s']:,.0f} events/s, "
                    f"val AP {metrics['val_ap']:.4f}, test AP {metrics['test_ap_batch_mean']:.4f}"
                )
    report = _report(plans, histories, {name: worker.ask("finish", 0) for name, worker in workers.items()})
    for worker in workers.values():
        worker.stop()
    _print_table(report)
    show(report, out)


class _Worker:
    """System in its own process, which answers one request at a time."""

    def __init__(self, name: str, plan: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(name, plan, theirs), daemon=True)
        self.process.start()
        self.ask("start", 0)

    def ask(self, request: str, epoch: int) -> dict[str, Any]:
        """Send a request and wait for its answer; an error in the worker ends the comparison."""
        self.connection.send((request, epoch))
        while not self.connection.poll(1.0):
            if not self.process.is_alive():
                raise RuntimeError(f"the worker ended with exit code {self.process.exitcode}")
        answer: dict[str, Any] = self.connection.recv()
        return answer

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()


def _serve(name: str, plan: dict[str, Any], connection: Connection) -> None:
    torch.set_num_threads(plan["threads"])
    judge = _Judge(name, plan)
    answers: dict[str, Callable[[int], dict[str, Any]]] = {
        "start": lambda _: {},
        "epoch": judge.epoch,
        "finish": judge.finish,
    }
    while True:
        request, epoch = connection.recv()
        connection.send(answers[request](epoch))


class _Judge:
    """Trainer and scorer of one system; only the system itself differs between the two."""

    def __init__(self, name: str, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.stream = synthetic_stream() if plan["data"] == "synthetic" else read_stream(plan["data"])
        self.split = self.stream.split()
        self.sampler = NegativeSampler(self.stream, plan["seed"])
        arguments = (self.stream, plan["dim"], plan["fanout"], plan["lr"], plan["seed"])
        if name == "ours":
            from bench.studies.peer_ours import OursTGN

            self.system: Any = OursTGN(*arguments)
        else:
            from bench.studies.peer_pyg import PygTGN

            self.system = PygTGN(*arguments)
        self.best = -1.0
        self.saved: Any = None

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch, score validation and test without ranking, keep the best epoch by validation AP."""
        draws = self._draws(Purpose.TRAIN_NEGATIVES, epoch + 1, 0, self.split.train_end)
        wall = time.perf_counter()
        seconds = self.system.train_epoch(self.split.train_end, self.plan["batch_size"], draws)
        wall = time.perf_counter() - wall
        snapshot = self.system.snapshot()
        val, test = (summarise(self._predict(split, 0)) for split in ("val", "test"))
        if val["ap"] > self.best:
            self.best, self.saved = val["ap"], snapshot
        return {
            "seconds": seconds,
            "wall_seconds": wall,
            "events_per_s": self.split.train_end / seconds,
            "val_ap": val["ap"],
            "test_ap": test["ap"],
            "test_ap_batch_mean": test["ap_batch_mean"],
        }

    def finish(self, _: int) -> dict[str, Any]:
        """Rank the test events at the best epoch."""
        self.system.restore(self.saved)
        self._predict("val", 0)
        return {"test": summarise(self._predict("test", self.plan["ranked"])), "peak_rss_mb": peak_rss_mb()}

    def _predict(self, split: str, ranked: int) -> Predictions:
        start, stop = self.split.train_end, self.split.val_end
        if split == "test":
            start, stop = stop, len(self.stream)
        size, number = self.plan["batch_size"], ("val", "test").index(split)
        draws = self._draws(Purpose.EVAL_NEGATIVES, number, start, stop)
        candidates = self._draws(Purpose.RANKING_NEGATIVES, number, start, stop, ranked) if ranked else None
        positive, negative, others = self.system.evaluate(start, stop, size, draws, candidates)
        ranks = (
            [reciprocal_ranks(logits, each) for logits, each in zip(positive, others, strict=True)] if ranked else []
        )
        sizes = [logits.numel() for logits in positive]
        return Predictions(torch.cat(positive), torch.cat(negative), torch.cat(ranks) if ranks else None, sizes)

    def _draws(
        self, purpose: Purpose, epoch: int, start: int, stop: int, each: int = 1
    ) -> Callable[[int], torch.Tensor]:
        """Negatives of batch i of events [start, stop): [B], or [B, N] candidates."""
        batches = list(self.sampler.iterate(purpose, epoch, self.stream.dst[start:stop], self.plan["batch_size"], each))
        return lambda i: batches[i] if purpose == Purpose.RANKING_NEGATIVES else batches[i][:, 0]


def _report(
    plans: dict[str, dict[str, Any]], histories: dict[str, list[dict[str, Any]]], ends: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    report = header(command("bench.studies.peers"), plans["ours"]["threads"])
    report["versions"]["torch_geometric"] = importlib.metadata.version("torch_geometric")
    for name, history in histories.items():
        report[name] = {
            "batch_size": plans[name]["batch_size"],
            "epochs": plans[name]["epochs"],
            "train_events_per_s": statistics.median(metrics["events_per_s"] for metrics in history),
            "test": ends[name]["test"],
            "peak_rss_mb": ends[name]["peak_rss_mb"],
            "compile_seconds": sum(metrics["wall_seconds"] - metrics["seconds"] for metrics in history),
            "seconds_to_ap_96": _seconds_to(history, "seconds"),
            "seconds_to_ap_96_with_compiling": _seconds_to(history, "wall_seconds"),
            "by_epoch": history,
        }
    pairs = zip(histories["ours"], histories["pyg"], strict=False)
    report["speed_ratio"] = statistics.median(ours["events_per_s"] / theirs["events_per_s"] for ours, theirs in pairs)
    return report


def _seconds_to(history: list[dict[str, Any]], clock: str) -> float | None:
    """Training time until the first epoch whose test AP (mean over batches) is 0.96 or more, or None."""
    total = 0.0
    for metrics in history:
        total += metrics[clock]
        if metrics["test_ap_batch_mean"] >= 0.96:
            return total
    return None


def _print_table(report: dict[str, Any]) -> None:
    table = Table(title=f"PyG's TGN and ours, speed ratio {report['speed_ratio']:.2f}")
    for column in ("", "B", "epochs", "train events/s", "test AP", "AP, batches", "MRR", "to AP .96, s", "peak MiB"):
        table.add_column(column, justify="left" if not column else "right")
    for name in ("ours", "pyg"):
        row = report[name]
        seconds = row["seconds_to_ap_96"]
        table.add_row(
            name, str(row["batch_size"]), str(row["epochs"]), f"{row['train_events_per_s']:,.0f}",
            f"{row['test']['ap']:.4f}", f"{row['test']['ap_batch_mean']:.4f}", f"{row['test']['mrr']:.4f}",
            "never" if seconds is None else f"{seconds:.1f}", f"{row['peak_rss_mb']:,.0f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    typer.run(compare)
