"""Node classification: a decoder of dynamic labels, trained on the frozen embeddings of a run's best epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import RunFolderError
from mspipe_triton.evaluation.metrics import area_under_curve, average_precision
from mspipe_triton.files import atomic_file
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.way import Way

EPOCHS = 20
LEARNING_RATE = 1e-3


class NodeDecoder(nn.Module):
    """The score of label 1, W_o ReLU(W_h z + b_h) + b_o, before the logistic function."""

    def __init__(self, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(dim, dim, dtype=dtype), nn.Linear(dim, 1, dtype=dtype)

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        """Scores [E] of embeddings [E, D]."""
        scores: torch.Tensor = self.output(torch.relu(self.hidden(embedded)))
        return scores.squeeze(1)


def train_decoder(session: Session, embedded: torch.Tensor) -> NodeDecoder:
    """Train a decoder on the embeddings of labelled training events, and return it as of its best epoch.

    The best epoch has the highest AUC on validation; if none has an AUC, it is the last one.

    Args:
        embedded: [E, D], of at least the training and validation events.
    """
    split, size = session.split, session.config.train.batch_size
    labels = _labels(session.stream).to(embedded.dtype)
    labelled = session.stream.labelled[: split.train_end].nonzero().squeeze(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(session.config.train.seed)
        decoder = NodeDecoder(embedded.shape[1], embedded.dtype)
        optimizer = torch.optim.Adam(decoder.parameters(), lr=LEARNING_RATE)
        best, parameters = -1.0, decoder.state_dict()
        for _ in range(EPOCHS):
            for events in labelled[torch.randperm(labelled.numel())].split(size):
                loss = binary_cross_entropy_with_logits(
                    decoder(embedded.index_select(0, events)), labels.index_select(0, events)
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            auc = label_metrics(decoder, embedded, session.stream, split.train_end, split.val_end)["auc"]
            if auc is None or auc > best:
                best = auc if auc is not None else best
                parameters = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.load_state_dict(parameters)
    return decoder


@torch.no_grad()
def label_metrics(
    decoder: NodeDecoder, embedded: torch.Tensor, stream: EventStream, start: int, stop: int
) -> dict[str, Any]:
    """Compute `auc` and `ap` of the labels of events [start, stop), None if all labels are equal.

    `events` counts the labelled events, and `positives` those of label 1.
    """
    scores, labels = decoder(embedded[start:stop]), _labels(stream)[start:stop]
    positive, negative = scores[labels == 1], scores[labels == 0]
    events = positive.numel() + negative.numel()
    metrics: dict[str, Any] = {"auc": None, "ap": None, "events": events, "positives": positive.numel()}
    if positive.numel() and negative.numel():
        metrics |= {"auc": area_under_curve(positive, negative), "ap": average_precision(positive, negative)}
    return metrics


def evaluate_labels(way: Way, path: Path, splits: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Compute the label metrics of `splits` with the decoder at `path`, which is trained if it is missing.

    All ranks embed the events; rank 0 does the rest, and sends the metrics.
    """
    session = way.session
    last = len(session.stream) if "test" in splits else session.split.val_end
    embedded = way.embed(last)
    return session.ranks.from_first(lambda: _decode(session, embedded, path, splits))


def _decode(session: Session, embedded: torch.Tensor, path: Path, splits: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Compute the label metrics of embeddings [E, D]; see `evaluate_labels`."""
    ends = {"val": (session.split.train_end, session.split.val_end), "test": (session.split.val_end, None)}
    decoder = _load(path, embedded) if path.exists() else train_decoder(session, embedded)
    if not path.exists():
        with atomic_file(path) as temporary:
            torch.save(decoder.state_dict(), temporary)
    metrics = {}
    for split in splits:
        start, stop = ends[split]
        metrics[split] = label_metrics(decoder, embedded, session.stream, start, stop or len(session.stream))
    return metrics


def _load(path: Path, embedded: torch.Tensor) -> NodeDecoder:
    decoder = NodeDecoder(embedded.shape[1], embedded.dtype)
    try:
        decoder.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise RunFolderError(f"{path}: damaged or truncated ({type(error).__name__}); train again") from error
    return decoder


def _labels(stream: EventStream) -> torch.Tensor:
    assert stream.labels is not None
    return stream.labels
