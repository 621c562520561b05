"""The gate that a run's settings must pass before timing: they must compute the same as the plain run."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.head import first_events
from mspipe_triton.errors import TrainingError
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.settings import default_settings, process_settings
from mspipe_triton.training.way import carry_out
from mspipe_triton.tuning.kernels.gate import poisoned
from mspipe_triton.tuning.rounding import Errors, Expected, Named, expected

ITERATIONS, EVENTS = 5, 200


class RunGate:
    """Compares the results of settings over the first iterations of a stream with the results in float64.

    The parameters stay fixed (a learning rate of 0), so that losses, gradients and node state are smooth functions of
    the compared values. Results may be off by the rounding error (`rounding.expected`), or by twice the error of the
    shipped settings if that is larger, as with tables in bfloat16. One check covers every precision: it computes in
    float32, also for a run in float64, on tables in the run's own type.

    Args:
        config: of the run to tune. The results of `mspipe` depend on timing, so it is checked as `exact`.
        stream: the first batches of it are used.
        poison: fill outputs with NaN before kernels write them; False where nothing writes them.
        default: the shipped settings, if they are not those of the config.
    """

    def __init__(
        self, config: RunConfig, stream: EventStream, poison: bool = True, default: RunSettings | None = None
    ) -> None:
        self.poison = poison
        stale = config.train.schedule == "mspipe"
        self.schedule = "exact" if stale else None
        schedule, size = "exact" if stale else config.train.schedule, min(config.train.batch_size, EVENTS)
        plain: dict[str, Any] = {"mitigation": "none", "lr_schedule": "constant", "warmup": 0, "clip_norm": 0.0}
        train = replace(config.train, schedule=schedule, batch_size=size, **plain)
        self.config = replace(config, train=train, model=replace(config.model, dtype="float32"))
        self.stream = first_events(stream, (ITERATIONS + 1) * train.batch_size + 2)
        self.default = default or default_settings(train)

    def refusal(self, settings: RunSettings) -> str | None:
        """Return why these settings must not be used, in one line, or None if their results are right."""
        if self.schedule is not None:
            settings = replace(settings, schedule=self.schedule)
        expectation, shipped = self.reference
        try:
            results = self._results(self.config, settings)
        except TrainingError as error:  # a loss that is not finite
            return str(error).partition(";")[0]
        for name, entry in expectation.errors(results).items():
            allowed = max(entry["allowed"], 2 * shipped[name]["error"])
            if not entry["error"] <= allowed:
                return f"{name} is off by {entry['error']:.2g}, where {allowed:.2g} is allowed"
        return None

    @functools.cached_property
    def reference(self) -> tuple[Expected, Errors]:
        """The expected results of a run, and the errors of the shipped settings.

        Every schedule but `fixed` computes the same as `serial`, whose stages run on the thread that draws roundings.
        """
        plain = replace(self.default, fused=False, schedule="fixed" if self.default.schedule == "fixed" else "serial")
        exact = replace(
            self.config,
            model=replace(self.config.model, dtype="float64", precision="full"),
            train=replace(self.config.train, placement="auto", schedule=plain.schedule),
        )
        like = self._session(replace(self.config, train=exact.train), plain)
        shipped = self._results(self.config, self.default)
        expectation = expected(lambda: self._results(exact, plain, like), shipped, draws=2)
        return expectation, expectation.errors(shipped)

    def _session(self, config: RunConfig, settings: RunSettings) -> Session:
        return Session.create(replace(config, settings=settings), self.stream)

    def _results(self, config: RunConfig, settings: RunSettings, like: Session | None = None) -> Named:
        """Return losses, the last iteration's gradients and the node tables, with parameters of `like` if passed."""
        config = replace(config, settings=settings)
        with process_settings(config):
            session = self._session(config, settings)
            if like is not None:
                session.model.load_state_dict(like.model.state_dict())
            for group in session.optimizer.param_groups:
                group["lr"] = 0.0
            way = carry_out(session)
            # A resident run trains on the whole head, including the last, partial batch.
            stop = None if self.default.resident else min(ITERATIONS * session.size, session.split.train_end)
            with poisoned() if self.poison else nullcontext():
                losses = way.train_epoch(1, stop=stop).losses
        gradients = [weight.grad.cpu().flatten() for weight in session.model.parameters() if weight.grad is not None]
        tables = {name: table.cpu() for name, table in session.state.tables.items()}
        return {
            "the loss": losses,
            "the gradient": torch.cat(gradients),
            **{f"node table {name}": table for name, table in tables.items()},
        }
