"""The study of the example with several types of events: its parts on a few mini-batches, and its tables."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from bench.graphpipe_runs import typed
from bench.studies.graphpipe_typed import BRANCHES, MICRO_BATCH, build, compare, late, learn, plans, precisions, score
from mspipe_triton.evaluation.metrics import average_precision
from mspipe_triton.examples.typed import TypedModel
from mspipe_triton.examples.typed_batches import TypedBatches
from mspipe_triton.examples.typed_stream import NAMES, TypedConfig, typed_stream


def small() -> tuple[TypedModel, TypedBatches]:
    torch.manual_seed(0)
    stream = typed_stream(TypedConfig(events=512, traders=100))
    return TypedModel(100, dim=8, fanout=3), TypedBatches(stream, 2 * MICRO_BATCH, 3)


def test_learning_in_micro_batches() -> None:
    """Losses are those of the scores; the first gradient step is that of micro-batches one after the other."""
    module, batches = small()
    before = {name: each.clone() for name, each in module.named_parameters()}
    losses, scores = learn(module, batches)
    assert (len(losses), len(scores)) == (4, 4)
    for loss, each in zip(losses, scores, strict=True):
        assert each.shape == (2 * MICRO_BATCH, 2)
        positive, negative = each.unbind(1)
        expected = torch.nn.functional.softplus(torch.stack([-positive, negative])).sum(0).mean()
        assert loss == pytest.approx(float(expected), rel=1e-5)
    assert all(not torch.equal(each, before[name]) for name, each in module.named_parameters())
    assert late(scores) == average_precision(*torch.cat(scores).unbind(1))
    assert not module.decoder._forward_hooks


def test_scoring_leaves_the_weights_and_moves_the_memory() -> None:
    module, batches = small()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    assert 0 < score(module, islice(batches, 2)) < 1
    changed = {name for name, each in module.state_dict().items() if not torch.equal(each, before[name])}
    assert changed >= {f"branches.{name}.event_id" for name in NAMES}
    assert not changed & {name for name, _ in module.named_parameters()}


def test_the_run_trains_in_float64() -> None:
    module, inputs = build()
    assert {each.dtype for each in module.parameters()} == {torch.float64}
    assert module(*inputs).ndim == 0


def test_tables() -> None:
    row = {"mean": 0.875, "standard_error": 0.0104, "seeds": [0.9, 0.85, 0.875]}
    ends = {
        "graph": {"depth": 2, "micro_batch": 64, "devices": 4, "seconds": 1.5e-3},
        "sequential": {"depth": 4, "micro_batch": 64, "devices": 4, "seconds": 2.1e-3},
        "speedup": 1.4,
    }
    report = {
        "steps": 100, "late": 20, "micro_batch": 64, "precision": {"all": row}, "plans": {"usual": ends},
        "run": {
            "processes": 4, "dtype": "float64", "last_loss": {"pipeline": 0.5, "loop": 0.5}, "loss_difference": 2e-15,
            "state_difference": 3e-14, "following_precision": {"pipeline": 0.91, "loop": 0.91},
        },
    }  # fmt: skip
    lines = [line for line in typed(report).splitlines() if line.startswith("|") and "---" not in line]
    assert lines == [
        "| branches | average precision | seeds |",
        "| all | 0.875 ± 0.010 | 3 |",
        "| micro-batch | depth | of the chain | ms per mini-batch | of the chain | speedup |",
        "| 64 | 2 | 4 | 1.50 | 2.10 | 1.40 |",
        "|  | pipelined | plain loop | largest difference |",
        "| loss of the last mini-batch | 0.5000 | 0.5000 | 2e-15 |",
        "| average precision on the next 20 mini-batches | 0.9100 | 0.9100 | 0 |",
        "| parameters and memory after the run |  |  | 3e-14 |",
    ]


@pytest.mark.slow
def test_a_short_study() -> None:
    precision, planned, run = precisions(2, 2, 2), plans(), compare(2)
    assert list(precision) == list(BRANCHES)
    for row in precision.values():
        assert row["mean"] == pytest.approx(sum(row["seeds"]) / 2)
        assert row["standard_error"] == pytest.approx(abs(row["seeds"][0] - row["seeds"][1]) / 2)
    assert planned["usual"]["graph"]["micro_batch"] == MICRO_BATCH
    assert planned["best"]["graph"]["seconds"] <= planned["usual"]["graph"]["seconds"]
    assert run["processes"] == 4
    assert run["loss_difference"] < 1e-12
    assert run["state_difference"] < 1e-9
    assert run["following_precision"]["pipeline"] == pytest.approx(run["following_precision"]["loop"], abs=1e-6)
    assert typed({"steps": 2, "late": 20, "micro_batch": 64, "precision": precision, "plans": planned, "run": run})
