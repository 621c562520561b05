"""Resident training on the CPU: static shapes compute the stages' results, never wait, and start over on overflow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.source import Contents
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.errors import TrainingError
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.scene import ALL, Candidates
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.training.checkpoint import load_checkpoint, save_checkpoint
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.staged import Staged
from mspipe_triton.training.way import Watch, Way, carry_out, silent
from mspipe_triton.tuning import rounding
from tests.models.beside_oracle import irregular, with_node_features
from tests.training.on_meta import run_on_meta

SIZE = 70  # of 300 events 210 are for training, in three batches; validation and test have a partial one
RANKING = {"loss": "softmax", "train_negatives": 4, "negative_kind": "mixed"}
MODELS: dict[str, dict[str, Any]] = {
    "tgn": {},
    "tgn mean": {"aggregator": "mean"},
    "tgn uniform, dropout": {"sampler": "uniform", "dropout": 0.3},
    "tgn of two layers, uniform, dropout": {"layers": 2, "fanout": 2, "sampler": "uniform", "dropout": 0.2},
    "tgat": {"model": "tgat", "fanout": 2},
    "jodie": {"model": "jodie"},
    "apan": {"model": "apan", "slots": 3},
    "apan mean, dropout": {"model": "apan", "slots": 3, "aggregator": "mean", "dropout": 0.2},
    "tgn, softmax": {"train": RANKING},
    "tgat, softmax, no features of pairs": {"model": "tgat", "fanout": 2, "pair_features": False, "train": RANKING},
}


def config(
    placement: str, size: int = SIZE, settings: RunSettings | None = None, train: dict[str, Any] | None = None,
    **model: Any,
) -> RunConfig:  # fmt: skip
    options = {"dim": 8, "dtype": "float64", **({} if model.get("model") == "jodie" else {"fanout": 4}), **model}
    train_config = TrainConfig(batch_size=size, placement=placement, negatives=5, **(train or {}))
    return RunConfig(model=ModelConfig(**options), train=train_config, settings=settings)


def resident_run(stream: EventStream, note: Callable[[str], None] = silent, **options: Any) -> tuple[Session, Resident]:
    session = Session.create(config("device", **options), stream)
    return session, Resident(session, Watch(note))


def session_by_torch(stream: EventStream, **options: Any) -> Session:
    """A session whose pairs are weighted by torch, since the interpreter takes long."""
    launch.use_triton(None)
    session = Session.create(config("device", **options), stream)
    launch.use_triton(True)
    return session


def staged_losses(session: Session, epoch: int) -> torch.Tensor:
    session.model.train()
    session.state.reset()
    items = Staged(session).training_batches(epoch)
    return torch.stack([work.outcome.loss for work in in_turn(Stages(session).training(), items)])


def validation_scores(way: Way, candidates: Candidates, lagged: bool = False) -> list[Any]:
    return [scores for _, scores in way.predict("val", candidates, lagged)]


def agree(ours: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Compare to 1e-9 of the largest magnitude: both compute in float64, in another order."""
    scale = max(1.0, float(expected.double().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9 * scale, msg=lambda text: f"{name}: {text}")


@pytest.fixture(scope="module")
def stream() -> EventStream:
    """Events with ties, repeats, self-loops and node features."""
    events = synthetic_stream(SyntheticConfig(events=300, users=25, items=12, edge_features=3, seed=1))
    return with_node_features(irregular(events))


@pytest.mark.sample(2)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [SIZE, 64])  # 64: the last batch of training is partial too
def test_static_shapes_compute_the_stages_results(stream: EventStream, model: str, size: int) -> None:
    plain = Session.create(config("host", size, **MODELS[model]), stream)
    session, resident = resident_run(stream, size=size, **MODELS[model])
    staged = Staged(plain)
    for epoch in (1, 2):
        agree(resident.train_epoch(epoch).losses, staged_losses(plain, epoch), f"losses of epoch {epoch}")
    for name, table in plain.state.tables.items():
        agree(session.state.tables[name], table, name)
    for split in ("val", "test"):
        ours, _ = predict_split(resident, split, 5)
        expected, _ = predict_split(staged, split, 5)
        assert ours.batch_sizes == expected.batch_sizes
        assert ours.reciprocal_ranks is not None
        assert expected.reciprocal_ranks is not None
        agree(ours.positive, expected.positive, "positives")
        agree(ours.negative, expected.negative, "negatives")
        agree(ours.reciprocal_ranks, expected.reciprocal_ranks, "reciprocal ranks")
    agree(resident.embed(240), staged.embed(240), "embeddings of the sources")


@pytest.mark.slow
def test_tables_in_bfloat16_are_written_and_read_as_in_stages(stream: EventStream) -> None:
    """Compare one batch: float32 rounding errors may flip a rounding to bfloat16, which would change later batches."""
    narrow = {"dtype": "float32", "precision": "bf16"}
    plain = Session.create(config("host", 210, **narrow), stream)
    session, resident = resident_run(stream, size=210, **narrow)
    parameters = copy.deepcopy(plain.model.state_dict())
    features = {name: getattr(stream, name).bfloat16().float() for name in ("edge_features", "node_features")}

    def exactly() -> dict[str, torch.Tensor]:
        double = Session.create(config("host", 210), replace(stream, **features))
        double.model.load_state_dict(parameters)
        return {"losses": staged_losses(double, 1), **double.state.tables}

    expected = rounding.expected(exactly, {"losses": staged_losses(plain, 1), **plain.state.tables})
    errors = expected.errors({"losses": resident.train_epoch(1).losses, **session.state.tables})
    assert all(entry["passed"] for entry in errors.values()), errors
    assert session.state.tables["memory"].dtype == torch.bfloat16


def test_learned_frequencies_get_their_gradients(stream: EventStream) -> None:
    """Compare one batch: with learned frequencies training magnifies every rounding error."""
    gradients = []
    for placement in ("host", "device"):
        session = Session.create(config(placement, 110, time_encoder="learned"), replace(stream, t=stream.t // 900))
        carry_out(session).train_epoch(1)
        gradients.append({name: each.grad for name, each in session.model.named_parameters()})
    for name, expected in gradients[0].items():
        agree(gradients[1][name], expected, name)


def test_an_epoch_that_overflows_starts_over_with_more_room(stream: EventStream) -> None:
    _, expected = resident_run(stream, size=3)
    notes: list[str] = []
    session, resident = resident_run(stream, notes.append, size=3)
    losses = [resident.train_epoch(1).losses]
    assert not notes
    steps = resident.training()
    # As if an epoch had more nodes than were measured: only the roots are sure to fit.
    steps.sampler.capacities, steps.scene = [1], None
    preparing = resident.seconds_preparing
    losses.append(resident.train_epoch(2).losses)
    assert resident.seconds_preparing > preparing, "the discarded epoch counts as preparing"
    assert len(notes) == 1
    assert "starts over" in notes[0]
    assert steps.sampler.sizes[0] > 3 * 3
    for epoch in (1, 2):
        assert torch.equal(losses[epoch - 1], expected.train_epoch(epoch).losses)
    assert all(torch.equal(table, expected.session.state.tables[name]) for name, table in session.state.tables.items())


def test_preparing_changes_no_results(stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a step as often as a GPU does to compile and capture it, and call it at each replay."""
    from mspipe_triton.iteration import cuda_graph

    _, expected = resident_run(stream)

    def prepare(self: cuda_graph.Replay, begin: Callable[[], object]) -> None:
        for _ in range(3):
            begin()
            self.step()

    losses, scores = expected.train_epoch(1).losses, validation_scores(expected, 5)
    monkeypatch.setattr(cuda_graph.Replay, "prepare", prepare)
    _, resident = resident_run(stream)
    assert torch.equal(resident.train_epoch(1).losses, losses)
    for ours, others in zip(validation_scores(resident, 5), scores, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, others, strict=True))


def test_a_checkpoint_is_restored_into_the_same_memory(stream: EventStream, tmp_path: Path) -> None:
    session, resident = resident_run(stream)
    resident.train_epoch(1)
    save_checkpoint(tmp_path / "first.pt", session, {"epoch": 1}, Contents.of(session.stream))
    steps = resident.training()
    tensors = [*steps.state_tensors(), *session.state.tables.values()]
    before = [(each.data_ptr(), each.detach().clone()) for each in tensors]
    later = resident.train_epoch(2).losses
    assert not torch.equal(steps.model_tensors()[0], before[-1][1])
    load_checkpoint(tmp_path / "first.pt", session)
    for tensor, (address, value) in zip([*steps.state_tensors(), *session.state.tables.values()], before, strict=True):
        assert tensor.data_ptr() == address
        assert torch.equal(tensor, value)
    assert torch.equal(resident.train_epoch(2).losses, later)
    other, again = resident_run(stream)
    load_checkpoint(tmp_path / "first.pt", other)  # into an optimiser without state
    assert torch.equal(again.train_epoch(2).losses, later)


def test_a_loss_that_is_not_finite_is_reported_at_the_epochs_end(stream: EventStream) -> None:
    session, resident = resident_run(stream)
    with torch.no_grad():
        next(session.model.parameters()).fill_(torch.nan)
    calls: list[Any] = []
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, iteration"):
        resident.train(1, lambda *arguments: calls.append(arguments))
    assert calls == []


class _RefuseWaits(TorchDispatchMode):
    """Refuse operations that a CUDA graph cannot capture: those with results or shapes that the host must read."""

    TAGS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(tag in func.tags for tag in self.TAGS):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


LEARNING = {"lr_schedule": "cosine", "warmup": 1, "clip_norm": 0.1, "weight_decay": 0.1}
TINY: dict[str, dict[str, Any]] = {
    "tgn": {"dropout": 0.1},
    "tgn of two layers": {"layers": 2, "fanout": 1},
    "jodie": {"model": "jodie", "train": LEARNING},
    "apan": {"model": "apan", "slots": 2, "fanout": 2},
    "apan mean": {"model": "apan", "slots": 2, "fanout": 1, "aggregator": "mean"},
    "tgn, softmax": {"fanout": 1, "train": RANKING},
}
# The interpreter takes long; these launch most kernels of the others, too.
QUICK = ("jodie",)


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TINY]
)
@pytest.mark.usefixtures("interpreter")
def test_a_step_never_waits_and_its_kernels_compute_the_same(stream: EventStream, model: str) -> None:
    parts = (stream.src % 7, stream.dst % 7, stream.t, stream.edge_features)
    few = EventStream(*(part[:11] for part in parts), borders=Split(6, 10))
    options: dict[str, Any] = {"size": 4, "dim": 4, "heads": 2, **TINY[model]}
    if model == "jodie":
        del options["heads"]
    resident = Resident(session_by_torch(few, **options), Watch(silent))
    losses = _run_without_waits(lambda: resident.train_epoch(1).losses, resident.training)
    scores = _run_without_waits(lambda: validation_scores(resident, 2), lambda: resident._scoring("val", 2, False))
    scores += _run_without_waits(
        lambda: validation_scores(resident, ALL, True), lambda: resident._scoring("val", ALL, True)
    )
    launch.use_triton(None)
    _, plain = resident_run(few, **options)
    agree(losses, plain.train_epoch(1).losses, "losses")
    expected_scores = validation_scores(plain, 2) + validation_scores(plain, ALL, True)
    for ours, expected in zip(scores, expected_scores, strict=True):
        for name, *pair in zip(("positives", "negatives", "ranks"), ours, expected, strict=True):
            agree(*pair, name)


def _run_without_waits(run: Callable[[], Any], prepare: Callable[[], Any]) -> Any:
    """Return the result of `run`, in which each step of the pass that `prepare` returns may not wait."""
    steps = prepare()
    step, calls = steps.replay.step, []

    def step_without_waits() -> None:
        with _RefuseWaits():
            step()
        calls.append(True)

    steps.replay.step = step_without_waits
    result = run()
    assert calls
    return result


@pytest.mark.parametrize("model", TINY)
@pytest.mark.usefixtures("interpreter")
def test_a_step_uses_no_tensor_of_another_device(stream: EventStream, model: str) -> None:
    run_on_meta(session_by_torch(stream, **{"dim": 4, **TINY[model]}), SIZE)
