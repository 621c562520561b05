"""One epoch's batches under a schedule on the real stages, with the results that tests compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages
from mspipe_triton.pipeline.flight import Span, StageTimes
from mspipe_triton.training.staged import Staged
from mspipe_triton.training.way import Watch

BATCHES = 12


def session(stream: EventStream, size: int, model: dict[str, Any], **train_settings: Any) -> Session:
    config = RunConfig(model=ModelConfig(**model), train=TrainConfig(batch_size=size, **train_settings))
    return Session.create(config, stream)


class Run:
    """Results of batches under a schedule, from event `first` on: losses, staleness, spans and plans."""

    def __init__(
        self, run: Session, count: int = BATCHES, delays: dict[str, float] | None = None, first: int = 0
    ) -> None:
        self.spans: dict[tuple[str, int], Span] = {}
        self.plans: list[Any] = []
        way = Staged(run, Watch(replanned=lambda change, *_: self.plans.append(change.new), patience=60.0))
        _slow_down(way.stages, delays or {})
        size = run.config.train.batch_size
        stop = min(first + size * count, run.split.train_end)
        each = run.config.train.train_negatives
        items = batches(first, stop, size, run.negatives, Purpose.TRAIN_NEGATIVES, 1, each=each)
        run.model.train()
        times = _Spans(self.spans)
        results = list(way.run(items, 1, times))
        self.losses = [work.outcome.loss.item() for work in results]
        self.staleness = [work.staleness for work in results]
        self.plan = way.planner.plan
        self.state = run.state.state_dict()


class _Spans(StageTimes):
    """Stage times that also store every span."""

    def __init__(self, spans: dict[tuple[str, int], Span]) -> None:
        super().__init__()
        self.spans = spans

    def add(self, spans: Any) -> None:
        super().add(spans)
        self.spans |= {(span.stage, span.iteration): span for span in spans}


def _slow_down(stages: Stages, delays: dict[str, float]) -> None:
    """Make every stage sleep before its work."""
    plain = stages.training

    def slow(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(work: Any) -> Any:
            time.sleep(delays.get(name, 0.0))
            return function(work)

        return run

    stages.training = lambda: {name: slow(name, stage) for name, stage in plain().items()}
