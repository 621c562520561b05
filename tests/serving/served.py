"""Runs for the tests of predictors: small ones, trained once, whose loops are not fused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mspipe_triton import ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.execution import RunSettings

SIZE = 100
NEGATIVES = 5


def trained(folder: Path, stream: EventStream, model: str, dtype: str = "float32", **settings: Any) -> Path:
    """Train a small model for an epoch, and return its folder."""
    values = {"epochs": 1, "batch_size": SIZE, "device": "cpu", "threads": 1, "negatives": NEGATIVES}
    shape = {name: settings.pop(name) for name in ("layers", "sampler", "precision") if name in settings}
    config = RunConfig(
        model=ModelConfig(model, dim=8, dtype=dtype, **shape),
        train=TrainConfig(**values | settings),
        settings=RunSettings(fused=False),
    )
    out = folder / f"{model}-{dtype}"
    train(config, stream, out=str(out))
    return out


def columns(stream: EventStream, start: int, stop: int) -> dict[str, Any]:
    """Arguments of `observe` for events [start, stop)."""
    part = slice(start, stop)
    ends = {"src": stream.src[part].tolist(), "dst": stream.dst[part].tolist(), "t": stream.t[part].tolist()}
    return ends | ({"features": stream.edge_features[part].numpy()} if stream.edge_features is not None else {})


def candidates(stream: EventStream, split: int, start: int, stop: int) -> list[list[list[int]]]:
    """Evaluation's negative and candidates of each event, batch by batch."""
    sampler, dst = NegativeSampler(stream, 0), stream.dst[start:stop]
    negatives = sampler.iterate(Purpose.EVAL_NEGATIVES, split, dst, SIZE)
    others = sampler.iterate(Purpose.RANKING_NEGATIVES, split, dst, SIZE, NEGATIVES)
    return [
        [[*first, *rest] for first, rest in zip(one.tolist(), more.tolist(), strict=True)]
        for one, more in zip(negatives, others, strict=True)
    ]


def with_ties(stream: EventStream) -> EventStream:
    """The stream with times in steps of about ten events, so that many are equal."""
    step = int(stream.t[-1] - stream.t[0]) // 120
    return replace(stream, t=(stream.t // step) * step, borders=None)
