"""Resident training on the CPU: the static shapes compute what the stages compute, wait for nothing, and start over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mspipe_triton.config import ModelConfig, RunConfig, RunSettings, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.errors import TrainingError
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.iteration.passes import EmbedPass, ScorePass, TrainPass
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.training.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.staged import Staged
from mspipe_triton.training.way import Watch, Way, carry_out, silent
from mspipe_triton.tuning import rounding
from tests.models.beside_oracle import irregular, with_node_features

SIZE = 70  # of 300 events 210 are for training, in three batches; validation and test have a partial one

MODELS: dict[str, dict[str, Any]] = {
    "tgn": {},
    "tgn mean": {"aggregator": "mean"},
    "tgn uniform, dropout": {"sampler": "uniform", "dropout": 0.3},
    "tgn of two layers, uniform, dropout": {"layers": 2, "fanout": 2, "sampler": "uniform", "dropout": 0.2},
    "tgat": {"model": "tgat", "fanout": 2},
    "jodie": {"model": "jodie"},
    "apan": {"model": "apan", "slots": 3},
    "apan mean, dropout": {"model": "apan", "slots": 3, "aggregator": "mean", "dropout": 0.2},
}


def config(placement: str, size: int = SIZE, settings: RunSettings | None = None, **model: Any) -> RunConfig:
    given = {"dim": 8, "dtype": "float64", **({} if model.get("model") == "jodie" else {"fanout": 4}), **model}
    train = TrainConfig(batch_size=size, placement=placement, negatives=5)
    return RunConfig(model=ModelConfig(**given), train=train, settings=settings)


def made(stream: EventStream, note: Callable[[str], None] = silent, **options: Any) -> tuple[Session, Resident]:
    session = Session.create(config("device", **options), stream)
    return session, Resident(session, Watch(note))


def staged_losses(session: Session, epoch: int) -> torch.Tensor:
    session.model.train()
    session.state.reset()
    size = session.config.train.batch_size
    items = batches(0, session.split.train_end, size, session.negatives, Purpose.TRAIN_NEGATIVES, epoch)
    return torch.stack([done.outcome.loss for done in in_turn(Stages(session).training(), items)])


def scored(way: Way, negatives: int) -> list[Any]:
    return [predicted for _, predicted in way.predict("val", negatives)]


def agree(ours: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """To 1e-9 of the largest magnitude: both compute in float64, in another order."""
    scale = max(1.0, float(expected.double().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9 * scale, msg=lambda text: f"{what}: {text}")


@pytest.fixture(scope="module")
def stream() -> EventStream:
    """Ties, repeats, self-loops and node features."""
    made = synthetic_stream(SyntheticConfig(events=300, users=25, items=12, edge_features=3, seed=1))
    return with_node_features(irregular(made))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [SIZE, 64])  # 64: the last batch of training is partial too
def test_static_shapes_compute_what_the_stages_compute(stream: EventStream, model: str, size: int) -> None:
    plain = Session.create(config("host", size, **MODELS[model]), stream)
    session, resident = made(stream, size=size, **MODELS[model])
    staged = Staged(plain)
    for epoch in (1, 2):
        agree(resident.train_epoch(epoch).losses, staged_losses(plain, epoch), f"losses of epoch {epoch}")
    for name, table in plain.state.tables.items():
        agree(session.state.tables[name], table, name)
    for split in ("val", "test"):
        ours, bank = predict_split(resident, split, 5)
        expected, same_bank = predict_split(staged, split, 5)
        assert bank is not None
        assert same_bank is not None
        assert torch.equal(bank.negative, same_bank.negative)
        assert ours.batch_sizes == expected.batch_sizes
        assert ours.reciprocal_ranks is not None
        assert expected.reciprocal_ranks is not None
        agree(ours.positive, expected.positive, "positives")
        agree(ours.negative, expected.negative, "negatives")
        agree(ours.reciprocal_ranks, expected.reciprocal_ranks, "reciprocal ranks")
    agree(resident.embed(240), staged.embed(240), "embeddings of the sources")


def test_tables_in_bfloat16_are_written_and_read_as_the_stages_do(stream: EventStream) -> None:
    """One batch: what differs by a rounding of float32 may round to another bfloat16, and that goes on in the next."""
    narrow = {"dtype": "float32", "precision": "bf16"}
    plain = Session.create(config("host", 210, **narrow), stream)
    session, resident = made(stream, size=210, **narrow)
    parameters = copy.deepcopy(plain.model.state_dict())
    features = {name: getattr(stream, name).bfloat16().float() for name in ("edge_features", "node_features")}

    def exactly() -> dict[str, torch.Tensor]:
        double = Session.create(config("host", 210), replace(stream, **features))
        double.model.load_state_dict(parameters)
        return {"losses": staged_losses(double, 1), **double.state.tables}

    right = rounding.expected(exactly, {"losses": staged_losses(plain, 1), **plain.state.tables})
    found = right.errors({"losses": resident.train_epoch(1).losses, **session.state.tables})
    assert all(entry["passed"] for entry in found.values()), found
    assert session.state.tables["memory"].dtype == torch.bfloat16


def test_learned_frequencies_get_their_gradients(stream: EventStream) -> None:
    """A batch only: with learned frequencies training magnifies every rounding."""
    gradients = []
    for placement in ("host", "device"):
        session = Session.create(config(placement, 200, time_encoder="learned"), replace(stream, t=stream.t // 900))
        carry_out(session).train_epoch(1)
        gradients.append({name: each.grad for name, each in session.model.named_parameters()})
    for name, expected in gradients[0].items():
        agree(gradients[1][name], expected, name)


def test_an_epoch_that_overflows_starts_over_with_more_room(stream: EventStream) -> None:
    _, expected = made(stream, size=3)
    notes: list[str] = []
    session, resident = made(stream, notes.append, size=3)
    losses = [resident.train_epoch(1).losses]
    assert not notes
    steps = resident.training()
    # As where an epoch finds more than was measured: the roots alone are sure to fit.
    steps.sampler.capacities, steps.scene = [1], None
    preparing = resident.seconds_preparing
    losses.append(resident.train_epoch(2).losses)
    assert resident.seconds_preparing > preparing, "the epoch that does not count is counted there"
    assert len(notes) == 1
    assert "starts over" in notes[0]
    assert steps.sampler.sizes[0] > 3 * 3
    for epoch in (1, 2):
        assert torch.equal(losses[epoch - 1], expected.train_epoch(epoch).losses)
    assert all(torch.equal(table, expected.session.state.tables[name]) for name, table in session.state.tables.items())


def test_preparing_changes_nothing(stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a step is run to compile it before it is captured; here it is run as often and called at each replay."""
    from mspipe_triton.iteration import cuda_graph

    _, expected = made(stream)

    def prepare(self: cuda_graph.Replay, begin: Callable[[], object]) -> None:
        for _ in range(3):
            begin()
            self.step()

    losses, scores = expected.train_epoch(1).losses, scored(expected, 5)
    monkeypatch.setattr(cuda_graph.Replay, "prepare", prepare)
    _, resident = made(stream)
    assert torch.equal(resident.train_epoch(1).losses, losses)
    for ours, others in zip(scored(resident, 5), scores, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, others, strict=True))


def test_a_checkpoint_is_restored_into_the_same_memory(stream: EventStream, tmp_path: Path) -> None:
    session, resident = made(stream)
    resident.train_epoch(1)
    save_checkpoint(tmp_path / "kept.pt", session, {"epoch": 1}, "data")
    steps = resident.training()
    tensors = [*steps.changed(), *session.state.tables.values()]
    before = [(each.data_ptr(), each.detach().clone()) for each in tensors]
    later = resident.train_epoch(2).losses
    assert not torch.equal(steps.learned()[0], before[-1][1])
    load_checkpoint(tmp_path / "kept.pt", session, "data")
    for tensor, (place, value) in zip([*steps.changed(), *session.state.tables.values()], before, strict=True):
        assert tensor.data_ptr() == place
        assert torch.equal(tensor, value)
    assert torch.equal(resident.train_epoch(2).losses, later)
    other, again = made(stream)
    load_checkpoint(tmp_path / "kept.pt", other, "data")  # an optimiser that has made no state yet
    assert torch.equal(again.train_epoch(2).losses, later)


def test_a_loss_that_is_not_finite_is_found_at_the_epochs_end(stream: EventStream) -> None:
    session, resident = made(stream)
    with torch.no_grad():
        next(session.model.parameters()).fill_(torch.nan)
    told: list[Any] = []
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, iteration"):
        resident.train(1, lambda *given: told.append(given))
    assert told == []


class _Waiting(TorchDispatchMode):
    """Refuses what a captured CUDA graph could not hold: results or shapes that the host has to look at."""

    TAGS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(tag in func.tags for tag in self.TAGS):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


TINY: dict[str, dict[str, Any]] = {
    "tgn": {"dropout": 0.1},
    "tgn of two layers": {"layers": 2, "fanout": 1},
    "jodie": {"model": "jodie"},
    "apan": {"model": "apan", "slots": 2, "fanout": 2},
    "apan mean": {"model": "apan", "slots": 2, "fanout": 1, "aggregator": "mean"},
}


@pytest.mark.parametrize("model", TINY)
@pytest.mark.usefixtures("interpreter")
def test_a_step_waits_for_nothing_and_its_kernels_compute_the_same(stream: EventStream, model: str) -> None:
    few = EventStream(*(part[:11] for part in (stream.src % 7, stream.dst % 7, stream.t, stream.edge_features)))
    options: dict[str, Any] = {"size": 4, "dim": 4, "heads": 2, **TINY[model]}
    if model == "jodie":
        del options["heads"]
    _, resident = made(few, **options)
    losses = _watched(resident, lambda: resident.train_epoch(1).losses, lambda: resident.training())
    scores = _watched(resident, lambda: scored(resident, 2), lambda: resident._scoring(2))
    launch.use_triton(None)
    _, plain = made(few, **options)
    agree(losses, plain.train_epoch(1).losses, "losses")
    for ours, expected in zip(scores, scored(plain, 2), strict=True):
        for name, *pair in zip(("positives", "negatives", "ranks"), ours, expected, strict=True):
            agree(*pair, name)


def _watched(resident: Resident, run: Callable[[], Any], prepared: Callable[[], Any]) -> Any:
    """What `run` gives, with every step of its pass, once prepared, refusing to wait."""
    steps = prepared()
    step, ran = steps.replay.step, []

    def watched() -> None:
        with _Waiting():
            step()
        ran.append(True)

    steps.replay.step = watched
    result = run()
    assert ran
    return result


@pytest.mark.parametrize("model", TINY)
@pytest.mark.usefixtures("interpreter")
def test_a_step_takes_nothing_from_another_device(stream: EventStream, model: str) -> None:
    """On the device `meta`, which has shapes alone, torch refuses operations that meet a tensor of the host."""
    session, resident = made(stream, **{"dim": 4, **TINY[model]})
    nowhere = torch.device("meta")
    session.model.to(nowhere)
    tables = {name: table.to(nowhere) for name, table in session.state.tables.items()}
    given = replace(
        resident.placed.on(nowhere), edges=session.edges.to(nowhere), state=replace(session.state, tables=tables),
        optimizer=torch.optim.SGD(session.model.parameters(), lr=0.1),
    )  # fmt: skip
    for steps in (TrainPass(given, 3), ScorePass(given, 3, 2), EmbedPass(given, 3)):
        steps.start(0, 3 * SIZE, 1)
        steps.step()
    assert all(each.grad is not None and each.grad.device == nowhere for each in session.model.parameters())
