"""Checks of resident training: losses and scores in float64, an iteration in float32, waits, and AP."""

from __future__ import annotations

import functools
import statistics
from typing import Any

import torch

from bench.gpu.bundle.references import Results, as_expected, as_results, reference
from bench.gpu.measures.trace import profile
from bench.gpu.setup import ALL_MODELS, WAYS, Rows, Setup, resident
from bench.roofline import matmul_precision
from bench.studies.precision import difference
from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.evaluation.evaluate import predict_split
from mspipe_triton.evaluation.metrics import summarise
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.staged import Staged
from mspipe_triton.tuning.kernels.operations import synchronises
from mspipe_triton.tuning.rounding import distance, expected

TOLERANCE = 1e-9  # relative, in float64
MAX_POINTS = 0.3  # of AP that a precision may cost
RANKED = 3
VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"model": kind} for kind in ALL_MODELS},
    "tgn, aggregator mean": {"aggregator": "mean"},
    "tgn, sampler uniform": {"sampler": "uniform"},
    "tgn, layers 2": {"layers": 2},
    "tgn, dropout 0.1": {"dropout": 0.1},
}


def losses(setup: Setup, name: str, way: str) -> Rows:
    """Compare an epoch's losses, then scores and ranks, with the CPU's serial run in float64, for one way to run.

    The epoch has twelve batches, the last one partial.
    """
    stream, size, _ = _epoch(setup)
    truth = serial_run(setup, name)
    settings = WAYS[way]
    notes = list[str]()
    run = resident(stream, setup.device, size, _float64_model(setup, name), settings, note=notes.append)
    actual = run.train_epoch(1).losses
    error = float(((actual - truth["losses"]).abs() / truth["losses"].abs()).max())
    same_way = not setup.gpu or (run.training().replay.graph is not None) == settings.captured
    case = {"model": name, "way": way, "reference_kept": truth["kept"]}
    passed = setup.verdict(error <= TOLERANCE and same_way)
    row = {"check": "losses", **case, "iterations": actual.numel(), "relative_error": error, "notes": notes}
    yield "correctness", {**row, "passed": passed}
    prediction, _ = predict_split(run, "val", RANKED)
    ranks = prediction.reciprocal_ranks
    assert ranks is not None
    scores = {"positive": prediction.positive, "negative": prediction.negative, "ranks": ranks}
    error = max(_relative_distance(value, truth[part]) for part, value in scores.items())
    row = {"check": "scores and ranks", **case, "relative_error": error}
    yield "correctness", {**row, "passed": setup.verdict(error <= TOLERANCE)}


def serial_run(setup: Setup, name: str) -> Results:
    """Return the serial run's losses [12] on the CPU, then its validation scores and reciprocal ranks."""
    stream, size, _ = _epoch(setup)

    def compute() -> Results:
        train = TrainConfig(batch_size=size, device="cpu", placement="host", schedule="serial")
        run = Staged(Session.create(RunConfig(model=ModelConfig(**_float64_model(setup, name)), train=train), stream))
        losses = run.train_epoch(1).losses
        scores = predict_split(run, "val", RANKED)[0]
        return {
            "losses": losses, "positive": scores.positive, "negative": scores.negative,
            "ranks": scores.reciprocal_ranks,
        }  # fmt: skip

    return reference(setup, f"losses {name}", stream, compute)


def _float64_model(setup: Setup, name: str) -> dict[str, Any]:
    """Return a variant's model settings in float64."""
    model = {"dtype": "float64", **_epoch(setup)[2], **VARIANTS[name]}
    if model.get("model") == "jodie":
        del model["fanout"]
    return model


def _epoch(setup: Setup) -> tuple[EventStream, int, dict[str, int]]:
    """Return a stream, a batch size that gives twelve training batches, and a model's widths."""
    if setup.quick:
        config = SyntheticConfig(events=130, users=20, items=10, edge_features=3)
        return synthetic_stream(config), 8, {"dim": 8, "fanout": 3}
    return synthetic_stream(SyntheticConfig(events=10_000, edge_features=172)), 600, {"dim": 32, "fanout": 10}


def _relative_distance(actual: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the largest difference from a float64 truth, divided by the truth's largest value (at least 1)."""
    return distance(actual, truth.double()) / max(1.0, float(truth.abs().max()))


def iteration(setup: Setup, kind: str) -> Rows:
    """Check loss, gradients and node tables of one float32 iteration: as close to float64 as rounding allows.

    It starts from the parameters and tables that float32 on the CPU has after some batches. Time differences are short,
    because in float32 the angle of a long one has the largest error of all. The batch is small, so that rounding hardly
    ever changes the sign of a ReLU's input.
    """
    stream, model, size = _short_iteration(setup, kind)
    with matmul_precision("highest"):
        truth = reference_iteration(setup, kind)
        run = resident(stream, setup.device, size, model)
        errors = as_expected(truth).errors(_iterate(run, truth["held"], 12))
    passed = setup.verdict(all(entry["passed"] for entry in errors.values()))
    row = {"check": "one iteration, float32", "model": kind, "reference_kept": truth["kept"], "results": errors}
    yield "correctness", {**row, "passed": passed}


def reference_iteration(setup: Setup, kind: str) -> Results:
    """Return the tensors that one iteration of a model starts from, and its expected results, computed on the CPU."""
    stream, model, size = _short_iteration(setup, kind)

    def compute() -> Results:
        plain = resident(stream, "cpu", size, model)
        exact = resident(stream, "cpu", size, {**model, "dtype": "float64"})
        steps = plain.training()
        steps.start(0, 6 * size, 1)
        for _ in range(6):
            steps.step()
        start = [value.detach().clone() for value in _tensors(plain)]
        truth = expected(lambda: _iterate(exact, start, 12), _iterate(plain, start, 12))
        return {"held": start, **as_results(truth)}

    with matmul_precision("highest"):
        return reference(setup, f"iteration {kind}", stream, compute)


def _short_iteration(setup: Setup, kind: str) -> tuple[EventStream, dict[str, Any], int]:
    """Return the stream, the model's settings and the batch size of one iteration."""
    size, widths = (8, {"dim": 8}) if setup.quick else (48, {"dim": 100})
    return _short_stream(20 * size, 3 if setup.quick else 172), {"model": kind, **widths}, size


def _short_stream(events: int, features: int) -> EventStream:
    """Generate a stream whose times span one minute."""
    stream = synthetic_stream(SyntheticConfig(events=events, users=60, items=30, edge_features=features))
    t = torch.arange(events) * 60 // events
    return EventStream(stream.src, stream.dst, t, stream.edge_features, num_nodes=stream.num_nodes, name="brief")


def _tensors(run: Resident) -> list[torch.Tensor]:
    """List a run's parameters and node tables."""
    return [*run.session.model.parameters(), *run.session.state.tables.values()]


def _iterate(run: Resident, start: list[torch.Tensor], batch: int) -> dict[str, torch.Tensor]:
    """Run one iteration from the tensors `start`; return its loss, gradients and updated tables, on the CPU."""
    steps, session, size = run.training(), run.session, run.session.size
    session.model.train()
    with torch.no_grad():
        for tensor, value in zip(_tensors(run), start, strict=True):
            tensor.copy_(value)
    steps.start(batch * size, (batch + 1) * size, 1)
    steps.replay()
    gradients = {f"d_{name}": parameter.grad for name, parameter in session.model.named_parameters()}
    results = {"loss": steps.losses[:1], **gradients, **session.state.tables}
    return {name: value.detach().to("cpu", copy=True) for name, value in results.items() if value is not None}


def waits(setup: Setup, kind: str, way: str) -> Rows:
    """Check that an epoch never waits for the device, and that memory does not grow from epoch to epoch."""
    stream, size, widths = _epoch(setup)
    run = resident(stream, setup.device, size, {"model": kind, "dim": widths["dim"]}, WAYS[way])
    allocated, stop = list[int](), run.session.split.train_end
    if not setup.gpu:
        run.train_epoch(1)
        yield "skipped", {"part": "waits", "case": f"{kind}, {way}", "why": "there is no GPU to wait for"}
        return
    for epoch in range(1, 5):
        run.train_epoch(epoch)
        allocated.append(torch.cuda.memory_allocated())
    row = {"check": "memory stays", "model": kind, "way": way, "bytes_by_epoch": allocated}
    yield "correctness", {**row, "passed": allocated[1] == allocated[3]}
    steps = run.training()
    count = steps.start(0, stop, 1)
    wait = synchronises(lambda: [steps.replay() for _ in range(count)])
    row = {"check": "waits for nothing", "model": kind, "way": way, "steps": count, "why": wait}
    yield "correctness", {**row, "passed": wait is None}
    if steps.replay.graph is not None:
        steps.start(0, stop, 1)
        trace = profile(steps.replay, 4)
        row = {"check": "waits in the profile", "model": kind, "way": way}
        row |= {key: trace[key] for key in ("nodes", "waits", "to_host")}
        yield "correctness", {**row, "passed": bool(trace["kernels"]) and not trace["waits"] and not trace["to_host"]}


def precision(setup: Setup, name: str) -> Rows:
    """Measure the AP that TF32, or tables in bfloat16, cost: one pair of runs per seed, equal in all other settings.

    Passes if the mean difference, or part of its interval of two standard errors, is within 0.3 points.
    """
    seeds, epochs = (2, 1) if setup.quick else (5, 3) if setup.gpu else (2, 1)
    full, other = ([_ap(setup, each, seed, epochs) for seed in range(seeds)] for each in ("full", name))
    cost = difference(full, other)
    low, high = (cost["mean"] + sign * 2 * cost["standard_error"] for sign in (-1, 1))
    row = {
        "check": "AP", "model": "tgn", "precision": name, "stream": setup.data_stream().name, "seeds": seeds,
        "epochs": epochs, "ap": statistics.mean(other), "ap_full": statistics.mean(full), **cost,
        "interval": [low, high],
    }  # fmt: skip
    within = abs(cost["mean"]) <= MAX_POINTS or (low <= MAX_POINTS and high >= -MAX_POINTS)
    yield "precision", row
    yield "correctness", {**row, "passed": setup.verdict(within)}


@functools.lru_cache(maxsize=16)
def _ap(setup: Setup, name: str, seed: int, epochs: int) -> float:
    """Return test AP after some epochs in a precision, with the matmul setting that a run in this precision uses."""
    size, model = (20, {"dim": 8, "fanout": 3}) if setup.quick else (600, {})
    with matmul_precision("highest" if name == "full" else "high"):
        run = resident(setup.data_stream(), setup.device, size, {**model, "precision": name}, seed=seed)
        for epoch in range(1, epochs + 1):
            run.train_epoch(epoch)
        predict_split(run, "val")
        scores, _ = predict_split(run, "test")
    ap = summarise(scores)["ap"]
    assert ap is not None
    return ap
