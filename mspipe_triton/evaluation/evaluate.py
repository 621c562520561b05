"""Evaluation on validation and test with memory carried on in time order, EdgeBank beside the model."""

from __future__ import annotations

from typing import Any

import torch

from mspipe_triton.config import load_config
from mspipe_triton.data.source import fingerprint, load_stream
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.evaluation.edgebank import EdgeBank
from mspipe_triton.evaluation.metrics import Predictions, summarise
from mspipe_triton.evaluation.node_task import evaluate_labels
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.step import reciprocal_ranks
from mspipe_triton.settings import process_settings
from mspipe_triton.training.checkpoint import load_checkpoint
from mspipe_triton.training.entry import resolve
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.way import SPLITS, Predicted, Way, carry_out


def predict_split(way: Way, split: str, negatives: int = 0) -> tuple[Predictions, Predictions | None]:
    """Score a split's events, going on from the present node state and updating it.

    Args:
        split: "val" or "test".
        negatives: N random destinations to rank each event's among; 0 ranks none and leaves EdgeBank out.

    Returns:
        The model's predictions, and EdgeBank's on the same negatives when ranking.
    """
    stream = way.session.stream
    bank = EdgeBank(stream) if negatives else None
    ours, theirs = list[Predicted](), list[Predicted]()
    for batch, scored in way.predict(split, negatives):
        ours.append(scored)
        if bank is not None and batch.candidates is not None:
            src = stream.src[batch.start : batch.stop]
            known = bank.score(src, stream.dst[batch.start : batch.stop], batch.start)
            others = bank.score(src.unsqueeze(1), batch.candidates, batch.start)
            theirs.append((known, bank.score(src, batch.negatives, batch.start), reciprocal_ranks(known, others)))
    return _joined(ours), _joined(theirs) if theirs else None


def evaluate_checkpoint(
    way: Way, folder: RunFolder, negatives: int, splits: tuple[str, ...] = SPLITS
) -> dict[str, dict[str, Any]]:
    """The metrics of a run's best epoch, split by split, as `result.json` holds them.

    "val" is ranked too; the top level of a split is over all its events, "inductive" over those with a node that
    training has not seen, "node" over labels where the run's task is theirs. Test goes on from validation's node state.

    Raises:
        RunFolderError: the checkpoint is missing or damaged.
    """
    session = way.session
    load_checkpoint(folder.best, session, fingerprint(session.stream))
    result: dict[str, dict[str, Any]] = {}
    for split in SPLITS[: SPLITS.index(splits[-1]) + 1]:
        ours, bank = predict_split(way, split, negatives if split in splits else 0)
        if bank is None:
            continue
        result[split] = dict(summarise(ours))
        if split == "test":
            result[split]["edgebank"] = {name: value for name, value in summarise(bank).items() if name in _BANK}
            mask = session.stream.unseen_in_training()[session.split.val_end :]
            result[split]["inductive"] = {**summarise(ours, mask), "events": int(mask.sum())}
    if session.config.train.task == "node":
        for split, found in evaluate_labels(way, folder.decoder, splits).items():
            result[split]["node"] = found
    return result


def evaluate_run(run: str, split: str, negatives: int | None = None) -> tuple[dict[str, Any], int]:
    """The metrics of one split of a run's best epoch, and the number of negatives ranked (the run's by default).

    Raises:
        InputError: there is no run, its checkpoint is damaged, its data cannot be read or have changed, or it asks for
            a GPU and none is usable.
    """
    folder = RunFolder.open(run)
    try:
        config, _ = resolve_device(load_config(folder.config))
    except ConfigError as error:
        raise ConfigError(f'{folder.config}: {error} (in that file: device = "cpu")') from None
    ranked, stream = config.train.negatives if negatives is None else negatives, load_stream(config.data)
    config, _ = resolve(config, stream)
    with process_settings(config):
        way = carry_out(Session.create(config, stream))
        return evaluate_checkpoint(way, folder, ranked, (split,))[split], ranked


_BANK = ("ap", "auc", "mrr")


def _joined(parts: list[Predicted]) -> Predictions:
    positive, negative, ranks = (torch.cat(column) for column in zip(*parts, strict=True))
    return Predictions(positive, negative, ranks if ranks.numel() else None, [part[0].numel() for part in parts])
