"""Embeddings that rankings keep: they rank as fresh ones do, and go stale with what they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mspipe_triton import Predictor, load
from mspipe_triton.data.events import EventStream
from tests.serving.served import columns, trained

MODELS = {"tgn": {"layers": 1}, "jodie": {}, "apan": {}, "tgat": {"layers": 1}}


@pytest.fixture(scope="module", params=MODELS)
def fresh(request: pytest.FixtureRequest, small_stream: EventStream, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of each model, as a function that loads it afresh."""
    run = trained(tmp_path_factory.mktemp("runs"), small_stream, request.param, "float64", **MODELS[request.param])
    return lambda share: load(run, stream=small_stream, share=share, at=int(small_stream.t[1100]))


def same(predictor: Predictor, time: Any, candidates: Any = None) -> None:
    """Check that kept embeddings rank as fresh ones do."""
    for source in (1, 3):
        cached, exact = (
            dict(predictor.rank(source, time, None, candidates, mode=mode)) for mode in ("cached", "exact")
        )
        assert cached.keys() == exact.keys()
        np.testing.assert_allclose([cached[each] for each in exact], list(exact.values()), rtol=1e-9, atol=1e-9)


def test_a_share_of_nothing_is_exact(fresh: Any, small_stream: EventStream) -> None:
    predictor = fresh(0)
    for event in range(1100, 1130, 3):
        same(predictor, None)
        same(predictor, predictor.time + 50)
        predictor.observe(**columns(small_stream, event, event + 3))


def test_events_make_the_embeddings_stale_that_read_them(fresh: Any, small_stream: EventStream) -> None:
    predictor = fresh(1e9)  # no embedding is ever too old
    later = predictor.time + 1000
    same(predictor, later)
    hub = small_stream.dst[:1100].mode().values.item()
    neighbour = small_stream.src[:1100][small_stream.dst[:1100] == hub][-1].item()
    unrelated = min(set(range(60)) - set(small_stream.src[:1100].tolist()), default=0)
    steps = [(unrelated, hub, 1), (neighbour, 85, 2), (hub, 85, 3), (neighbour, neighbour, 3), (5000, hub, 4)]
    for src, dst, after in steps:
        predictor.observe(src, dst, later - 500 + after, np.ones(3))
        same(predictor, later)
    for src, dst in ((1, hub), (hub, neighbour), (5001, 5002)):  # at the time of the last query
        predictor.observe(src, dst, later, np.ones(3))
        same(predictor, later)
    same(predictor, later + 1, [hub, neighbour, 5002])  # these events are neighbours only now


def test_embeddings_are_kept_while_nothing_moves(fresh: Any, small_stream: EventStream) -> None:
    predictor = fresh(1e9)
    predictor.observe(1, 70, predictor.time, np.ones(3))
    cached, later = predictor._ranking["cached"], predictor.time + 1000
    if not cached.keeps:
        return
    predictor.rank(1, later, None, mode="cached")
    every = predictor.destinations
    assert (cached.hits, cached.misses) == (0, every)
    predictor.rank(2, later + 100, None, mode="cached")
    assert (cached.hits, cached.misses) == (every, every)
    src, dst = [*small_stream.src[:1100].tolist(), 1], [*small_stream.dst[:1100].tolist(), 70]
    calm = min(set(src) - {1}, key=src.count)  # a source whose few destinations read it
    predictor.observe(calm, calm, later - 5, np.ones(3))
    predictor.rank(2, later + 100, None, mode="cached")
    near = {calm} | ({d for s, d in zip(src, dst, strict=True) if s == calm} if cached.fanout else set())
    assert 1 <= cached.misses - every <= len(near) < every
    same(predictor, later + 100, sorted(near))


def test_embeddings_are_kept_after_loading(fresh: Any) -> None:
    predictor = fresh(1e9)
    cached, later = predictor._ranking["cached"], predictor.time + 1000
    predictor.rank(1, later, None, mode="cached")
    predictor.rank(1, later, None, mode="cached")
    assert cached.hits == (predictor.destinations if cached.keeps else 0)
