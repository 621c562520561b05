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
from mspipe_triton.data.source import Contents
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.errors import TrainingError
from mspipe_triton.evaluation.evaluate import add_labels, evaluate_checkpoint, lags, predict_split, run_candidates
from mspipe_triton.evaluation.metrics import summarise
from mspipe_triton.evaluation.model_card import model_card
from mspipe_triton.evaluation.verdict import verdict
from mspipe_triton.files import atomic_file
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import fusion_enabled, fusion_failure
from mspipe_triton.machine import Usage, usage
from mspipe_triton.models.stored import StoredModel, forget
from mspipe_triton.pipeline.contention import Change
from mspipe_triton.pipeline.online import Replanned
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.pipeline.slow_link import link_notes
from mspipe_triton.pipeline.timeline import Recorder
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.settings import Tuned, compiler, process_settings
from mspipe_triton.training.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.training.entry import Entry, enter
from mspipe_triton.training.logs import logged
from mspipe_triton.training.observer import Observer
from mspipe_triton.training.ranks import group_ranks
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.start import Start
from mspipe_triton.training.stopping import halvings, stopped_line, stops
from mspipe_triton.training.usage import peak_device_mb, peak_rss_mb, versions
from mspipe_triton.training.way import Watch, carry_out, silent

# Settings of training in `result.json`.
_SETTINGS = (
    "lr", "lr_schedule", "warmup", "weight_decay", "clip_norm", "patience", "loss", "train_negatives", "negative_kind",
    "negatives",
)  # fmt: skip


def train(
    config: RunConfig | None = None,
    stream: EventStream | None = None,
    out: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    trace: bool = False,
    tuned: Tuned | None = None,
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
        tuned: settings to use instead of `config.settings`, and stage times for the first plan.
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
    return run(entry, observer, trace, tuned)


def run(entry: Entry, observer: Observer, trace: bool = False, tuned: Tuned | None = None) -> dict[str, Any]:
    """Carry out an entry's run; see `train`. Each rank has an observer."""
    entry = entry.tuned(tuned)
    config, line = entry.resolved()
    since = usage()
    with process_settings(config), logged(observer, config.train.log, entry.ranks.first) as observer:
        session, first = Session.create(config, entry.stream, past=entry.past, ranks=entry.ranks), entry.ranks.first
        tracing = Trace() if trace and first else None
        trainer = _Run(session, entry.contents, entry.folder, observer, tracing, tuned, since)
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
        settings = trainer.session.settings
        if not fusion_enabled() and (settings.fused or compiler() is None):
            reason = fusion_failure() or ("no C++ compiler found" if compiler() is None else "switched off")
            observer.note(f"Running without fused loops: {reason}.")
        if done >= config.train.epochs:
            observer.note(f"All {done} epochs are already trained; evaluating the best one again. --epochs adds more.")
        result = trainer.finish(done)
        if first:
            observer.end(result)
        return result


class _Run:
    """One run over a prepared session and folder, of which rank 0 alone writes the files."""

    def __init__(
        self, session: Session, contents: Contents, folder: RunFolder, observer: Observer, trace: Trace | None,
        tuned: Tuned | None, since: Usage,
    ) -> None:  # fmt: skip
        self.session, self.folder, self.observer, self.trace, self.tuned = session, folder, observer, trace, tuned
        stage_seconds = {} if tuned is None else tuned.stage_seconds
        self.first = session.ranks.first
        replanned, rethreaded = (self._replanned, self._rethreaded) if self.first else (silent, silent)
        self.recorder = Recorder()
        watch = Watch(
            observer.note, replanned, observer.evaluation, trace, stage_seconds, recorder=self.recorder, since=since,
            rethreaded=rethreaded,
        )  # fmt: skip
        self.way = carry_out(session, watch)
        self.contents = contents
        self.history: list[dict[str, Any]] = []
        self.pending: dict[str, Any] | None = None  # metrics of a trained epoch that has no validation yet
        self.warned, self.start = False, Start(observer.batch)

    def finish(self, done: int) -> dict[str, Any]:
        """Train the epochs after the first `done`, evaluate the best, write and return the result."""
        if self.pending is not None:
            self._validate(self.pending)
        train = self.session.config.train
        for epoch in range(done + 1, train.epochs + 1):
            if stops(self._scores(), train.patience):
                self.observer.note(stopped_line(epoch - 1, train))
                break
            self.session.rates.halvings = halvings(self._scores()) if train.lr_schedule == "plateau" else 0
            metrics = self._train_epoch(epoch)
            if self.first:
                save_checkpoint(self.folder.last, self.session, metrics, self.contents)
            self._validate(metrics)
        start = time.perf_counter()
        if self.first:
            self.folder.decoder.unlink(missing_ok=True)  # it belongs to an epoch that may no longer be the best
        evaluation = evaluate_checkpoint(self.way, self.folder, run_candidates(train))
        if self.first:
            self._store()
        add_labels(self.way, self.folder, evaluation)
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
            metrics = self.way.train(epoch, self.start)
        except TrainingError as error:
            best = f"{self.folder.best} holds the best earlier epoch"
            remainder = best if self.history else "no epoch was finished"
            raise TrainingError(f"{error} ({remainder})") from None
        if fusion_failure() and not self.warned:
            self.warned = True
            self.observer.note(f"Running without fused loops: {fusion_failure()}.")
        return metrics

    def _scores(self) -> list[float]:
        """Return validation AP by epoch."""
        return [epoch["val"]["ap"] for epoch in self.history]

    def _replanned(self, change: Replanned, epoch: int, iteration: int) -> None:
        self.folder.append_metrics({**change.to_json(), "epoch": epoch, "iteration": iteration})

    def _rethreaded(self, change: Change, epoch: int, iteration: int) -> None:
        self.folder.append_metrics({**change.to_json(), "epoch": epoch, "iteration": iteration})

    def _validate(self, metrics: dict[str, Any]) -> None:
        """Score validation, copy the checkpoint if the epoch is the best so far, and write the epoch's metrics."""
        start = time.perf_counter()
        predictions, _ = predict_split(self.way, "val", lagged=lags(self.session.config.train))
        scores = self.session.ranks.from_first(lambda: summarise(predictions))
        metrics["val"] = {name: value for name, value in scores.items() if name != "mrr"}
        metrics["eval_seconds"] = time.perf_counter() - start
        best = not self.history or metrics["val"]["ap"] > max(self._scores())
        self.history.append(metrics)
        self.session.ranks.from_first(lambda: self._record(metrics, best))  # all wait, however long copying takes
        if self.first:
            self.observer.epoch(metrics)

    def _record(self, metrics: dict[str, Any], best: bool) -> None:
        """Write an epoch's metrics and timeline, and copy its checkpoint if it is the best so far."""
        if best:
            forget(self.folder.path)  # a model of an epoch that is no longer the best
            with atomic_file(self.folder.best) as temporary:
                shutil.copyfile(self.folder.last, temporary)
        timeline = self.recorder.timeline()
        if timeline is not None:
            self.folder.write_timeline(timeline)
        self.folder.append_metrics(metrics)

    def _write(self, evaluation: dict[str, dict[str, Any]], evaluation_seconds: float) -> dict[str, Any]:
        """Write the files of the finished run, and return its result."""
        result = self._result(evaluation, evaluation_seconds)
        result["notes"] = [*verdict(result), *self._link_notes(result)]
        self.folder.write_result(result)
        self.folder.write_card(model_card(result, self.folder.read_record()))
        if self.trace is not None and self.trace.iterations:
            self.trace.write(self.folder.trace)
        return result

    def _link_notes(self, result: dict[str, Any]) -> list[str]:
        """Say that a slow link holds training up, if the plan of the measured stage times shows it."""
        if result["plan"] is None:
            return []
        return link_notes(result["schedule"], result["stage_seconds"], result["plan"]["staleness"])

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
            "stopped_early": len(history) < config.train.epochs and stops(self._scores(), config.train.patience),
            "seed": config.train.seed,
            "train_events_per_s": fastest["events_per_s"],
            "epoch_seconds": [epoch["seconds"] for epoch in history],
            "compile_seconds": sum(epoch["compile_seconds"] for epoch in history),
            "start": self.start.to_json(),
            "evaluation_seconds": evaluation_seconds,
            "best_epoch": best["epoch"],
            **{name: getattr(config.train, name) for name in _SETTINGS},
            "protocol": config.train.protocol,
            "pair_features": config.model.pair_features,
            **evaluation,
            "losses": [epoch["loss"] for epoch in history],
            "stage_seconds": fastest["stage_seconds"],
            "exchange": fastest.get("exchange"),
            "settings": asdict(session.settings),
            "captured": fastest.get("captured", False),
            "tuning": None if self.tuned is None else self.tuned.to_json(fastest["stage_seconds"]),
            "plan": self.way.plan(fastest["stage_seconds"]) if same_stages else None,
            "staleness_measured": dict(sorted(staleness.items(), key=lambda item: int(item[0]))),
            "peak_rss_mb": peak_rss_mb(),
            "peak_device_mb": peak_device_mb(session.state.placement.device),
            "versions": versions(),
        }
