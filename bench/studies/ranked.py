"""Ranking of the last 30 % of the events by one version of the package: a script for `bench.studies.ranking`.

It imports `mspipe_triton` from PYTHONPATH, and uses only what all versions have. The model is untrained, and its memory
is that after the events before. Candidates come from a generator of its own, so that versions rank the same ones.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.source import load_stream
from mspipe_triton.iteration.scene import Batch, batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import in_turn
from mspipe_triton.settings import process_settings
from mspipe_triton.training.staged import Staged


def main(path: str, model: str, size: int, candidates: int, threads: int, count: int, out: str) -> None:
    """Rank `count` batches (0: all), write the logits, and print events and seconds as JSON."""
    train = TrainConfig(device="cpu", schedule="serial", batch_size=size, threads=threads)
    config = RunConfig(DataConfig(path), ModelConfig(model, pair_features=False), train)
    with process_settings(config):
        way = Staged(Session.create(config, load_stream(config.data)))
        way.embed(first_event(way))
        memory = {name: value.clone() for name, value in way.session.state.state_dict().items()}
        list(islice(rank(way, candidates), 2))  # compiles
        way.session.state.load_state_dict(memory)
        start, events, logits = time.perf_counter(), 0, []
        for batch, outcome in islice(rank(way, candidates), count or None):
            events += batch.stop - batch.start
            logits.append(torch.cat([outcome.logits[0].unsqueeze(1), outcome.ranked], 1))
        seconds = time.perf_counter() - start
    torch.save(torch.cat(logits), out)
    print(json.dumps({"events": events, "seconds": seconds}))


def first_event(way: Staged) -> int:
    """Return the first event that is ranked."""
    return len(way.session.stream) * 70 // 100


def rank(way: Staged, candidates: int) -> Iterator[tuple[Batch, Any]]:
    """Yield batches and their outcomes."""
    session, generator = way.session, torch.Generator().manual_seed(0)
    destinations = torch.unique(session.stream.dst)
    session.model.eval()

    def with_candidates(batch: Batch) -> Batch:
        true = session.stream.dst[batch.start : batch.stop].unsqueeze(1)
        shape = (true.shape[0], candidates)
        places = torch.randint(destinations.numel() - 1, shape, generator=generator)
        others = destinations[places + (destinations[places] >= true).long()]
        return replace(batch, candidates=others)

    ends = first_event(way), len(session.stream)
    items = batches(*ends, session.size, session.negatives, Purpose.EVAL_NEGATIVES, 0)
    for work in in_turn(way.stages.scoring(), map(with_candidates, items)):
        yield work.batch, work.outcome


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:7]), sys.argv[7])
