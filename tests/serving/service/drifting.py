"""Streams whose tastes change, predictors saved before and after, and the metrics of a predictor in use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mspipe_triton import load
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import NegativeSampler, Purpose
from mspipe_triton.serving.service.retraining import Verdict
from tests.serving.served import columns

SIZE, OLD, NEW = 20, 1500, 1000
GROUPS, USERS, ITEMS = 4, 40, 40
SETTINGS: dict[str, Any] = {"dim": 16, "batch_size": SIZE, "epochs": 2, "seed": 3, "lr": 5e-3, "pair_features": False}
SOFTMAX = {"loss": "softmax", "train_negatives": 4, "negative_kind": "mixed", "pair_features": True}
Feed = Callable[[int, int], dict[str, Any]]


def drifted(new_users: int = 0) -> EventStream:
    """Events between users and items of four groups: first of their own group, and from event `OLD` on of the next one.

    Node features tell the groups, and edge features nothing. Every tenth later event may be of a new user.
    """
    random, number = np.random.default_rng(0), np.arange(OLD + NEW)
    user, later = random.integers(0, USERS, OLD + NEW), number >= OLD
    group = (user + later) % GROUPS
    item = USERS + GROUPS * random.integers(0, ITEMS // GROUPS, OLD + NEW) + group
    if new_users:
        user = np.where(later & (number % 10 == 0), USERS + ITEMS + number // 10 % new_users, user)
    t = torch.from_numpy(60 * number + random.integers(0, 50, OLD + NEW))
    nodes = USERS + ITEMS + new_users
    noise = torch.from_numpy(random.standard_normal((OLD + NEW, 2)))
    groups = torch.eye(GROUPS)[torch.arange(nodes) % GROUPS]
    return EventStream(torch.from_numpy(user), torch.from_numpy(item), t, noise, groups, num_nodes=nodes)


def first_events(stream: EventStream) -> EventStream:
    """The first `OLD` events of a drifted stream, and their nodes."""
    parts = {name: getattr(stream, name)[:OLD] for name in ("src", "dst", "t", "edge_features")}
    assert stream.node_features is not None
    nodes = USERS + ITEMS
    return replace(stream, **parts, node_features=stream.node_features[:nodes], num_nodes=nodes)


def saved(folder: Path, run: Path, stream: EventStream | None, feed: Feed, stop: int) -> tuple[Path, Path]:
    """Save a run's predictor after all events of the run, and after the events up to `stop`."""
    predictor = load(run, stream=stream)
    predictor.save(folder / "base")
    if stop > len(predictor):
        predictor.observe(**feed(len(predictor), stop))
    predictor.save(folder / "now")
    return folder / "base", folder / "now"


def changed(folder: Path, **settings: Any) -> Path:
    """Change settings of training of a saved predictor."""
    path = folder / "model.json"
    content = json.loads(path.read_text())
    content["train"] |= settings
    path.write_text(json.dumps(content))
    return folder


def served(folder: Path, base: Path, now: Path, feed: Feed, verdict: Verdict, new: Path | None) -> dict[str, float]:
    """Metrics of a predictor that observed the training events with old parameters, and goes on with old or new ones.

    They are the mean precision at the places of the events in the order of all scores, and the mean reciprocal rank.
    """
    predictor = load(base)
    first = verdict.first + verdict.train_events
    predictor.observe(**feed(verdict.first, first))
    predictor.save(folder)
    if new is not None:
        tensors = load_file(folder / "model.safetensors")
        fresh = {f"model.{name}": tensor for name, tensor in load_file(new).items()}
        assert fresh.keys() <= tensors.keys()
        save_file(tensors | fresh, folder / "model.safetensors", {"format": "pt"})
    predictor, ids = load(folder), load(now)._ids
    train = json.loads((now / "model.json").read_text())["train"]
    events = load_file(now / "events.safetensors")
    stream = EventStream(events["src"], events["dst"], events["t"])
    sampler, dst = NegativeSampler(stream, train["seed"] + verdict.first), stream.dst[first:]
    size, count = train["batch_size"], train["negatives"]
    negatives = sampler.iterate(Purpose.EVAL_NEGATIVES, 0, dst, size)
    candidates = sampler.iterate(Purpose.RANKING_NEGATIVES, 0, dst, size, count)
    scores = []
    for number, rows in enumerate(torch.cat(pair, 1) for pair in zip(negatives, candidates, strict=True)):
        start = first + number * size
        names = [ids.plain(row) for row in rows]
        scores.append(predictor.predict(**feed(start, min(start + size, len(stream))), candidates=names))
    table = np.concatenate(scores)
    positive, negative, ranked = table[:, 0], table[:, 1], table[:, 2:]
    above = (positive[:, None] <= positive).sum(1)
    others = (positive[:, None] <= negative).sum(1)
    ranks = 1 + (ranked > positive[:, None]).sum(1) + 0.5 * (ranked == positive[:, None]).sum(1)
    return {"ap": float((above / (above + others)).mean()), "mrr": float((1 / ranks).mean())}


def fed(stream: EventStream) -> Feed:
    """Arguments of `observe` for events of a stream."""
    return lambda start, stop: columns(stream, start, stop)
