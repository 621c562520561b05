"""Steps of resident passes on the device `meta`, which only has shapes: no step may need values, or mix devices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from mspipe_triton.iteration.optimizer import Clipping
from mspipe_triton.iteration.passes import EmbedPass, ScorePass, TrainPass
from mspipe_triton.iteration.scene import ALL
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.resident import Resident


class _Descent(torch.optim.Optimizer):
    """Gradient descent with a rate that may be a tensor; torch's own optimisers have no such step on `meta`."""

    def __init__(self, parameters: Iterable[torch.Tensor], rate: float | torch.Tensor) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for each in group["params"]:
                each.sub_(each.grad * group["lr"])


def run_on_meta(session: Session, size: int) -> None:
    """Train, score, rank and embed three batches of `size` events on `meta`."""
    device_session, meta = Resident(session).device_session, torch.device("meta")
    session.model.to(meta)
    tables = {name: table.to(meta) for name, table in session.state.tables.items()}
    clipping = Clipping(list(session.model.parameters()), 0.1)
    optimizer = _Descent(session.model.parameters(), session.rates.initial(meta))
    optimizer.register_step_pre_hook(clipping)
    meta_session = replace(
        device_session.on(meta), edges=session.edges.to(meta), state=replace(session.state, tables=tables),
        make_optimizer=lambda: optimizer, clipping=clipping,
    )  # fmt: skip
    scoring = [ScorePass(meta_session, 3, 2), ScorePass(meta_session, 3, ALL, lagged=True)]
    scoring.append(ScorePass(meta_session, 3, torch.empty((3 * size, 4), dtype=torch.int64)))
    for steps in (TrainPass(meta_session, 3), *scoring, EmbedPass(meta_session, 3)):
        steps.start(0, 3 * size, 1)
        steps.step()
    assert all(each.grad is not None and each.grad.device == meta for each in session.model.parameters())
