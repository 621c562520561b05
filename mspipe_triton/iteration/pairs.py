"""Pairs of a batch: their features for the link predictor, and negatives that are hard to rank."""

from __future__ import annotations

import math

import torch

from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels import historical_negatives


def features_of(
    session: Session, src: torch.Tensor, dst: torch.Tensor, times: torch.Tensor, horizon: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Compute features [B, C, ·] of sources [B] and nodes [B, C] at times [B]; None if the model reads none.

    They are from events strictly before each time, and before the `horizon` [], too, if there is one.
    """
    if session.model.predictor.pair is None:
        return None
    assert session.index is not None
    before = session.index.before(times if horizon is None else torch.minimum(times, horizon))
    return session.index.features(src, dst, times, before, session.model.time.frequency.dtype)


def training_negatives(
    session: Session, src: torch.Tensor, dst: torch.Tensor, times: torch.Tensor, negatives: torch.Tensor,
    words: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return the negatives [B, K] of training and their log weights [B, K], which are None unless the loss is softmax.

    Args:
        src, dst, times: [B] of the events. negatives: [B, K], random ones. words: [4], Philox words.
    """
    train, dtype = session.config.train, session.model.time.frequency.dtype
    weighted = train.loss == "softmax"
    if not train.historical:
        if not weighted:
            return negatives, None
        weight = math.log((session.negatives.destinations.numel() - 1) / train.train_negatives)
        return negatives, torch.full(negatives.shape, weight, dtype=dtype, device=negatives.device)
    index, meetings = session.index, session.meetings
    assert index is not None
    assert meetings is not None
    hard, log_weights = historical_negatives(
        meetings, index.pairs, index.pair_keys, session.stream.dst, index.times, src, dst, times, index.before(times),
        negatives, words, train.historical, session.negatives.destinations.numel(), dtype,
    )  # fmt: skip
    return hard, log_weights if weighted else None
