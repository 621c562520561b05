"""The trainer: epochs, each followed by validation, the best checkpoint, and the run's result."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from mspipe_triton.config import RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.errors import TrainingError
from mspipe_triton.evaluation.evaluate import add_labels, evaluate_checkpoint, lags, predict_split, run_candidates
from mspipe_triton.evaluation.metrics import summarise
from mspipe_triton.evaluation.model_card import model_card
from mspipe_triton.evaluation.verdict import verdict
from mspipe_triton.files import atomic_file
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import fusion_enabled
from mspipe_triton.models.stored import StoredModel, forget
from mspipe_triton.pipeline.online import Replanned
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.pipeline.slow_link import link_notes
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.settings import process_settings
from mspipe_triton.training.blocks import StagedBlocks, refusal
from mspipe_triton.training.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.training.entry import Entry, enter
from mspipe_triton.training.loops import Loops
from mspipe_triton.training.ranks import group_ranks
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.strategy import Prospect, Strategy
from mspipe_triton.training.usage import peak_device_mb, peak_rss_mb, versions
from mspipe_triton.training.way import Watch, carry_out, silent


class Observer:
    """Callbacks for a run's progress; this class ignores all of them, and screens override those that they show."""

    def start(self, session: Session, folder: RunFolder) -> None:
        """Handle the start of the run."""

    def batch(self, epoch: int, events: int, loss: float) -> None:
        """Handle the end of an iteration over `events` events; epochs count from 1."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Handle the end of an epoch, validation included; `metrics` is its line of metrics.jsonl."""

    def evaluation(self, split: str, events: int, total: int) -> None:
        """Handle the evaluation of `events` more of a split's `total` events, after each epoch and at the run's end.

        The split is "embeddings" while the labels' decoder gets its input. A resident run calls this when it launches a
        batch, which the device may finish later.
        """

    def note(self, message: str) -> None:
        """Show the user a line."""


def train(
    config: RunConfig | None = None,
    stream: EventStream | None = None,
    out: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    trace: bool = False,
    strategy: Strategy | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Train, validate every epoch, test the best one, and write a run folder.

    Args:
        config: the run's settings; the defaults train TGN on the built-in stream, or resume a run as it is.
        stream: the events; None reads them from `config.data`. If they come from no file (`stream.source`), evaluating
            the run needs the stream, or a file that holds the same.
        out: the run folder; by default runs/DATASET-MODEL-N with the first free N.
        resume: continue the run in `out`, to `config.train.epochs` epochs in all.
        observer: called with the run's progress, in rank 0.
        trace: write `trace.json` into the run folder, with every stage's start and end and the plan, those of rank 0.
        strategy: chooses settings instead of `config.settings`, before the run or while it trains; it may also have
            stage times for the first plan. None keeps the config's.
        ranks: those that share each batch; all call this with the same settings and the same events. None is the ranks
            of the process group of `torch.distributed`, if it is initialised, else this process alone.

    Returns:
        The content of `result.json`, in all ranks. Its "notes" say that the model is not better than the best baseline
        or than chance, and what usually helps, or that a slow link between ranks holds training up; a good run has
        none.

    Raises:
        InputError: data, settings or folder are not usable, or a rank differs from rank 0; nothing has been written
            then.
        TrainingError: a loss was not finite; the checkpoints of earlier epochs remain.
    """
    if ranks is None:
        ranks = group_ranks()
    if config is None:
        config = ranks.from_first(lambda: load_config(RunFolder.to_resume(out).config)) if resume else RunConfig()
    entry, observer = enter(config, stream, out, resume, trace, ranks), observer or Observer()
    if not ranks.first:
        observer = Observer()
    for note in entry.notes:
        observer.note(note)
    return run(entry, observer, trace, strategy)


def run(entry: Entry, observer: Observer, trace: bool = False, strategy: Strategy | None = None) -> dict[str, Any]:
    """Carry out an entry's run; see `train`. Each rank has an observer."""
    strategy = strategy or Strategy()
    entry = entry.under(strategy.settings)
    config, line = entry.resolved()
    with process_settings(config):
        session, first = Session.create(config, entry.stream, past=entry.past, ranks=entry.ranks), entry.ranks.first
        trainer = _Run(session, entry, observer, Trace() if trace and first else None, strategy)
        done = trainer.resume() if entry.resume else 0
        if first and entry.resume:
            entry.folder.continue_with(entry.config, done)
        elif first:
            entry.folder.prepare(entry.config, entry.stream, entry.contents, session.time)
        if entry.restarts:
            way = f"continuing after epoch {done}" if done else "no epoch was complete, so training starts again"
            observer.note(f"Restart {entry.restarts}: {way}.")
        if line is not None:
            observer.note(line)
        observer.start(trainer.session, entry.folder)
        try:
            trainer.begin(done)
            return trainer.finish(done)
        finally:
            if trainer.way.loops is not None:
                trainer.way.loops.close()


class _Run:
    """One run over a prepared session and folder, of which rank 0 alone writes the files."""

    def __init__(
        self, session: Session, entry: Entry, observer: Observer, trace: Trace | None, strategy: Strategy
    ) -> None:  # fmt: skip
        self.session, self.entry, self.folder, self.contents = session, entry, entry.folder, entry.contents
        self.observer, self.trace, self.strategy = observer, trace, strategy
        self.first = session.ranks.first
        replanned = self._replanned if self.first else silent
        watch = Watch(observer.note, replanned, observer.evaluation, trace, strategy.stage_seconds)
        in_blocks = strategy.in_blocks and refusal(session) is None
        self.way = StagedBlocks(session, watch, strategy) if in_blocks else carry_out(session, watch)
        self.history: list[dict[str, Any]] = []
        self.pending: dict[str, Any] | None = None  # metrics of a trained epoch that has no validation yet

    def begin(self, done: int) -> None:
        """Prepare for the epochs after the first `done`, from the first of which on the strategy chooses settings."""
        epochs, note = self.session.config.train.epochs - done, self.observer.note
        self.loops = self.way.loops = Loops(self.session, self.entry.stream, epochs, note)
        self.loops.tell()
        if epochs <= 0:
            note(f"All {done} epochs are already trained; evaluating the best one again. --epochs adds more.")
        elif isinstance(self.way, StagedBlocks):
            self.strategy.begin(Prospect(self.session, self.loops.iterations, note, self.folder.append_metrics))
        elif self.strategy.in_blocks:
            note(refusal(self.session) or "")

    def finish(self, done: int) -> dict[str, Any]:
        """Train the epochs after the first `done`, evaluate the best, write and return the result."""
        if self.pending is not None:
            self._validate(self.pending)
        for epoch in range(done + 1, self.session.config.train.epochs + 1):
            metrics = self._train_epoch(epoch)
            if self.first:
                self._keep_settings()
                save_checkpoint(self.folder.last, self.session, metrics, self.contents)
            self._validate(metrics)
        start = time.perf_counter()
        if self.first:
            self.folder.decoder.unlink(missing_ok=True)  # it belongs to an epoch that may no longer be the best
        evaluation = evaluate_checkpoint(self.way, self.folder, run_candidates(self.session.config.train))
        if self.first:
            self._store()
        add_labels(self.way, self.folder, evaluation)
        self.loops.remember()
        return self.session.ranks.from_first(lambda: self._write(evaluation, time.perf_counter() - start))

    def resume(self) -> int:
        """Restore the newest epoch, and return the number of trained epochs."""
        metrics = load_checkpoint(self.folder.last, self.session)
        epochs: int = metrics["epoch"]
        self.history = self.session.ranks.from_first(lambda: self.folder.read_metrics(epochs))
        if len(self.history) < epochs:  # the run ended between the checkpoint and its validation
            self.pending = metrics
        return epochs

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        try:
            metrics = self.way.train(epoch, self.observer.batch)
        except TrainingError as error:
            best = f"{self.folder.best} holds the best earlier epoch"
            remainder = best if self.history else "no epoch was finished"
            raise TrainingError(f"{error} ({remainder})") from None
        self.loops.tell()
        return metrics

    def _keep_settings(self) -> None:
        """Write the settings that the strategy has chosen into the run's config."""
        settings = self.way.session.settings
        if settings != self.session.settings and settings != self.entry.config.settings:
            self.entry = self.entry.under(settings)
            self.folder.continue_with(self.entry.config, 0)

    def _replanned(self, change: Replanned, epoch: int, iteration: int) -> None:
        self.folder.append_metrics({**change.to_json(), "epoch": epoch, "iteration": iteration})

    def _validate(self, metrics: dict[str, Any]) -> None:
        """Score validation, copy the checkpoint if the epoch is the best so far, and write the epoch's metrics."""
        start = time.perf_counter()
        predictions, _ = predict_split(self.way, "val", lagged=lags(self.session.config.train))
        scores = self.session.ranks.from_first(lambda: summarise(predictions))
        metrics["val"] = {name: value for name, value in scores.items() if name != "mrr"}
        metrics["eval_seconds"] = time.perf_counter() - start
        best = not self.history or metrics["val"]["ap"] > max(epoch["val"]["ap"] for epoch in self.history)
        self.history.append(metrics)
        self.session.ranks.from_first(lambda: self._record(metrics, best))  # all wait, however long copying takes
        if self.first:
            self.observer.epoch(metrics)

    def _record(self, metrics: dict[str, Any], best: bool) -> None:
        """Write an epoch's metrics, and copy its checkpoint if it is the best so far."""
        if best:
            forget(self.folder.path)  # a model of an epoch that is no longer the best
            with atomic_file(self.folder.best) as temporary:
                shutil.copyfile(self.folder.last, temporary)
        self.folder.append_metrics(metrics)

    def _write(self, evaluation: dict[str, dict[str, Any]], evaluation_seconds: float) -> dict[str, Any]:
        """Write the files of the finished run, and return its result."""
        result = self._result(evaluation, evaluation_seconds)
        result["notes"] = verdict(result)
        if result["plan"] is not None:  # a slow link may hold training up
            result["notes"] += link_notes(result["schedule"], result["stage_seconds"], result["plan"]["staleness"])
        self.folder.write_result(result)
        self.folder.write_card(model_card(result, self.folder.read_record()))
        if self.trace is not None and self.trace.iterations:
            self.trace.write(self.folder.trace)
        return result

    def _store(self) -> None:
        """Write the model as it is now: the best epoch, after all events."""
        session = self.session
        parts = (session.config, session.model, session.state, session.time, session.stream)
        StoredModel.of(*parts, self.folder.read_record()).write(self.folder.path)

    def _result(self, evaluation: dict[str, dict[str, Any]], evaluation_seconds: float) -> dict[str, Any]:
        session, config, history = self.session, self.session.config, self.history
        # A run resumed on another number of cores or ranks may use another schedule, whose epochs have other stages.
        stages = set(stage_names(self.way.schedule, shared=not session.ranks.alone))
        same_stages = [epoch for epoch in history if epoch["stage_seconds"].keys() == stages]
        fastest = min(same_stages or history, key=lambda epoch: epoch["seconds"])
        best = max(history, key=lambda epoch: (epoch["val"]["ap"], -epoch["epoch"]))
        staleness = sum((Counter(epoch["staleness_measured"]) for epoch in history), Counter[str]())
        return {
            "model": config.model.model,
            "task": config.train.task,
            "dataset": session.stream.name,
            "events": len(session.stream),
            "history": session.stream.start,
            "nodes": session.stream.num_nodes,
            "split_events": {
                "train": session.training_events,
                **{split: stop - first for split, (first, stop, _) in self.way.spans().items()},
            },
            "schedule": self.way.schedule,
            "backend": "torch",
            "fused": fusion_enabled(),
            "device": session.state.placement.device.type,
            "ranks": session.ranks.count,
            "batch_size": config.train.batch_size,
            "epochs": len(history),
            "seed": config.train.seed,
            "train_events_per_s": fastest["events_per_s"],
            "epoch_seconds": [epoch["seconds"] for epoch in history],
            "compile_seconds": sum(epoch["compile_seconds"] for epoch in history),
            "evaluation_seconds": evaluation_seconds,
            "best_epoch": best["epoch"],
            **{name: getattr(config.train, name) for name in ("loss", "train_negatives", "negative_kind", "negatives")},
            "protocol": config.train.protocol,
            "pair_features": config.model.pair_features,
            **evaluation,
            "losses": [epoch["loss"] for epoch in history],
            "stage_seconds": fastest["stage_seconds"],
            "exchange": fastest.get("exchange"),
            "settings": asdict(self.way.session.settings),
            "captured": fastest.get("captured", False),
            "tuning": self.strategy.result(fastest["stage_seconds"]),
            "plan": self.way.plan(fastest["stage_seconds"]) if same_stages else None,
            "staleness_measured": dict(sorted(staleness.items(), key=lambda item: int(item[0]))),
            "peak_rss_mb": peak_rss_mb(),
            "peak_device_mb": peak_device_mb(session.state.placement.device),
            "versions": versions(),
        }
