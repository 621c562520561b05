"""The trainer: epochs, each followed by validation, the best checkpoint, and the run's result."""

from __future__ import annotations

import shutil
import time
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
from mspipe_triton.machine import Usage, usage
from mspipe_triton.models.stored import StoredModel, forget
from mspipe_triton.pipeline.contention import Change
from mspipe_triton.pipeline.online import Replanned
from mspipe_triton.pipeline.slow_link import link_notes
from mspipe_triton.pipeline.timeline import Recorder
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.settings import process_settings
from mspipe_triton.training.blocks import StagedBlocks, refusal
from mspipe_triton.training.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.training.entry import Entry, enter
from mspipe_triton.training.logs import logged
from mspipe_triton.training.loops import Loops
from mspipe_triton.training.observer import Observer
from mspipe_triton.training.ranks import group_ranks
from mspipe_triton.training.result import peaks_since, result_of
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.start import Start
from mspipe_triton.training.stopping import halvings, stopped_line, stops
from mspipe_triton.training.strategy import Prospect, Strategy
from mspipe_triton.training.way import Watch, carry_out, silent


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
    since = usage()
    with process_settings(config), logged(observer, config.train.log, entry.ranks.first) as observer:
        session, first = Session.create(config, entry.stream, past=entry.past, ranks=entry.ranks), entry.ranks.first
        tracing = Trace() if trace and first else None
        trainer = _Run(session, entry, observer, tracing, strategy, since)
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
            result = trainer.finish(done)
        finally:
            if trainer.way.loops is not None:
                trainer.way.loops.close()
        if first:
            observer.end(result)
        return result


class _Run:
    """One run over a prepared session and folder, of which rank 0 alone writes the files."""

    def __init__(
        self, session: Session, entry: Entry, observer: Observer, trace: Trace | None, strategy: Strategy, since: Usage
    ) -> None:  # fmt: skip
        self.session, self.entry, self.folder, self.contents = session, entry, entry.folder, entry.contents
        self.observer, self.trace, self.strategy = observer, trace, strategy
        self.first = session.ranks.first
        replanned, rethreaded = (self._replanned, self._rethreaded) if self.first else (silent, silent)
        self.recorder, self.start = Recorder(), Start(observer.batch)
        watch = Watch(
            observer.note, replanned, observer.evaluation, trace, strategy.stage_seconds, recorder=self.recorder,
            since=since, rethreaded=rethreaded,
        )  # fmt: skip
        in_blocks = strategy.in_blocks and refusal(session) is None
        self.way = StagedBlocks(session, watch, strategy) if in_blocks else carry_out(session, watch)
        self.history: list[dict[str, Any]] = []
        self.pending: dict[str, Any] | None = None  # metrics of a trained epoch that has no validation yet

    def begin(self, done: int) -> None:
        """Prepare for the epochs after the first `done`, from the first of which on the strategy chooses settings."""
        epochs, note = self.session.config.train.epochs - done, self.observer.note
        self.loops = self.way.loops = Loops(
            self.session, self.entry.stream, epochs, note, declines=self.strategy.declines
        )  # fmt: skip
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
        train = self.session.config.train
        for epoch in range(done + 1, train.epochs + 1):
            if stops(self._scores(), train.patience):
                self.observer.note(stopped_line(epoch - 1, train))
                break
            self.session.rates.halvings = halvings(self._scores()) if train.lr_schedule == "plateau" else 0
            metrics = self._train_epoch(epoch)
            if self.first:
                self._keep_settings()
                save_checkpoint(self.folder.last, self.session, metrics, self.contents)
            self._validate(metrics)
        self.loops.close()  # no iteration comes that would gain
        start = time.perf_counter()
        if self.first:
            self.folder.decoder.unlink(missing_ok=True)  # it belongs to an epoch that may no longer be the best
        evaluation = evaluate_checkpoint(self.way, self.folder, run_candidates(train))
        if self.first:
            self._store()
        add_labels(self.way, self.folder, evaluation)
        self.loops.remember(self.way.contention.changed)
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
        self.loops.tell()
        return metrics

    def _scores(self) -> list[float]:
        """Return validation AP by epoch."""
        return [epoch["val"]["ap"] for epoch in self.history]

    def _keep_settings(self) -> None:
        """Write the settings that the strategy has chosen into the run's config."""
        settings = self.way.session.settings
        if settings != self.session.settings and settings != self.entry.config.settings:
            self.entry = self.entry.under(settings)
            self.folder.continue_with(self.entry.config, 0)

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
        seconds = {"start": self.start.to_json(), "evaluation_seconds": evaluation_seconds}
        result = result_of(self.way, self.strategy, self.history, evaluation, seconds)
        result |= peaks_since(result, self.folder.result)
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
