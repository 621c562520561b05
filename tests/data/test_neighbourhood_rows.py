"""Training on neighbourhoods with one row per neighbour slot, against the same training on distinct nodes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from tests.training.schedule_run import Run, session

BATCHES = 10
# A gradient groups the same terms differently: one rounding per term of 90 points, their slots and their slots' slots.
TOLERANCE = 90 * (1 + 4 + 4 * 4) * torch.finfo(torch.float64).eps

MODEL = {"model": "tgn", "dim": 8, "fanout": 4, "dtype": "float64", "dropout": 0.2}
MODELS: dict[str, dict[str, Any]] = {
    "tgn": MODEL,
    "tgn mean uniform": {**MODEL, "aggregator": "mean", "sampler": "uniform"},
    "tgn of two layers": {**MODEL, "layers": 2},
    "tgat": {**MODEL, "model": "tgat"},
    "jodie": {"model": "jodie", "dim": 8, "dtype": "float64"},
    "apan": {**MODEL, "model": "apan", "slots": 3},
    "apan mean": {**MODEL, "model": "apan", "slots": 3, "aggregator": "mean"},
}


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@functools.cache
def busy() -> EventStream:
    """Few nodes, so that neighbours repeat and batches in flight share most rows; node features and self-loops."""
    stream = synthetic_stream(SyntheticConfig(events=600, users=20, items=10, edge_features=2, seed=3))
    dst = stream.dst.clone()
    dst[::19] = stream.src[::19]
    features = torch.randn(stream.num_nodes, 3, generator=torch.Generator().manual_seed(0))
    return replace(stream, dst=dst, node_features=features)


@dataclass
class Outcome:
    """Results of ten batches: losses, gradients of every step, tables by name, parameters, and number of rows read."""

    losses: torch.Tensor
    grads: torch.Tensor
    tables: dict[str, torch.Tensor]
    parameters: torch.Tensor
    rows: int


def train(stream: EventStream, model: str, schedule: str, deduplicate: str) -> Outcome:
    setup = session(stream, 30, MODELS[model], schedule=schedule)
    setup = replace(setup, sampler=replace(setup.sampler, deduplicate=deduplicate))
    parameters, read = list(setup.model.parameters()), setup.state.read
    grads: list[torch.Tensor] = []
    rows: list[int] = []

    def count_rows(nodes: torch.Tensor, *others: Any) -> Any:
        rows.append(nodes.numel())
        return read(nodes, *others)

    def keep(*_: Any) -> None:
        grads.append(
            torch.cat([torch.zeros_like(p).view(-1) if p.grad is None else p.grad.view(-1) for p in parameters])
        )

    setup.state.read = count_rows  # type: ignore[method-assign]  # counts calls
    setup.optimizer.register_step_pre_hook(keep)
    run = Run(setup, BATCHES, {"update": 0.003})
    everything = torch.cat([p.detach().view(-1) for p in parameters])
    losses = torch.tensor(run.losses, dtype=torch.float64)
    return Outcome(losses, torch.stack(grads), run.state, everything, sum(rows))


@functools.cache
def on_distinct_nodes(model: str) -> Outcome:
    return train(busy(), model, "serial", "all")


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference relative to the largest value, or to 1 if that is larger."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1))


@pytest.mark.parametrize("schedule", ["serial", "exact"])
@pytest.mark.parametrize("model", MODELS)
def test_one_row_per_slot_trains_alike(model: str, schedule: str) -> None:
    expected, result = on_distinct_nodes(model), train(busy(), model, schedule, "roots")
    rows = result.rows / expected.rows
    assert rows == 1 if MODELS[model]["model"] in ("jodie", "apan") else rows > 2, (
        "only models with neighbours have more rows"
    )
    assert result.tables.keys() == expected.tables.keys()
    errors = {name: error(table, expected.tables[name]) for name, table in result.tables.items()}
    for name in ("losses", "grads", "parameters"):
        errors[name] = error(getattr(result, name), getattr(expected, name))
    assert max(errors.values()) <= TOLERANCE, errors
