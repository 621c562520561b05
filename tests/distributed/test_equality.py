"""N ranks train what one process trains: losses, weights, optimiser, node tables, scores, ranks and embeddings."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mspipe_triton.data.events import Split
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.scene import ALL, batches
from tests.distributed.cases import MODEL, MODELS, UNPAIRED, Case, Outcome, carry_out, in_ranks, session
from tests.distributed.streams import featured, hub, real
from tests.models.beside_oracle import events_of, oracle
from tests.processes.pool import Pool

EXACT = ("serial", "exact")
SOFTMAX = {"loss": "softmax", "train_negatives": 4, "negative_kind": "mixed"}


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@functools.cache
def others() -> dict[str, Case]:
    """Runs of other kinds than one epoch of each model under `serial` and `exact`, by name."""
    stream, short, exact = hub(), hub(100), {"schedule": "exact"}
    return {
        "prefetch": Case(stream, UNPAIRED, {"schedule": "prefetch"}),
        "fixed": Case(stream, UNPAIRED, {"schedule": "fixed", "staleness": 1}),
        "fixed, apan": Case(stream, MODELS["apan"], {"schedule": "fixed", "staleness": 2}),
        "fewer events than ranks": Case(short, UNPAIRED, exact, size=3, stop=25),
        "fewer events than ranks, apan mean": Case(short, MODELS["apan mean"], exact, size=3, stop=25),
        "last batch of one event": Case(stream, UNPAIRED, exact, size=40, stop=81),
        "two epochs": Case(stream, UNPAIRED, exact, size=130, epochs=2),
        "softmax": Case(stream, MODEL, {**exact, **SOFTMAX}),
        "historical": Case(stream, UNPAIRED, {**exact, "negative_kind": "historical"}),
        "no pair features, lagged": Case(stream, UNPAIRED, exact, lagged=True),
        "lagged": Case(stream, {**MODEL, "layers": 2, "fanout": 3}, exact, lagged=True),
        "node features, embeddings": Case(featured(), UNPAIRED, exact, embedded=200),
        "node features, tgat, embeddings": Case(featured(), MODELS["tgat"], exact, embedded=200),
        "uniform": Case(stream, {**UNPAIRED, "sampler": "uniform"}, exact, embedded=200),
        "uniform, apan": Case(stream, {**MODELS["apan"], "sampler": "uniform"}, exact, embedded=200),
        "all candidates": Case(stream, UNPAIRED, exact, candidates=ALL),
        "candidates with gaps": Case(stream, MODELS["jodie"], exact, candidates=with_gaps(stream.split())),
        "rows of roots alone": Case(stream, MODEL, exact, settings=RunSettings("exact", deduplicate="roots")),
        "learned time encoder": Case(stream, {**UNPAIRED, "time_encoder": "learned"}, exact),
    }


def with_gaps(split: Split) -> torch.Tensor:
    """Return candidates [events, 4] of the events of validation, some of which are missing."""
    events = split.val_end - split.train_end
    table = 20 + torch.arange(4 * events).view(events, 4) % 9
    return table.masked_fill(table % 4 == 0, -1)


def alone(case: Case) -> Outcome:
    """Return the outcome of a case in this process; `exact` and `prefetch` must give what `serial` gives."""
    stale = case.train["schedule"] == "fixed"
    settings = None if case.settings is None else replace(case.settings, schedule="serial")
    return carry_out(case if stale else replace(case, train={**case.train, "schedule": "serial"}, settings=settings))


def check(outcomes: list[Outcome], expected: Outcome, name: str, unlike: Collection[str] = ()) -> None:
    """Compare the outcomes of all ranks with one another, and but for tensors `unlike` with that of one process."""
    assert {each.digest for each in outcomes} == {outcomes[0].digest}, f"{name}: the ranks differ"
    assert all(each.losses == outcomes[0].losses for each in outcomes), name
    assert outcomes[0].losses == pytest.approx(expected.losses, rel=1e-9), name
    assert outcomes[0].tensors.keys() == expected.tensors.keys()
    largest = largest_values(expected.tensors)
    for key, tensor in expected.tensors.items():
        if key in unlike:
            continue
        torch.testing.assert_close(
            outcomes[0].tensors[key], tensor, rtol=0, atol=1e-9 * largest[key],
            msg=lambda text, key=key: f"{name}, {key}: {text}",
        )  # fmt: skip
    assert all(each.staleness == expected.staleness for each in outcomes), name


def largest_values(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the largest magnitude of each tensor, and for the optimiser's moments that of all of their kind.

    A softmax does not depend on the last bias, whose gradient is thus rounding alone.
    """
    values = {key: tensor.abs().max().item() if tensor.numel() else 0.0 for key, tensor in tensors.items()}
    kinds: dict[str, float] = {}
    for key, value in values.items():
        kind = key.rpartition(".")[0] if key.startswith("optimizer.") else key
        kinds[kind] = max(kinds.get(kind, 0.0), value)
    return {key: kinds[key.rpartition(".")[0] if key.startswith("optimizer.") else key] for key in values}


def compare(processes: Pool, world: int, runs: Mapping[str, Case]) -> None:
    """Compare cases in ranks with the same in this process, where `serial` stands for `exact` and `prefetch`."""
    by_rank = processes(world, in_ranks, list(runs.values()), limit=900.0)
    for (name, case), *outcomes in zip(runs.items(), *by_rank, strict=True):
        # Candidates of a share are numbered by their nodes, so their uniform neighbours are draws of its rank.
        unlike = ["ranks"] if name == "uniform" else []
        check(outcomes, alone(case), name, unlike)


@pytest.mark.parametrize(("world", "schedule"), [(4, "exact"), (2, "serial")])
def test_models(processes: Pool, world: int, schedule: str) -> None:
    compare(processes, world, {model: Case(hub(), MODELS[model], {"schedule": schedule}) for model in MODELS})


def test_other_runs(processes: Pool) -> None:
    quick = ("prefetch", "fixed, apan", "fewer events than ranks", "softmax", "lagged", "uniform")
    compare(processes, 4, {name: others()[name] for name in quick})


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_all_runs(processes: Pool, world: int) -> None:
    pairs = ((model, schedule) for model in MODELS for schedule in EXACT)
    by_model = {", ".join(pair): Case(hub(), MODELS[pair[0]], {"schedule": pair[1]}) for pair in pairs}
    compare(processes, world, by_model | others())


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_other_draws_and_roundings(processes: Pool, world: int) -> None:
    """Ranks draw dropout and further uniform neighbours by themselves, and bfloat16 rounds: still they agree."""
    exact, stale = {"schedule": "exact"}, {"schedule": "fixed", "staleness": 2, "mitigation": "similarity"}
    uniform, small = {**MODELS["tgn of two layers"], "sampler": "uniform"}, {**UNPAIRED, "dtype": "float32"}
    cases = [
        Case(hub(), {**MODELS["apan"], "dropout": 0.3}, exact), Case(hub(), uniform, exact),
        Case(hub(), {**small, "precision": "bf16"}, exact), Case(hub(), UNPAIRED, stale),
    ]  # fmt: skip
    for case, *outcomes in zip(cases, *processes(world, in_ranks, cases), strict=True):
        assert {each.digest for each in outcomes} == {outcomes[0].digest}
        # Masks and neighbours change a loss of 2 log 2 by some hundredths, and rounding by less.
        assert outcomes[0].losses == pytest.approx(alone(case).losses, abs=0.15)


def test_mspipe_is_within_its_plan_and_the_same_in_all_ranks(processes: Pool) -> None:
    """Each rank reads what has been written so far, and sends what it has computed from that."""
    delays = {rank: {"memory": 0.002 * rank, "update": 0.004} for rank in range(4)}
    case = Case(hub(), MODEL, {"schedule": "mspipe"}, size=30, delays=delays)
    outcomes = [outcome for (outcome,) in processes(4, in_ranks, [case])]
    assert {each.digest for each in outcomes} == {outcomes[0].digest}
    assert all(math.isfinite(loss) for loss in outcomes[0].losses)
    for outcome in outcomes:
        assert sum(outcome.staleness.values()) == len(outcome.losses)
        assert max(int(staleness) for staleness in outcome.staleness) <= outcome.planned


@pytest.mark.parametrize("model", ["tgn", pytest.param("jodie", marks=pytest.mark.slow), "apan"])
def test_losses_of_a_plain_model(processes: Pool, model: str) -> None:
    """The plain models of the equations know neither stages nor ranks."""
    case = Case(hub(240), MODELS[model], {"schedule": "exact"}, size=20, stop=120)
    run = session(case)
    plain, events = oracle(run), events_of(run.stream)
    items = batches(0, 120, 20, run.negatives, Purpose.TRAIN_NEGATIVES, 1)
    expected = [plain.train_batch(events[b.start : b.stop], b.negatives.tolist(), events) for b in items]
    for (outcome,) in processes(4, in_ranks, [case]):
        assert outcome.losses == pytest.approx(expected, rel=1e-8)


@pytest.mark.data
def test_a_stretch_of_a_real_stream(processes: Pool, real_data: Path) -> None:
    stream = real(real_data, 1500)
    models = ("tgn", "jodie", "apan mean")
    compare(processes, 4, {name: Case(stream, MODELS[name], {"schedule": "exact"}, size=150) for name in models})


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("model", ["tgn", "tgn mean", "jodie", "apan", "apan mean"])
def test_whole_epochs_of_a_real_stream(processes: Pool, real_data: Path, world: int, model: str) -> None:
    stream = real(real_data, 59835)
    runs = [Case(stream, MODELS[model], {"schedule": schedule}, size=600, epochs=2) for schedule in EXACT]
    expected = carry_out(runs[0])
    for number, outcomes in enumerate(zip(*processes(world, in_ranks, runs, limit=900.0), strict=True)):
        check(list(outcomes), expected, f"{model}, {EXACT[number]}")
