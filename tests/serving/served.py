"""Runs for the tests of predictors: small ones, trained once, whose loops are not fused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mspipe_triton import ModelConfig, Predictor, RunConfig, TrainConfig, read_stream, train
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.execution import RunSettings

SIZE = 100
NEGATIVES = 5
SHAPE = ("dim", "layers", "sampler", "precision", "pair_features", "dropout")  # settings of the model
ONES = [1.0, 1.0, 1.0]  # features of an event of the small stream
APRIL = "2024-04-01"  # after all events of the shop
WEB = {"amount": 1.5, "channel": "web"}  # features of one of its events


def trained(folder: Path, stream: EventStream, model: str, dtype: str = "float32", **settings: Any) -> Path:
    """Train a small model for an epoch, and return its folder."""
    values = {"epochs": 1, "batch_size": SIZE, "device": "cpu", "threads": 1, "negatives": NEGATIVES}
    shape = {name: settings.pop(name) for name in SHAPE if name in settings}
    config = RunConfig(
        model=ModelConfig(model, dtype=dtype, **{"dim": 8} | shape),
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


def shop_rows(events: int = 400, users: int = 20, items: int = 12) -> list[dict[str, Any]]:
    """Rows of a table of purchases: users as text, items as integers, dates, an amount and a channel."""
    return [
        {
            "user": f"u{n * 7 % users}",
            "item": 100 + n * n % items,
            "when": f"2024-03-{1 + n // 24:02}T{n % 24:02}:00:00",
            "amount": float(n % 9) + 0.5,
            "channel": ("web", "app", "shop")[n % 3],
        }
        for n in range(events)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV."""
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def shop(folder: Path, **settings: Any) -> Path:
    """Train on a file of purchases, and return the run's folder."""
    path = write_rows(folder / "shop.csv", shop_rows())
    return trained(folder, read_stream(path, {"features": "amount,channel"}), "tgn", batch_size=50, **settings)


def state(predictor: Predictor) -> tuple[Any, ...]:
    """The state that a refused call must leave as it is."""
    table = predictor._live.session.state.tables
    tables = [table[name][: predictor._live.nodes].clone() for name in sorted(table)]
    scores = predictor.embed().tobytes()
    return len(predictor), predictor.time, predictor.nodes, scores, [each.numpy().tobytes() for each in tables]


def copied(run: Path, folder: Path) -> Path:
    """Copy a shop's run to `run` in a folder, and shop.csv beside it."""
    shutil.copy(run.parent / "shop.csv", folder)
    copy = Path(shutil.copytree(run, folder / "run"))
    config = copy / "config.toml"
    config.write_text(config.read_text().replace(str(run.parent), str(folder)))
    return copy
