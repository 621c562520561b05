"""Steps of resident passes on the device `meta`, which only has shapes: no step may need values, or mix devices."""

from __future__ import annotations

from dataclasses import replace

import torch

from mspipe_triton.iteration.passes import EmbedPass, ScorePass, TrainPass
from mspipe_triton.iteration.scene import ALL
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.resident import Resident


def run_on_meta(session: Session, size: int) -> None:
    """Train, score, rank and embed three batches of `size` events on `meta`."""
    device_session, meta = Resident(session).device_session, torch.device("meta")
    session.model.to(meta)
    tables = {name: table.to(meta) for name, table in session.state.tables.items()}
    sgd = torch.optim.SGD(session.model.parameters(), lr=0.1)
    meta_session = replace(
        device_session.on(meta), edges=session.edges.to(meta), state=replace(session.state, tables=tables),
        make_optimizer=lambda: sgd,
    )  # fmt: skip
    scoring = [ScorePass(meta_session, 3, 2), ScorePass(meta_session, 3, ALL, lagged=True)]
    scoring.append(ScorePass(meta_session, 3, torch.empty((3 * size, 4), dtype=torch.int64)))
    for steps in (TrainPass(meta_session, 3), *scoring, EmbedPass(meta_session, 3)):
        steps.start(0, 3 * size, 1)
        steps.step()
    assert all(each.grad is not None and each.grad.device == meta for each in session.model.parameters())
