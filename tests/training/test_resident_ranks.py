"""Resident runs of several ranks on the CPU: they compute what one process computes, staged and resident."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.distributed.ranks import ALONE, Ranks, Traffic
from mspipe_triton.iteration.scene import ALL, Candidates
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import enable_fusion
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.way import Watch, carry_out
from tests.models.beside_oracle import irregular, with_node_features
from tests.processes.pool import Pool
from tests.training.on_meta import run_on_meta

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A run on `events`: settings of the model and of training, and events per batch; epochs end after `stop`."""

    model: dict[str, Any]
    train: dict[str, Any]
    size: int = 70
    stop: int = 190
    candidates: Candidates = 5
    lagged: bool = False
    events: int = 300


RANKING = {"loss": "softmax", "train_negatives": 4, "negative_kind": "mixed"}
# One for each event of validation, with a gap in every other row.
TABLE = torch.where(torch.arange(135) % 6 == 2, -1, torch.arange(135) % 12 + 25).view(45, 3)
CASES = {
    "tgn": Case({}, {}),
    "mean": Case({"aggregator": "mean"}, {}, candidates=ALL),
    "jodie": Case({"model": "jodie"}, {}),
    "apan": Case({"model": "apan", "slots": 3}, {}),
    "apan mean": Case({"model": "apan", "slots": 3, "aggregator": "mean"}, {}, lagged=True),
    "tgat": Case({"model": "tgat", "fanout": 2}, {}),
    "two layers": Case({"layers": 2, "fanout": 2}, {}, candidates=TABLE, lagged=True),
    "uniform": Case({"sampler": "uniform"}, {}, candidates=0),
    "softmax": Case({}, RANKING),
    "three events": Case({}, {}, size=3, stop=8, events=60),
    "five events": Case({"model": "apan", "slots": 2, "aggregator": "mean"}, RANKING, size=5, stop=21, events=60),
}


def stream(events: int) -> EventStream:
    """Events with ties, repeats, self-loops and node features."""
    regular = synthetic_stream(SyntheticConfig(events=300, users=25, items=12, edge_features=3, seed=1))
    return with_node_features(irregular(regular, events))


def session(case: Case, placement: str, ranks: Ranks) -> Session:
    fanout = {} if case.model.get("model") == "jodie" else {"fanout": 4}
    model = ModelConfig(**{"dim": 8, "dtype": "float64", **fanout, **case.model})
    train = TrainConfig(batch_size=case.size, placement=placement, **case.train)
    return Session.create(RunConfig(model=model, train=train), stream(case.events), ranks=ranks)


def results(case: Case, placement: str, ranks: Ranks = ALONE) -> Tensors:
    """Train, score and rank validation, and embed; returns all that this computes, by name."""
    run = session(case, placement, ranks)
    way = carry_out(run)
    losses = [way.train_epoch(epoch, stop=case.stop).losses.double() for epoch in (1, 2)]
    trained = {f"trained {name}": table.clone() for name, table in run.state.tables.items()}
    scores = [scores for _, scores in way.predict("val", case.candidates, case.lagged)]
    names = ("positives", "negatives", "ranks")
    parts = {name: torch.cat(part) for name, part in zip(names, zip(*scores, strict=True), strict=True)}
    model = {name: value.detach() for name, value in run.model.state_dict().items()}
    tensors = {"losses": torch.cat(losses), **trained, **parts, **model, **run.state.tables}
    return tensors | {"embeddings": way.embed(case.size + 1)}


def in_ranks(cases: dict[str, Case]) -> dict[str, Tensors]:
    """Return the results of resident runs that the ranks of the default group share."""
    enable_fusion(False)
    ranks = Ranks.of_group(torch.device("cpu"))
    return {name: results(case, "device", ranks) for name, case in cases.items()}


def agree(ours: Tensors, expected: Tensors, name: str) -> None:
    """Compare to 1e-9 of the largest magnitude: all compute in float64, in another order."""
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(1.0, float(value.double().abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(
            ours[key], value, rtol=0, atol=1e-9 * scale, msg=lambda text, key=key: f"{name}, {key}: {text}"
        )


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensors]:
    """The results of one process, resident."""
    return {name: results(case, "device") for name, case in CASES.items()}


def test_one_process_computes_what_stages_compute(alone: dict[str, Tensors]) -> None:
    for name, case in CASES.items():
        agree(alone[name], results(case, "host"), name)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_compute_what_one_process_computes(processes: Pool, alone: dict[str, Tensors], world: int) -> None:
    by_rank = processes(world, in_ranks, CASES, limit=300.0)
    for name in CASES:
        agree(by_rank[0][name], alone[name], name)
        for other in by_rank[1:]:
            assert all(torch.equal(value, by_rank[0][name][key]) for key, value in other[name].items()), name


def overflow(size: int, stop: int) -> tuple[torch.Tensor, list[str], Traffic]:
    """Train two epochs, of which the second does not fit in rank 1; returns losses, notes, and the first's traffic."""
    enable_fusion(False)
    ranks, notes = Ranks.of_group(torch.device("cpu")), list[str]()
    run = session(Case({}, {}, size), "device", ranks)
    resident = Resident(run, Watch(notes.append))
    losses = [resident.train_epoch(1, stop=stop).losses]
    traffic = replace(ranks.traffic)
    if ranks.rank == 1:
        steps = resident.training()
        steps.sampler.capacities, steps.scene = [1], None
    losses.append(resident.train_epoch(2, stop=stop).losses)
    return torch.cat(losses), notes, traffic


def test_all_ranks_start_over_if_one_overflows_and_send_what_the_formula_says(processes: Pool) -> None:
    size, stop, world, dim = 6, 180, 2, 8
    run = session(Case({}, {}, size), "device", ALONE)
    resident = Resident(run)
    expected = torch.cat([resident.train_epoch(epoch, stop=stop).losses for epoch in (1, 2)])
    rows = 2 * size // world
    gathered = world * (8 + rows * 8 + rows * dim * 8)
    reduced = 8 * sum(each.numel() for each in run.model.parameters() if each.grad is not None)
    for losses, notes, traffic in processes(world, overflow, size, stop, limit=300.0):
        torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)
        assert len(notes) == 1
        assert "starts over" in notes[0]
        assert traffic == Traffic(stop // size * gathered, stop // size * reduced)


@pytest.mark.parametrize("model", ["apan mean", "softmax", pytest.param("two layers", marks=pytest.mark.slow)])
def test_a_ranks_step_needs_no_values(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Run the steps of rank 1 of 4, whose messages all others send, too; a batch has fewer events than places."""
    meta = torch.device("meta")

    def gather(output: torch.Tensor, message: torch.Tensor, async_op: bool) -> None:
        output.view(-1, message.numel()).copy_(message)

    monkeypatch.setattr("mspipe_triton.distributed.ranks._all_gather", gather)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    case = replace(CASES[model], size=70)
    run_on_meta(replace(session(case, "device", ALONE), ranks=Ranks(1, 4, meta)), case.size)
