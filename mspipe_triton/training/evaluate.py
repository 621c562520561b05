"""Evaluation on validation and test with memory carried on in time order, EdgeBank beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mspipe_triton.config import load_config
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.devices import resolve_device
from mspipe_triton.errors import ConfigError
from mspipe_triton.training.batch import Batch, batches
from mspipe_triton.training.checkpoint import load_checkpoint
from mspipe_triton.training.edgebank import EdgeBank
from mspipe_triton.training.footprint import resolve_placement
from mspipe_triton.training.iteration import in_turn
from mspipe_triton.training.metrics import Predictions, reciprocal_ranks, summarise
from mspipe_triton.training.node_task import evaluate_labels
from mspipe_triton.training.run_folder import RunFolder
from mspipe_triton.training.session import Session, fingerprint, load_stream, process_settings

SPLITS = ("val", "test")


def predict_split(session: Session, split: str, negatives: int = 0) -> tuple[Predictions, Predictions | None]:
    """Score a split's events, going on from the session's present node state and updating it.

    Args:
        split: "val" or "test".
        negatives: N random destinations to rank each event's among; 0 ranks none and leaves EdgeBank out.

    Returns:
        The model's predictions, and EdgeBank's on the same negatives when ranking.
    """
    start, stop = (session.split.train_end, session.split.val_end)
    if split == "test":
        start, stop = stop, len(session.stream)
    session.model.eval()
    bank = EdgeBank(session.stream) if negatives else None
    ours: list[tuple[torch.Tensor, ...]] = []
    theirs: list[tuple[torch.Tensor, ...]] = []
    items = batches(
        start, stop, session.config.train.batch_size, session.negatives, Purpose.EVAL_NEGATIVES, SPLITS.index(split),
        negatives,
    )  # fmt: skip
    for batch, scored in _scored(session, split, negatives, items):
        ours.append(scored)
        if bank is not None:
            assert batch.candidates is not None
            src = session.stream.src[batch.start : batch.stop]
            known = bank.score(src, session.stream.dst[batch.start : batch.stop], batch.start)
            others = bank.score(src.unsqueeze(1), batch.candidates, batch.start)
            theirs.append((known, bank.score(src, batch.negatives, batch.start), _ranks(known, others)))
    return _joined(ours), _joined(theirs) if theirs else None


def _scored(
    session: Session, split: str, negatives: int, items: Iterator[Batch]
) -> Iterator[tuple[Batch, tuple[torch.Tensor, ...]]]:
    """Batches with the model's logits of positives and negatives, and reciprocal ranks, [0] where none is ranked."""
    if session.resident is not None:
        yield from zip(items, session.resident.predict(split, negatives), strict=True)
        return
    session.state.settle()
    for done in in_turn(session.iteration.evaluation_stages(), items):
        yield done.batch, (done.positive, done.negative, _ranks(done.positive, done.ranked))


def evaluate_checkpoint(
    session: Session, folder: RunFolder, negatives: int, splits: tuple[str, ...] = SPLITS
) -> dict[str, dict[str, Any]]:
    """The metrics of a run's best epoch, split by split, as `result.json` holds them.

    "val" is ranked too; the top level of a split is over all its events, "inductive" over those with a node that
    training has not seen, "node" over labels where the run's task is theirs. Test goes on from validation's node state.

    Raises:
        RunFolderError: the checkpoint is missing or damaged.
    """
    load_checkpoint(folder.best, session, fingerprint(session.stream))
    result: dict[str, dict[str, Any]] = {}
    for split in SPLITS[: SPLITS.index(splits[-1]) + 1]:
        ours, bank = predict_split(session, split, negatives if split in splits else 0)
        if bank is None:
            continue
        result[split] = dict(summarise(ours))
        if split == "test":
            result[split]["edgebank"] = {name: value for name, value in summarise(bank).items() if name in _BANK}
            mask = session.stream.unseen_in_training()[session.split.val_end :]
            result[split]["inductive"] = {**summarise(ours, mask), "events": int(mask.sum())}
    if session.config.train.task == "node":
        for split, found in evaluate_labels(session, folder.decoder, splits).items():
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
    config, _ = resolve_placement(config, stream)
    with process_settings(config):
        session = Session.create(config, stream)
        return evaluate_checkpoint(session, folder, ranked, (split,))[split], ranked


_BANK = ("ap", "auc", "mrr")


def _ranks(positive: torch.Tensor, candidates: torch.Tensor | None) -> torch.Tensor:
    return positive.new_zeros(0) if candidates is None else reciprocal_ranks(positive, candidates)


def _joined(parts: list[tuple[torch.Tensor, ...]]) -> Predictions:
    positive, negative, ranks = (torch.cat(column) for column in zip(*parts, strict=True))
    return Predictions(positive, negative, ranks if ranks.numel() else None, [part[0].numel() for part in parts])
