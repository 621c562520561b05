"""The gate in front of timing a run's settings: they must compute what the plain run computes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch

from mspipe_triton.config import RunConfig, RunSettings
from mspipe_triton.data.events import EventStream, compact_ids
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.pipeline.schedules import RESIDENT
from mspipe_triton.training.batch import batches
from mspipe_triton.training.schedule import Scheduler
from mspipe_triton.training.session import Session, process_settings
from mspipe_triton.training.settings import default_settings
from mspipe_triton.tuning.gate import poisoned

ITERATIONS, EVENTS = 5, 200
Outcome = dict[str, torch.Tensor]


class RunGate:
    """Compares what settings compute over the first iterations of a stream with the same in float64.

    The parameters stay as they are (a learning rate of 0), so that losses, gradients and node state are smooth
    functions of what is compared. Errors are relative to the float64 result's norm. Those of the settings may be twice
    those of the shipped ones, or of a float32 rounding where that is more (the rule of flash-attention's tests). It
    stands in for every precision: what is computed in float64 is checked in float32, on tables as the run keeps them.

    Args:
        config: of the run to tune. `mspipe` reads what has been written by then, so it is checked as `exact`.
        stream: of which the first batches are taken.
    """

    def __init__(self, config: RunConfig, stream: EventStream) -> None:
        stale = config.train.schedule == "mspipe"
        self.schedule = "exact" if stale else None
        schedule, size = "exact" if stale else config.train.schedule, min(config.train.batch_size, EVENTS)
        train = replace(config.train, mitigation="none", schedule=schedule, batch_size=size)
        self.config = replace(config, train=train, model=replace(config.model, dtype="float32"))
        self.stream = _head(stream, -(-(ITERATIONS + 1) * train.batch_size * 100 // 70))
        self.default = default_settings(train)
        self.resident = self.default.schedule == RESIDENT
        self.known: tuple[Outcome, dict[str, float]] | None = None

    def refusal(self, settings: RunSettings) -> str | None:
        """Why these settings must not be used, in one line, or None where they compute what they should."""
        if self.schedule is not None:
            settings = replace(settings, schedule=self.schedule)
        truth, allowed = self._reference()
        for name, error in _errors(self._outcome(self.config, settings), truth).items():
            if not error <= allowed[name]:
                return f"{name} is off by {error:.2g} of its norm, where {allowed[name]:.2g} is allowed"
        return None

    def _reference(self) -> tuple[Outcome, dict[str, float]]:
        """The float64 outcome, and the error allowed for each of its parts."""
        if self.known is None:
            plain = replace(self.default, fused=False, schedule="serial" if self.resident else self.default.schedule)
            exact = replace(
                self.config,
                model=replace(self.config.model, dtype="float64", precision="full"),
                train=replace(self.config.train, placement="auto"),
            )
            truth = self._outcome(exact, plain, self._session(replace(self.config, train=exact.train), plain))
            shipped = _errors(self._outcome(self.config, self.default), truth)
            self.known = truth, {name: 2 * max(error, _EPSILON) for name, error in shipped.items()}
        return self.known

    def _session(self, config: RunConfig, settings: RunSettings) -> Session:
        return Session.create(replace(config, settings=settings), self.stream)

    def _outcome(self, config: RunConfig, settings: RunSettings, like: Session | None = None) -> Outcome:
        """Losses, the last iteration's gradients, and the nodes' tables; with the parameters of `like`, if given."""
        config = replace(config, settings=settings)
        with process_settings(config):
            session = self._session(config, settings)
            if like is not None:
                session.model.load_state_dict(like.model.state_dict())
            for group in session.optimizer.param_groups:
                group["lr"] = 0.0
            with poisoned():
                losses = self._losses(session)
        gradients = [
            weight.grad.double().cpu().flatten() for weight in session.model.parameters() if weight.grad is not None
        ]
        tables = {name: table.double().cpu() for name, table in session.state.tables.items()}
        return {
            "the loss": losses,
            "the gradient": torch.cat(gradients),
            **{f"node table {k}": v for k, v in tables.items()},
        }

    def _losses(self, session: Session) -> torch.Tensor:
        """Of the first iterations; of the whole head, its last, partial batch too, where they may run whole."""
        if session.resident is not None:
            return session.resident.train_epoch(1).losses.double()
        size, stop = session.config.train.batch_size, session.split.train_end
        stop = stop if self.resident else min(ITERATIONS * size, stop)
        items = batches(0, stop, size, session.negatives, Purpose.TRAIN_NEGATIVES, 1)
        session.model.train()
        scheduler = Scheduler(session, lambda *_: None)
        with closing(scheduler.run(items, 1, StageTimes())) as results:
            return torch.stack([done.loss.double().cpu() for done in results])


_EPSILON = torch.finfo(torch.float32).eps


def _errors(found: Outcome, truth: Outcome) -> dict[str, float]:
    """‖found − truth‖ / ‖truth‖ by part; NaN where something was left unwritten."""
    return {name: float((found[name] - value).norm() / value.norm().clamp(min=1e-300)) for name, value in truth.items()}


def _head(stream: EventStream, events: int) -> EventStream:
    """The first events, with node ids counted anew, so that the tables hold no more nodes than they touch."""
    events = min(events, len(stream))
    src, dst, ids = compact_ids(stream.src[:events].numpy(), stream.dst[:events].numpy())
    rows = None if stream.node_features is None else stream.node_features[torch.from_numpy(ids)]
    edges = None if stream.edge_features is None else stream.edge_features[:events]
    return EventStream(torch.from_numpy(src), torch.from_numpy(dst), stream.t[:events], edges, rows, name=stream.name)
