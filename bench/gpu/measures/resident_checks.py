"""Checks of resident training: losses and scores in float64, an iteration in float32, waits, and AP."""

from __future__ import annotations

import functools
import statistics
from typing import Any

import torch

from bench.gpu.bundle.references import Results, as_expected, as_results, reference
from bench.gpu.measures.trace import profiled
from bench.gpu.setup import EVERY, WAYS, Rows, Setup, resident
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
POINTS = 0.3  # of AP that a precision may cost
RANKED = 3
VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"model": kind} for kind in EVERY},
    "tgn, aggregator mean": {"aggregator": "mean"},
    "tgn, sampler uniform": {"sampler": "uniform"},
    "tgn, layers 2": {"layers": 2},
    "tgn, dropout 0.1": {"dropout": 0.1},
}


def losses(setup: Setup, name: str, way: str) -> Rows:
    """An epoch's losses in one way to run, and scores and ranks after it, beside the CPU's serial run, in float64.

    The epoch has twelve batches, the last one partial.
    """
    stream, size, _ = _epoch(setup)
    right = serial(setup, name)
    settings = WAYS[way]
    notes = list[str]()
    run = resident(stream, setup.device, size, _double(setup, name), settings, note=notes.append)
    found = run.train_epoch(1).losses
    wrong = float(((found - right["losses"]).abs() / right["losses"].abs()).max())
    as_asked = not setup.gpu or (run.training().replay.graph is not None) == settings.captured
    row = {"model": name, "way": way, "reference_kept": right["kept"]}
    passed = setup.verdict(wrong <= TOLERANCE and as_asked)
    check = {"check": "losses", **row, "iterations": found.numel(), "relative_error": wrong, "notes": notes}
    yield "correctness", {**check, "passed": passed}
    ours, _ = predict_split(run, "val", RANKED)
    assert ours.reciprocal_ranks is not None
    scored = {"positive": ours.positive, "negative": ours.negative, "ranks": ours.reciprocal_ranks}
    wrong = max(_apart(value, right[part]) for part, value in scored.items())
    check = {"check": "scores and ranks", **row, "relative_error": wrong}
    yield "correctness", {**check, "passed": setup.verdict(wrong <= TOLERANCE)}


def serial(setup: Setup, name: str) -> Results:
    """The serial run's losses [12] on the CPU, and its scores and reciprocal ranks of validation afterwards."""
    stream, size, _ = _epoch(setup)

    def compute() -> Results:
        train = TrainConfig(batch_size=size, device="cpu", placement="host", schedule="serial")
        run = Staged(Session.create(RunConfig(model=ModelConfig(**_double(setup, name)), train=train), stream))
        found = run.train_epoch(1).losses
        scored = predict_split(run, "val", RANKED)[0]
        return {
            "losses": found, "positive": scored.positive, "negative": scored.negative,
            "ranks": scored.reciprocal_ranks,
        }  # fmt: skip

    return reference(setup, f"losses {name}", stream, compute)


def _double(setup: Setup, name: str) -> dict[str, Any]:
    """The settings of a variant in float64."""
    model = {"dtype": "float64", **_epoch(setup)[2], **VARIANTS[name]}
    if model.get("model") == "jodie":
        del model["fanout"]
    return model


def _epoch(setup: Setup) -> tuple[EventStream, int, dict[str, int]]:
    """A stream, a batch size that makes twelve batches of its training events, and widths of a model."""
    if setup.quick:
        config = SyntheticConfig(events=130, users=20, items=10, edge_features=3)
        return synthetic_stream(config), 8, {"dim": 8, "fanout": 3}
    return synthetic_stream(SyntheticConfig(events=10_000, edge_features=172)), 600, {"dim": 32, "fanout": 10}


def _apart(own: torch.Tensor, true: torch.Tensor) -> float:
    """The largest difference from a float64 truth, by its largest value (by 1 at least)."""
    return distance(own, true.double()) / max(1.0, float(true.abs().max()))


def iteration(setup: Setup, kind: str) -> Rows:
    """Loss, gradients and node tables of one iteration in float32 on the device, as far from float64 as rounding takes
    them.

    It begins with the parameters and tables that the CPU's float32 has after some batches. Time differences are short,
    since the angle of a long one is off in float32 by more than all else; and the batch is small, so that hardly ever a
    ReLU's input is so near 0 that rounding decides on which side it is.
    """
    stream, model, size = _short_iteration(setup, kind)
    with matmul_precision("highest"):
        right = one(setup, kind)
        found = as_expected(right).errors(_iterated(resident(stream, setup.device, size, model), right["held"], 12))
    passed = setup.verdict(all(entry["passed"] for entry in found.values()))
    row = {"check": "one iteration, float32", "model": kind, "reference_kept": right["kept"], "results": found}
    yield "correctness", {**row, "passed": passed}


def one(setup: Setup, kind: str) -> Results:
    """The start of one iteration of a model, and the results that it must give, by the CPU."""
    stream, model, size = _short_iteration(setup, kind)

    def compute() -> Results:
        plain = resident(stream, "cpu", size, model)
        exact = resident(stream, "cpu", size, {**model, "dtype": "float64"})
        steps = plain.training()
        steps.start(0, 6 * size, 1)
        for _ in range(6):
            steps.step()
        held = [value.detach().clone() for value in _held(plain)]
        right = expected(lambda: _iterated(exact, held, 12), _iterated(plain, held, 12))
        return {"held": held, **as_results(right)}

    with matmul_precision("highest"):
        return reference(setup, f"iteration {kind}", stream, compute)


def _short_iteration(setup: Setup, kind: str) -> tuple[EventStream, dict[str, Any], int]:
    """The stream, the model's settings and the batch size of one iteration."""
    size, widths = (8, {"dim": 8}) if setup.quick else (48, {"dim": 100})
    return _brief(20 * size, 3 if setup.quick else 172), {"model": kind, **widths}, size


def _brief(events: int, features: int) -> EventStream:
    """A stream that is over in a minute."""
    made = synthetic_stream(SyntheticConfig(events=events, users=60, items=30, edge_features=features))
    t = torch.arange(events) * 60 // events
    return EventStream(made.src, made.dst, t, made.edge_features, num_nodes=made.num_nodes, name="brief")


def _held(run: Resident) -> list[torch.Tensor]:
    """What an iteration begins with."""
    return [*run.session.model.parameters(), *run.session.state.tables.values()]


def _iterated(run: Resident, held: list[torch.Tensor], batch: int) -> dict[str, torch.Tensor]:
    """One iteration's loss and gradients, and the tables that it leaves, on the CPU; it begins with what is `held`."""
    steps, made, size = run.training(), run.session, run.session.size
    made.model.train()
    with torch.no_grad():
        for tensor, value in zip(_held(run), held, strict=True):
            tensor.copy_(value)
    steps.start(batch * size, (batch + 1) * size, 1)
    steps.replay()
    gradients = {f"d_{name}": each.grad for name, each in made.model.named_parameters()}
    found = {"loss": steps.losses[:1], **gradients, **made.state.tables}
    return {name: value.detach().to("cpu", copy=True) for name, value in found.items() if value is not None}


def waits(setup: Setup, kind: str, way: str) -> Rows:
    """That an epoch of steps waits for nothing, and that epochs take no more memory as they go on."""
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
    why = synchronises(lambda: [steps.replay() for _ in range(count)])
    row = {"check": "waits for nothing", "model": kind, "way": way, "steps": count, "why": why}
    yield "correctness", {**row, "passed": why is None}
    if steps.replay.graph is not None:
        steps.start(0, stop, 1)
        seen = profiled(steps.replay, 4)
        row = {"check": "waits in the profile", "model": kind, "way": way}
        row |= {key: seen[key] for key in ("nodes", "waits", "to_host")}
        yield "correctness", {**row, "passed": bool(seen["kernels"]) and not seen["waits"] and not seen["to_host"]}


def precision(setup: Setup, name: str) -> Rows:
    """What TF32, or tables in bfloat16, cost in AP: pairs of runs that differ in nothing else, seed by seed.

    Passed where the mean difference is within 0.3 points, or its interval of two standard errors reaches there.
    """
    seeds, epochs = (2, 1) if setup.quick else (5, 3) if setup.gpu else (2, 1)
    full, other = ([_ap(setup, each, seed, epochs) for seed in range(seeds)] for each in ("full", name))
    found = difference(full, other)
    low, high = (found["mean"] + sign * 2 * found["standard_error"] for sign in (-1, 1))
    row = {
        "check": "AP", "model": "tgn", "precision": name, "stream": setup.given_stream().name, "seeds": seeds,
        "epochs": epochs, "ap": statistics.mean(other), "ap_full": statistics.mean(full), **found,
        "interval": [low, high],
    }  # fmt: skip
    within = abs(found["mean"]) <= POINTS or (low <= POINTS and high >= -POINTS)
    yield "precision", row
    yield "correctness", {**row, "passed": setup.verdict(within)}


@functools.lru_cache(maxsize=16)
def _ap(setup: Setup, name: str, seed: int, epochs: int) -> float:
    """Test AP after so many epochs in a precision, products rounded as a run's settings have it."""
    size, model = (20, {"dim": 8, "fanout": 3}) if setup.quick else (600, {})
    with matmul_precision("highest" if name == "full" else "high"):
        run = resident(setup.given_stream(), setup.device, size, {**model, "precision": name}, seed=seed)
        for epoch in range(1, epochs + 1):
            run.train_epoch(epoch)
        predict_split(run, "val")
        scored, _ = predict_split(run, "test")
    ap = summarise(scored)["ap"]
    assert ap is not None
    return ap
