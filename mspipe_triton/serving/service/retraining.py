"""Retraining of a predictor in use: training on the events that came since, and the verdict on the new parameters."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.errors import MspipeError, RunFolderError, TrainingError
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.evaluation.metrics import summarise
from mspipe_triton.execution import RunSettings
from mspipe_triton.files import atomic_file
from mspipe_triton.iteration.session import Session
from mspipe_triton.models.stored import Past, StoredModel, fault_of
from mspipe_triton.serving.files import read_saved
from mspipe_triton.serving.loading import move_on, on_cpu
from mspipe_triton.settings import process_settings
from mspipe_triton.training.way import SPLITS, Way, carry_out

PARAMETERS, VERDICT = "parameters.safetensors", "verdict.json"
EPOCHS = 3
_PARTS = 5  # of the new events; the last one validates
_SEEDS = 2**32

Metrics = dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a retraining, the content of `verdict.json`.

    Args:
        better: the new parameters score strictly higher than the old ones, and `parameters.safetensors` holds them.
        reason: the comparison that decided, or the fault that prevented one.
        old, new: `ap`, `auc` and, if the model's loss is softmax, `mrr` of the validation events, with the parameters
            in use and with those of the best epoch; None without a comparison.
        epoch: the best epoch, counted from 1, or None. epochs: their number.
        first: number of events before the new ones. train_events, validation_events: numbers of new ones.
        seconds: of the whole retraining.
    """

    better: bool = False
    reason: str = ""
    old: Metrics | None = None
    new: Metrics | None = None
    epoch: int | None = None
    epochs: int = EPOCHS
    first: int = 0
    train_events: int = 0
    validation_events: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Inputs:
    """Two saved states of one predictor.

    Args:
        base: the model with its node state when the new events began. nodes: number of rows of that state.
        now: the model with the parameters in use. stream: all events so far, at their own times.
        border: the number of events before validation.
    """

    base: StoredModel
    nodes: int
    now: StoredModel
    stream: EventStream
    border: int

    @staticmethod
    def read(base: Path, now: Path) -> Inputs:
        """Read two folders of saved predictors.

        Raises:
            RunFolderError: a folder is damaged, or the events of `now` do not begin with those of `base`.
        """
        (before, events, *_), (after, stream, *_) = read_saved(base), read_saved(now)
        first = len(events)
        if len(stream) < first or not all(
            torch.equal(getattr(stream, name)[:first], getattr(events, name)) for name in ("src", "dst", "t")
        ):
            raise RunFolderError(
                f"{now}: its {len(stream):,} events do not begin with the {first:,} of {base}; save both from one "
                "predictor"
            )
        border = first + (_PARTS - 1) * (len(stream) - first) // _PARTS
        if border < len(stream):  # at the first event of its tie
            border = int(torch.searchsorted(stream.t, stream.t[border]))
        return Inputs(before, events.num_nodes, after, stream, max(first, border))

    @property
    def train_events(self) -> int:
        """Number of new events to train on."""
        return self.border - self.base.events

    @property
    def validation_events(self) -> int:
        """Number of new events that validate."""
        return len(self.stream) - self.border

    @property
    def fault(self) -> str:
        """The reason why there is nothing to learn yet, or ""."""
        size, (train, validation) = self.now.config.train.batch_size, (self.train_events, self.validation_events)
        if train < 2 * size or validation < size:
            return (
                f"too few new events: {train:,} to train on and {validation:,} to validate; it takes {2 * size:,} and "
                f"{size:,}"
            )
        if not bool((self.stream.dst != self.stream.dst[0]).any()):
            return f"all {len(self.stream):,} events have the same destination, so there are no negatives"
        return ""

    def session(self, config: RunConfig) -> Session:
        """Create a session with the parameters in use, whose epochs start from the node state of `base`."""
        past = Past(self.base, torch.arange(self.nodes))
        return Session.create(config, self.stream, self.now, past, Split(self.border, len(self.stream)))


class _Validation:
    """Scores of parameters on the validation events, from the memory that the parameters in use write.

    It moves on in batches of the run's size, whatever the calls were in which the predictor observed the events.

    Args:
        way: of a new session, which still has the parameters in use and the node state before the new events.
    """

    def __init__(self, way: Way) -> None:
        self.way, train = way, way.session.config.train
        self.candidates, self.decisive = (train.negatives, "mrr") if train.loss == "softmax" else (0, "ap")
        session = way.session
        move_on(session, session.stream.start, session.split.train_end, 0)
        self.memory = {name: table.clone() for name, table in session.state.tables.items()}

    def metrics(self) -> Metrics:
        """Score the session's present parameters.

        Raises:
            TrainingError: a score is not finite.
        """
        self.way.session.state.load_state_dict(self.memory)
        predictions, _ = predict_split(self.way, SPLITS[0], self.candidates)
        if not bool(torch.isfinite(torch.cat([predictions.positive, predictions.negative])).all()):
            raise TrainingError("a score is not finite")
        values = summarise(predictions)
        return {name: value for name in ("ap", "auc", "mrr") if (value := values[name]) is not None}


def retrain(
    base: Path, now: Path, out: Path, epochs: int = EPOCHS, seed: int | None = None, threads: int = 1
) -> Verdict:
    """Train on new events from the parameters in use, and compare both on the last fifth of these events.

    Old and new parameters score these events from the same memory, which the old ones have written: the memory of a
    predictor stays when its parameters are replaced. The best epoch is new, and better if it scores strictly higher.

    Args:
        base: folder of a saved predictor, the state before the new events. now: of the same one in its present state.
        out: the folder to write to; the verdict is written last.
        epochs: of training. seed: of the draws, by default the run's; `first` is added to it.
        threads: of torch.

    Returns:
        The verdict, also for errors, of which it has the reason.

    Raises:
        RunFolderError: `out` cannot be written.
    """
    since, verdict, parameters = time.perf_counter(), Verdict(epochs=epochs), None
    _clear(out)
    try:
        inputs = Inputs.read(base, now)
        verdict = replace(
            verdict, first=inputs.base.events, train_events=inputs.train_events,
            validation_events=inputs.validation_events, reason=inputs.fault,
        )  # fmt: skip
        if not verdict.reason:
            verdict, parameters = _trained(inputs, _config(inputs, epochs, seed, threads), verdict)
    except Exception as error:  # of any kind: the parameters in use stay, and the verdict says why
        verdict = replace(verdict, reason=_line(error))
    verdict = replace(verdict, seconds=time.perf_counter() - since)
    _write(out, verdict, parameters)
    return verdict


def _config(inputs: Inputs, epochs: int, seed: int | None, threads: int) -> RunConfig:
    """Return the config in use for training beside a service: one batch after the other, loops not fused.

    Compiling them takes all cores for longer than it saves.
    """
    config = on_cpu(inputs.now.config)
    draws = ((config.train.seed if seed is None else seed) + inputs.base.events) % _SEEDS
    settings = RunSettings("serial", threads=threads, host_threads=threads, fused=False)
    return replace(config, train=replace(config.train, epochs=epochs, seed=draws, threads=threads), settings=settings)


def _trained(inputs: Inputs, config: RunConfig, verdict: Verdict) -> tuple[Verdict, dict[str, torch.Tensor] | None]:
    """Train, and return the verdict with the parameters of the best epoch if they are better."""
    with process_settings(config):
        session = inputs.session(config)
        way = carry_out(session)
        validation = _Validation(way)
        name, old = validation.decisive, validation.metrics()
        new, best, parameters = Metrics(), 0, dict[str, torch.Tensor]()
        for epoch in range(1, config.train.epochs + 1):
            way.train(epoch)
            metrics = validation.metrics()
            if not best or metrics[name] > new[name]:
                new, best = metrics, epoch
                parameters = {key: tensor.clone() for key, tensor in session.model.state_dict().items()}
    better = new[name] > old[name]
    reason = f"{name} {new[name]:.4f} after epoch {best} is {'' if better else 'not '}above {old[name]:.4f}"
    verdict = replace(verdict, better=better, reason=reason, old=old, new=new, epoch=best)
    return verdict, parameters if better else None


def _clear(out: Path) -> None:
    """Create the folder, and remove the files of a former retraining."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (VERDICT, PARAMETERS):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be written: {fault_of(error)}") from error


def _write(out: Path, verdict: Verdict, parameters: dict[str, torch.Tensor] | None) -> None:
    """Write both files, each as a whole or not at all, the verdict last."""
    try:
        if parameters is not None:
            with atomic_file(out / PARAMETERS) as temporary:
                save_file(parameters, temporary, {"format": "pt"})
        with atomic_file(out / VERDICT) as temporary:
            temporary.write_text(json.dumps(asdict(verdict), indent=1) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{out}: cannot be written: {fault_of(error)}") from error


def _line(error: Exception) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, MspipeError) else f"{type(error).__name__}: {text}"


def _end_with_input() -> None:
    """End the process when its standard input is closed, as it is when the process that holds the other end ends."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def main(arguments: list[str] | None = None) -> int:
    """Retrain in this process at a low priority, and return its exit code: 0 if there is a verdict."""
    parser = argparse.ArgumentParser(prog="retraining", description=__doc__)
    for name in ("base", "now", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--attached", action="store_true", help="end when standard input is closed")
    options = vars(parser.parse_args(arguments))
    if options.pop("attached"):
        threading.Thread(target=_end_with_input, daemon=True).start()
    os.nice(10)
    try:
        retrain(**options)
    except RunFolderError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
