"""Evaluation on validation and test with memory updated in time order, for the model and the baselines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from mspipe_triton.config import TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.data.tgb import tgb_candidates
from mspipe_triton.errors import ConfigError
from mspipe_triton.evaluation.baselines import Baselines
from mspipe_triton.evaluation.metrics import Predictions, summarise
from mspipe_triton.evaluation.node_task import evaluate_labels
from mspipe_triton.iteration.scene import ALL, Candidates
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.step import reciprocal_ranks
from mspipe_triton.settings import process_settings
from mspipe_triton.training.checkpoint import load_checkpoint
from mspipe_triton.training.entry import resolve
from mspipe_triton.training.run_data import run_config, run_stream
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.way import SPLITS, BatchScores, Evaluation, Watch, Way, carry_out, silent

CANDIDATES = ("random", "all")


def predict_split(
    way: Way, split: str, candidates: Candidates = 0, baselines: Baselines | None = None, lagged: bool = False
) -> tuple[Predictions, dict[str, Predictions]]:
    """Score a split's events, starting from the current node state and updating it.

    Args:
        split: "val" or "test".
        candidates: destinations to rank each event's among. baselines: scored on the same negatives and candidates.
        lagged: read only neighbours and pairs from before the time of a batch's first event.

    Returns:
        The model's predictions, and each baseline's.
    """
    stream = way.session.stream
    model, others = list[BatchScores](), dict[str, list[BatchScores]]()
    for batch, batch_scores in way.predict(split, candidates, lagged):
        model.append(batch_scores)
        if baselines is not None and batch.candidates is not None:
            src, dst, t = (column[batch.start : batch.stop] for column in (stream.src, stream.dst, stream.t))
            pairs = torch.cat([dst.unsqueeze(1), batch.negatives, batch.candidates], 1)
            for name, scores in baselines.scores(src, pairs, t, t[:1].repeat(t.numel()) if lagged else t).items():
                ranks = reciprocal_ranks(scores[:, 0], scores[:, 2:].masked_fill(batch.candidates < 0, -torch.inf))
                others.setdefault(name, []).append((scores[:, 0], scores[:, 1], ranks))
    return _join(model), {name: _join(parts) for name, parts in others.items()}


def evaluate_checkpoint(
    way: Way, folder: RunFolder, candidates: int | None, splits: tuple[str, ...] = SPLITS
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of a run's best epoch, by split, as in `result.json`.

    Each of `splits` is ranked. The top level of a split covers all its events, and "inductive" the events with a node
    that is not in the training events. In test, each baseline has its name (see `Baselines`). Test starts from
    validation's node state, and the state after the last split remains.

    Args:
        candidates: the number of random ones for each event, ALL, or None for those of TGB's protocol, of which
            "origin" tells the source. In a run that follows this protocol, the metrics read neighbours and pairs from
            before the batch, and "streaming" has those with all that is earlier than an event.

    Raises:
        RunFolderError: the checkpoint is missing or damaged.
    """
    session, ranked, result = way.session, dict[str, Candidates](), dict[str, dict[str, Any]]()
    for split in splits:
        if candidates is None:
            make = partial(tgb_candidates, session.stream, session.split, split, session.seed)
            nodes, origin = session.ranks.content_from_first(make)  # py-tgb's files may be on its host alone
            ranked[split], result[split] = nodes, {"candidates": nodes.shape[1], "origin": origin}
        else:
            number = session.negatives.destinations.numel() - 1 if candidates == ALL else candidates
            ranked[split], result[split] = candidates, {"candidates": number}
    first = session.ranks.first  # all ranks score the events, and rank 0 computes metrics and baselines
    baselines = fit_baselines(session) if "test" in splits and first else None
    mask = session.stream.unseen_in_training()[session.split.val_end :]
    for lagged in (False, True) if lags(session.config.train) else (False,):
        load_checkpoint(folder.best, session)
        for split in SPLITS[: SPLITS.index(splits[-1]) + 1]:
            others = baselines if split == "test" else None
            model, predictions = predict_split(way, split, ranked.get(split, 0), others, lagged)
            if split not in splits or not first:
                continue
            if lagged:
                result[split]["streaming"] = _chosen(result[split])
            result[split] |= summarise(model)
            if split == "test":
                result[split] |= {name: _chosen(summarise(each)) for name, each in predictions.items()}
                result[split]["inductive"] = {**summarise(model, mask), "events": int(mask.sum())}
    return session.ranks.from_first(lambda: result)


def add_labels(way: Way, folder: RunFolder, result: dict[str, dict[str, Any]]) -> None:
    """Add "node" to the metrics of each split, those of the labels, if the run's task is to predict them.

    This leaves a node state that is not that of the checkpoint.
    """
    if way.session.config.train.task == "node":
        for split, metrics in evaluate_labels(way, folder.decoder, tuple(result)).items():
            result[split]["node"] = metrics


def evaluate_run(
    run: str,
    split: str,
    negatives: int | None = None,
    data: str | None = None,
    stream: EventStream | None = None,
    progress: Evaluation = silent,
    candidates: str = "random",
) -> dict[str, Any]:
    """Return one split's metrics of a run's best epoch.

    Args:
        negatives: the number of random candidates; None for the run's number, or its protocol.
        data: the file that holds the run's events, if it is not where it was; it is read as the run's was.
        stream: the run's events themselves, instead of a file; they are split as the run's were.
        progress: called after each batch, as `Observer.evaluation` is; test comes after validation.
        candidates: "random", or "all" to rank among all destinations.

    Raises:
        InputError: there is no run, its checkpoint is damaged, its data cannot be read or have changed, or it needs a
            GPU and none is usable.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be val or test, not {split!r}")
    if candidates not in CANDIDATES:
        raise ConfigError(f"candidates must be random or all, not {candidates!r}")
    if negatives is not None and (type(negatives) is not int or negatives < 1):
        raise ConfigError(f"negatives must be at least 1, not {negatives!r}")
    if negatives is not None and candidates == "all":
        raise ConfigError(f"negatives {negatives} is a number of random candidates; omit it with candidates all")
    folder = RunFolder.open(run)
    config = run_config(folder)
    ranked = run_candidates(config.train) if negatives is None else negatives
    if candidates == "all":
        ranked = ALL
    stream, past = run_stream(folder, config, data, stream)
    config, _ = resolve(config, stream)
    if not folder.ended_fused() and config.settings is not None:  # the run's own arithmetic gives its own numbers
        config = replace(config, settings=replace(config.settings, fused=False))
    with process_settings(config):
        way = carry_out(Session.create(config, stream, past=past), Watch(evaluation=progress))
        result = evaluate_checkpoint(way, folder, ranked, (split,))
        add_labels(way, folder, result)
        return result[split]


def lags(train: TrainConfig) -> bool:
    """Return True if a run's scores read only what is earlier than a batch, as TGB's protocol asks."""
    return train.protocol == "tgb"


def run_candidates(train: TrainConfig) -> int | None:
    """Return the candidates of a run's settings, as `evaluate_checkpoint` takes them."""
    return None if lags(train) else train.negatives


def fit_baselines(session: Session) -> Baselines:
    """Fit the baselines on a session's training events, at its times."""
    stream, index = session.stream, session.index
    if index is None:
        index = PairIndex.build(stream.src, stream.dst, stream.t)
    return Baselines.fit(stream, index, session.split, session.seed)


def _chosen(metrics: dict[str, float | None]) -> dict[str, float | None]:
    return {name: metrics[name] for name in ("ap", "auc", "mrr")}


def _join(parts: list[BatchScores]) -> Predictions:
    positive, negative, ranks = (torch.cat(column) for column in zip(*parts, strict=True))
    return Predictions(positive, negative, ranks if ranks.numel() else None, [part[0].numel() for part in parts])
