"""The trainer: epochs, validation after each, the best checkpoint, and the run's result."""

from __future__ import annotations

import platform
import resource
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

import mspipe_triton
from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import fingerprint
from mspipe_triton.errors import TrainingError
from mspipe_triton.evaluation.evaluate import evaluate_checkpoint, predict_split
from mspipe_triton.evaluation.metrics import summarise
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import fusion_enabled, fusion_failure
from mspipe_triton.pipeline.online import Replanned
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.settings import Tuned, compiler, process_settings
from mspipe_triton.training.checkpoint import atomic_file, load_checkpoint, save_checkpoint
from mspipe_triton.training.entry import Entry, enter
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.way import Watch, carry_out


class Observer:
    """Told of a run's progress; this one does nothing with it, screens override what they show."""

    def start(self, session: Session, folder: RunFolder) -> None:
        """The run is set up."""

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """An iteration over `events` events is done; epochs count from 1."""

    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is trained and validated; `record` is its line of metrics.jsonl."""

    def note(self, message: str) -> None:
        """One line that the user should see."""


def train(
    config: RunConfig | None = None,
    stream: EventStream | None = None,
    out: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    trace: bool = False,
    tuned: Tuned | None = None,
) -> dict[str, Any]:
    """Train, validate every epoch, test the best one, and leave a run folder.

    Args:
        config: the run's settings; the defaults train TGN on the built-in stream.
        stream: the events, where they are not read from `config.data`. Such a run cannot be evaluated by path later.
        out: the run folder; by default runs/DATASET-MODEL-N with the first free N.
        resume: go on with the run in `out`, to `config.train.epochs` epochs in all.
        observer: told of progress.
        trace: leave `trace.json` in the run folder, every stage's start and end beside the plan.
        tuned: how to carry the run out, in the place of `config.settings`, and stage times to plan with at first.

    Returns:
        What `result.json` holds.

    Raises:
        InputError: data, settings or folder are not usable; nothing has been written then.
        TrainingError: a loss was not finite; the checkpoints of the epochs before stay.
    """
    entry, observer = enter(config or RunConfig(), stream, out, resume, trace), observer or Observer()
    if entry.line is not None:
        observer.note(entry.line)
    return run(entry, observer, trace, tuned)


def run(entry: Entry, observer: Observer, trace: bool = False, tuned: Tuned | None = None) -> dict[str, Any]:
    """Train what has been entered; see `train`."""
    entry = entry.tuned(tuned)
    config, room = entry.resolved()
    with process_settings(config):
        made = _Run(Session.create(config, entry.stream), entry.folder, observer, Trace() if trace else None, tuned)
        entry.folder.prepare(entry.config, entry.resume)
        if room is not None:
            observer.note(room)
        done = made.resume() if entry.resume else 0
        observer.start(made.session, entry.folder)
        settings = made.session.settings
        if not fusion_enabled() and (settings.fused or compiler() is None):
            reason = fusion_failure() or ("no C++ compiler found" if compiler() is None else "switched off")
            observer.note(f"Running without fused loops: {reason}.")
        if done >= config.train.epochs:
            observer.note(f"All {done} epochs are trained already; evaluating the best one again.")
        return made.finish(done)


class _Run:
    """One run over a prepared session and folder."""

    def __init__(
        self, session: Session, folder: RunFolder, observer: Observer, trace: Trace | None, tuned: Tuned | None
    ) -> None:
        self.session, self.folder, self.observer, self.trace, self.tuned = session, folder, observer, trace, tuned
        known = {} if tuned is None else tuned.stage_seconds
        self.way = carry_out(session, Watch(observer.note, self._replanned, trace, known))
        self.data = fingerprint(session.stream)
        self.records: list[dict[str, Any]] = []
        self.warned = False

    def finish(self, done: int) -> dict[str, Any]:
        """Train the epochs after the first `done`, evaluate the best, write and return the result."""
        for epoch in range(done + 1, self.session.config.train.epochs + 1):
            record = self._train_epoch(epoch)
            save_checkpoint(self.folder.last, self.session, record, self.data)
            self._validate(record)
        started = time.perf_counter()
        self.folder.decoder.unlink(missing_ok=True)  # it belongs to an epoch that may no longer be the best
        metrics = evaluate_checkpoint(self.way, self.folder, self.session.config.train.negatives)
        result = self._result(metrics, time.perf_counter() - started)
        self.folder.write_result(result)
        if self.trace is not None and self.trace.kept:
            self.trace.write(self.folder.trace)
        return result

    def resume(self) -> int:
        """Restore the newest epoch, validate it if that is still to be done, and return how many are done."""
        record = load_checkpoint(self.folder.last, self.session, self.data)
        self.records = self.folder.read_metrics(record["epoch"])
        if len(self.records) < record["epoch"]:  # the run ended between the checkpoint and its validation
            self._validate(record)
        return len(self.records)

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        try:
            record = self.way.train(epoch, self.observer.batch)
        except TrainingError as error:
            kept = (
                f"{self.folder.best} keeps the best epoch before" if self.folder.best.exists() else "no epoch was done"
            )
            raise TrainingError(f"{error} ({kept})") from None
        if fusion_failure() and not self.warned:
            self.warned = True
            self.observer.note(f"Running without fused loops: {fusion_failure()}.")
        return record

    def _replanned(self, change: Replanned, epoch: int, iteration: int) -> None:
        self.folder.append_metrics({**change.to_json(), "epoch": epoch, "iteration": iteration})

    def _validate(self, record: dict[str, Any]) -> None:
        """Score validation, keep the epoch as the best where it is, and write its line."""
        started = time.perf_counter()
        predictions, _ = predict_split(self.way, "val")
        record["val"] = {name: value for name, value in summarise(predictions).items() if name != "mrr"}
        record["eval_seconds"] = time.perf_counter() - started
        if not self.records or record["val"]["ap"] > max(line["val"]["ap"] for line in self.records):
            with atomic_file(self.folder.best) as temporary:
                shutil.copyfile(self.folder.last, temporary)
        self.records.append(record)
        self.folder.append_metrics(record)
        self.observer.epoch(record)

    def _result(self, metrics: dict[str, dict[str, Any]], evaluation_seconds: float) -> dict[str, Any]:
        session, config, records = self.session, self.session.config, self.records
        # A run that goes on with another number of cores may take another schedule, whose epochs have other stages.
        stages = set(stage_names(self.way.schedule))
        alike = [record for record in records if record["stage_seconds"].keys() == stages]
        fastest = min(alike or records, key=lambda record: record["seconds"])
        best = max(records, key=lambda record: (record["val"]["ap"], -record["epoch"]))
        missed = sum((Counter(record["staleness_measured"]) for record in records), Counter[str]())
        return {
            "model": config.model.model,
            "task": config.train.task,
            "dataset": session.stream.name,
            "events": len(session.stream),
            "nodes": session.stream.num_nodes,
            "schedule": self.way.schedule,
            "backend": "torch",
            "fused": fusion_enabled(),
            "device": session.state.placement.device.type,
            "batch_size": config.train.batch_size,
            "epochs": len(records),
            "seed": config.train.seed,
            "train_events_per_s": fastest["events_per_s"],
            "epoch_seconds": [record["seconds"] for record in records],
            "compile_seconds": sum(record["compile_seconds"] for record in records),
            "evaluation_seconds": evaluation_seconds,
            "best_epoch": best["epoch"],
            "negatives": config.train.negatives,
            **metrics,
            "losses": [record["loss"] for record in records],
            "stage_seconds": fastest["stage_seconds"],
            "settings": asdict(session.settings),
            "captured": fastest.get("captured", False),
            "tuning": None if self.tuned is None else self.tuned.to_json(fastest["stage_seconds"]),
            "plan": self.way.plan(fastest["stage_seconds"]) if alike else None,
            "staleness_measured": dict(sorted(missed.items(), key=lambda item: int(item[0]))),
            "peak_rss_mb": peak_rss_mb(),
            "peak_device_mb": peak_device_mb(session.state.placement.device),
            "versions": versions(),
        }


def peak_rss_mb() -> float:
    """The process's largest resident memory so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def peak_device_mb(device: torch.device) -> float:
    """The most GPU memory that torch has held so far, MiB; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {
        "mspipe_triton": mspipe_triton.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
