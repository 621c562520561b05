"""Loading of predictors: from a run at the end of its events, at the end of training or at a time, or as saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.moments import moment, time_text
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.origin import shown
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.errors import ConfigError, DataError, RunFolderError
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.models.stored import SETTINGS, StoredModel
from mspipe_triton.serving.defaults import SHARE
from mspipe_triton.serving.files import is_saved, read_saved
from mspipe_triton.serving.live import Live
from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.training.checkpoint import load_checkpoint
from mspipe_triton.training.run_data import run_stream
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.unfinished import unfinished_note

TRAINING = "training"


def load(
    run: str | Path, data: str | Path | None = None, at: Any = None, *, stream: EventStream | None = None,
    share: float = SHARE, progress: Callable[[int, int], None] = lambda events, total: None,
    note: Callable[[str], object] | None = None,
) -> Predictor:  # fmt: skip
    """Load the best epoch of a run, or a predictor that was saved, to be used on the CPU.

    Args:
        run: the folder of a run, or one that `Predictor.save` wrote.
        data: the file that holds the run's events, if it is not where it was. stream: the events themselves, of a run
            on events from Python.
        at: None for the state after all events of the run; "training" for that at the end of training; a time for that
            of all earlier events. For the latter two, the run's later events are still to be observed. A time before
            the end of training has the parameters that training ended with.
        share: the age of an embedding that `rank(mode="cached")` keeps, at most, as a share of the time from the
            node's last event to the embedding.
        progress: called with the numbers of events in a batch and in all, after each batch that the state moves on by.
        note: called with a line if the run's training has not finished; None warns.

    Raises:
        InputError: there is no run, or one of another version; its data cannot be read or have changed; `at` is no
            time, or not after the first event; or a saved predictor is asked for another state than its own.
    """
    if not isinstance(share, int | float) or not 0 <= share < float("inf"):
        raise ConfigError(f"share must be a number of at least 0, not {shown(share)}")
    for name, each in (("run", run), ("data", data)):
        if not isinstance(each, str | Path) and (each is not None or name == "run"):
            raise ConfigError(
                f"{name} must be a path, not {shown(each)}; name a {'folder' if name == 'run' else 'file'}"
            )
    path, data = Path(run), None if data is None else str(data)
    if is_saved(path):
        if at is not None or data is not None or stream is not None:
            raise ConfigError(
                f"{run}: holds a saved predictor, of one state; omit at, data and stream, or name the run"
            )
        return _restored(path, share)
    folder = RunFolder.open(run)
    config = on_cpu(load_config(folder.config))
    stored = StoredModel.read(path) if (path / SETTINGS).exists() else None
    if not folder.best.exists() and (stored is None or at is not None):
        fault = "no epoch was finished" if stored is None else "an earlier state needs the checkpoint"
        fix = "train first" if stored is None else "restore the file, or omit at"
        raise RunFolderError(f"{run}: {fault} (checkpoint.pt is missing); {fix}")
    events, past = run_stream(folder, config, data, stream, flag=False)
    session = Session.create(config, events, stored, past, learns=False)
    position = _position(at, events, session.split, config)
    if stored is not None and position == len(events):
        stored.restore_state(session.state)
    else:
        load_checkpoint(folder.best, session)
        _replay(session, position, progress)
        parts = (config, session.model, session.state, session.time, session.stream)
        stored = StoredModel.of(*parts, folder.read_record())
    split = 0 if position < session.split.val_end else 1 if position < len(events) else 2
    live = Live(_until(session, position), split)
    ids = LiveIds(events.ids, events.num_nodes)
    card = folder.card.read_text(encoding="utf-8") if folder.card.exists() else ""
    if (unfinished := unfinished_note(folder)) is not None:
        (note or partial(warnings.warn, stacklevel=2))(unfinished)
    return Predictor(stored, live, ids, events.t[:position], session.split, card, share)


def _restored(folder: Path, share: float) -> Predictor:
    """Restore a predictor that was saved."""
    stored, events, ids, split, card = read_saved(folder)
    session = Session.create(on_cpu(stored.config), events, stored, split=split, learns=False)
    stored.restore_state(session.state)
    return Predictor(stored, Live(session, 2), ids, events.t, session.split, card, share)


def on_cpu(config: RunConfig) -> RunConfig:
    """Return a run's config for use in stages on the CPU."""
    train = replace(
        config.train, device="cpu", placement="host", schedule="auto", staleness=-1, mitigation="none", task="link"
    )
    return replace(config, train=train, settings=None)


def _position(at: Any, stream: EventStream, split: Split, config: RunConfig) -> int:
    """Return the number of events of the state that `at` names.

    Raises:
        DataError: it is no time, or not after the first event.
    """
    if at is None:
        return len(stream)
    if isinstance(at, str) and at == TRAINING:
        return split.train_end
    meaning = "" if stream.source is None else stream.source.time
    try:
        time = moment(at, meaning, config.data.time_format, not stream.t.is_floating_point())
    except DataError as error:
        raise DataError(f"at: {error}, or {TRAINING!r}") from error
    if time <= stream.t[0].item():
        first = time_text(stream.t[0].item(), meaning)
        raise DataError(f"at is {at}, not after the first event, at {first}; give a later time")
    return int(torch.searchsorted(stream.t, time))


def move_on(
    session: Session, first: int, stop: int, split: int, progress: Callable[[int], None] = lambda events: None
) -> None:
    """Move the node state on by events [first, stop), as evaluation does in the split of that number (`Way.spans`).

    Args:
        progress: called with the number of events of each batch.
    """
    session.model.eval()
    session.state.settle()
    items = batches(first, stop, session.size, session.negatives, Purpose.EVAL_NEGATIVES, split)
    for work in in_turn(Stages(session).scoring(), items if first < stop else ()):
        progress(work.batch.stop - work.batch.start)


def _replay(session: Session, position: int, progress: Callable[[int, int], None]) -> None:
    """Move the state from the end of training to a position, as evaluation does.

    An earlier one is reached from the start of training, and history from the first event.
    """
    train_end, *ends = (session.split.train_end, session.split.val_end, len(session.stream))
    spans = list(enumerate(pairwise([train_end, *ends])))
    if position < train_end:
        start = session.stream.start if position >= session.stream.start else 0
        session.state.base = session.state.base if start else None
        session.state.reset()
        spans = [(0, (start, position))]
    total = sum(max(min(end, position) - first, 0) for _, (first, end) in spans)
    for number, (first, end) in spans:
        move_on(session, first, min(end, position), number, lambda events: progress(events, total))


def _until(session: Session, position: int) -> Session:
    """Return a session of the first events alone, with the node state as it is."""
    stream = session.stream
    if position == len(stream):
        return session
    first = copy(stream)
    for name in ("src", "dst", "t"):
        object.__setattr__(first, name, getattr(stream, name)[:position])
    adjacency = TemporalCSR.build(first)
    index = None if session.index is None else PairIndex.build(first.src, first.dst, first.t)
    sampler = replace(session.sampler, stream=first, adjacency=adjacency)
    return replace(session, stream=first, sampler=sampler, index=index)
