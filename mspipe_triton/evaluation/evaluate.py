"""Evaluation on validation and test with memory updated in time order, for the model and EdgeBank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.labels import check_labels
from mspipe_triton.data.source import Contents
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.evaluation.edgebank import EdgeBank
from mspipe_triton.evaluation.metrics import Predictions, summarise
from mspipe_triton.evaluation.node_task import evaluate_labels
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.step import reciprocal_ranks
from mspipe_triton.settings import process_settings
from mspipe_triton.training.checkpoint import check_data, load_checkpoint
from mspipe_triton.training.entry import resolve
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.way import SPLITS, BatchScores, Evaluation, Watch, Way, carry_out, silent


def predict_split(way: Way, split: str, negatives: int = 0) -> tuple[Predictions, Predictions | None]:
    """Score a split's events, starting from the current node state and updating it.

    Args:
        split: "val" or "test".
        negatives: N random destinations to rank each event's among; 0 for no ranking and no EdgeBank.

    Returns:
        The model's predictions, and EdgeBank's on the same negatives if ranking.
    """
    stream = way.session.stream
    bank = EdgeBank(stream) if negatives else None
    model_scores, bank_scores = list[BatchScores](), list[BatchScores]()
    for batch, scores in way.predict(split, negatives):
        model_scores.append(scores)
        if bank is not None and batch.candidates is not None:
            src, t = stream.src[batch.start : batch.stop], stream.t[batch.start : batch.stop]
            positive = bank.score(src, stream.dst[batch.start : batch.stop], t)
            negative = bank.score(src, batch.negatives, t)
            candidates = bank.score(src.unsqueeze(1), batch.candidates, t.unsqueeze(1))
            bank_scores.append((positive, negative, reciprocal_ranks(positive, candidates)))
    return _join(model_scores), _join(bank_scores) if bank_scores else None


def evaluate_checkpoint(
    way: Way, folder: RunFolder, negatives: int, splits: tuple[str, ...] = SPLITS
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of a run's best epoch, by split, as in `result.json`.

    Each of `splits` is ranked. The top level of a split covers all its events, "inductive" the events with a node that
    is not in the training events, and "node" the labels, if the run's task is to predict them. Test starts from
    validation's node state.

    Raises:
        RunFolderError: the checkpoint is missing or damaged.
    """
    session = way.session
    load_checkpoint(folder.best, session)
    result: dict[str, dict[str, Any]] = {}
    for split in SPLITS[: SPLITS.index(splits[-1]) + 1]:
        model, bank = predict_split(way, split, negatives if split in splits else 0)
        if bank is None:
            continue
        result[split] = dict(summarise(model))
        if split == "test":
            result[split]["edgebank"] = {name: value for name, value in summarise(bank).items() if name in _BANK}
            mask = session.stream.unseen_in_training()[session.split.val_end :]
            result[split]["inductive"] = {**summarise(model, mask), "events": int(mask.sum())}
    if session.config.train.task == "node":
        for split, metrics in evaluate_labels(way, folder.decoder, splits).items():
            result[split]["node"] = metrics
    return result


def evaluate_run(
    run: str,
    split: str,
    negatives: int | None = None,
    data: str | None = None,
    stream: EventStream | None = None,
    progress: Evaluation = silent,
) -> tuple[dict[str, Any], int]:
    """Return one split's metrics of a run's best epoch, and the number of negatives ranked (by default the run's).

    Args:
        data: the file that holds the run's events, if it is not where it was; it is read as the run's was.
        stream: the run's events themselves, instead of a file; they are split as the run's were.
        progress: called after each batch, as `Observer.evaluation` is; test comes after validation.

    Raises:
        InputError: there is no run, its checkpoint is damaged, its data cannot be read or have changed, or it needs a
            GPU and none is usable.
    """
    if data is not None and stream is not None:
        raise ConfigError("data and stream both hold the events; pass one of them")
    if split not in SPLITS:
        raise ConfigError(f"split must be val or test, not {split!r}")
    if negatives is not None and (type(negatives) is not int or negatives < 1):
        raise ConfigError(f"negatives must be at least 1, not {negatives!r}")
    if stream is not None and not isinstance(stream, EventStream):
        raise ConfigError(f"stream must be an EventStream, not {type(stream).__name__}; make one with EventStream.of")
    folder = RunFolder.open(run)
    try:
        config, _ = resolve_device(load_config(folder.config))
    except ConfigError as error:
        raise ConfigError(f'{folder.config}: {error} (in that file: device = "cpu")') from None
    ranked = config.train.negatives if negatives is None else negatives
    if stream is None:
        place = config.data.path if data is None else data
        try:
            stream = folder.stream(replace(config.data, path=place), "with --data FILE")
        except ConfigError:  # of other data, which the run's split may not fit; their difference is named below
            stream = folder.stream(replace(config.data, path=place, split_at=""), "with --data FILE")
        fix = "restore the file, or name the one that the run was trained on with --data"
    else:
        place, fix = f"stream {stream.name}", "pass the stream that the run was trained on"
    learns_labels = config.train.task == "node"
    if learns_labels and stream.labels is None:
        check_labels(stream)  # tells why there are none
    borders = check_data(folder.best, stream, Contents.of(stream), place, fix, learns_labels)
    stream = replace(stream, borders=borders)
    config, _ = resolve(config, stream)
    with process_settings(config):
        way = carry_out(Session.create(config, stream), Watch(evaluation=progress))
        return evaluate_checkpoint(way, folder, ranked, (split,))[split], ranked


_BANK = ("ap", "auc", "mrr")


def _join(parts: list[BatchScores]) -> Predictions:
    positive, negative, ranks = (torch.cat(column) for column in zip(*parts, strict=True))
    return Predictions(positive, negative, ranks if ranks.numel() else None, [part[0].numel() for part in parts])
