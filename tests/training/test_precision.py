"""`--precision bf16`: tables in bfloat16, and apart from them float32 arithmetic on rounded rows, bit for bit."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mspipe_triton.config import MODELS, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.evaluation.evaluate import evaluate_run
from mspipe_triton.iteration.session import Session
from mspipe_triton.models import REGISTRY, EmbeddingInput, Facts, Recipe, register
from mspipe_triton.nodes.mailbox import LastMail
from mspipe_triton.settings import process_settings
from mspipe_triton.training.trainer import train
from tests.training.schedule_run import Run, session

SIZE, COUNT = 40, 6
SMALL = {"dim": 8, "fanout": 3}
CASES = {
    "tgn": SMALL,
    "tgn mean": {**SMALL, "aggregator": "mean"},
    "tgat": {**SMALL, "model": "tgat"},
    "jodie": {"model": "jodie", "dim": 8},
    "apan": {**SMALL, "model": "apan", "slots": 3, "dropout": 0.2},
    "apan mean": {**SMALL, "model": "apan", "slots": 3, "aggregator": "mean"},
    "own parts": {"model": "own parts", "dim": 8, "fanout": 3},
    "own message": {"model": "own message", "dim": 8, "fanout": 3},
}


class Partner(torch.nn.Module):
    """A message function in plain torch, which mixes rows, features and an age, and supports no bfloat16."""

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.width = config.dim
        self.mixed = torch.nn.Linear(config.dim + facts.dim_edge + 1, config.dim)

    def forward(self, record: LastMail, time: Any) -> torch.Tensor:
        """Messages [U, D]."""
        age = (record.mail_time - record.memory_time).to(record.memory.dtype).unsqueeze(1)
        rows = torch.cat([record.partner - record.memory, record.mail_features, age.log1p()], 1)
        return torch.tanh(self.mixed(rows))


class Average(torch.nn.Module):
    """An updater in plain torch."""

    def __init__(self, config: ModelConfig, facts: Facts, message: torch.nn.Module) -> None:
        super().__init__()
        self.message = message

    def forward(self, record: LastMail, time: Any, now: torch.Tensor, draws: object) -> torch.Tensor:
        """h [U, D]."""
        return torch.lerp(record.memory, self.message(record, time), 0.3)


class Edges(torch.nn.Module):
    """An embedding in plain torch, of h and of the edge rows alone."""

    layers = 1

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.edges = torch.nn.Linear(facts.dim_edge, config.dim)

    def forward(self, inputs: EmbeddingInput) -> torch.Tensor:
        """Embeddings [R, D]."""
        hop = inputs.around.hops[0]
        around = self.edges(inputs.edge_features[0]).view(*hop.rows.shape, -1).mean(1)
        return inputs.table.index_select(0, hop.root_rows) + around


@pytest.fixture(autouse=True)
def _plainly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set up runs without compiled loops, deterministic, and with two custom models."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    register("own parts", Recipe(Edges, Average, Partner), fanout=3)
    register("own message", replace(REGISTRY["tgn"], message=Partner), fanout=3, heads=2, layers=1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    for name in ("own parts", "own message"):
        del REGISTRY[name], MODELS[name]


@functools.cache
def stream(edge: bool = True, node: bool = True) -> EventStream:
    """Few nodes, so that a node often has several events in a batch; no feature is representable in bfloat16."""
    events = synthetic_stream(SyntheticConfig(events=500, users=20, items=10, edge_features=3 if edge else 0, seed=3))
    random = torch.Generator().manual_seed(0)
    return replace(events, node_features=torch.randn(events.num_nodes, 2, generator=random) if node else None)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to the nearest bfloat16 ones, ties to even, by their bits."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & ~0xFFFF).view(torch.float32)


def same(tables: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return tables.keys() == expected.keys() and all(
        table.dtype == expected[name].dtype and torch.equal(table, expected[name]) for name, table in tables.items()
    )


def rounding(model: dict[str, Any], events: EventStream) -> Session:
    """A session in float32 on rounded features, whose tables are rounded after every write."""
    parts = {name: getattr(events, name) for name in ("edge_features", "node_features")}
    features = {name: None if part is None else rounded(part.float()) for name, part in parts.items()}
    run = session(replace(events, **features), SIZE, model, schedule="serial")
    write = run.state.write

    def rounding_write(number: int) -> None:
        write(number)
        for table in run.state.tables.values():
            if table.is_floating_point():
                table.copy_(rounded(table))

    run.state.write = rounding_write  # type: ignore[method-assign]
    return run


@pytest.mark.parametrize("model", CASES)
def test_bf16_is_float32_on_rounded_tables_to_the_bit(model: str) -> None:
    run = Run(session(stream(), SIZE, {**CASES[model], "precision": "bf16"}, schedule="serial"), COUNT)
    expected = Run(rounding(CASES[model], stream()), COUNT)
    assert run.losses == expected.losses
    assert run.losses[1:] != Run(session(stream(), SIZE, CASES[model], schedule="serial"), COUNT).losses[1:]
    tables = {name: t.bfloat16() if t.is_floating_point() else t for name, t in expected.state.items()}
    assert same(run.state, tables)


@pytest.mark.parametrize(("model", "edge"), [*((model, True) for model in CASES), ("tgn", False), ("apan", False)])
def test_exact_is_serial_to_the_bit(model: str, edge: bool) -> None:
    settings, events = {**CASES[model], "precision": "bf16"}, stream(edge)
    serial = Run(session(events, SIZE, settings, schedule="serial"), COUNT)
    delays = {"update": 0.004, "train": 0.001}
    exact = Run(session(events, SIZE, settings, schedule="exact"), COUNT, delays=delays)
    assert exact.losses == serial.losses
    assert same(exact.state, serial.state)


@pytest.mark.parametrize("model", ["tgn", "tgn mean", "jodie", "apan", "apan mean"])
def test_the_first_write_is_that_of_float32_rounded(model: str) -> None:
    features = {name: getattr(stream(), name).bfloat16().float() for name in ("edge_features", "node_features")}
    events = replace(stream(), **features)
    run = Run(session(events, SIZE, {**CASES[model], "precision": "bf16"}, schedule="serial"), 1)
    full = Run(session(events, SIZE, CASES[model], schedule="serial"), 1)
    assert run.losses == full.losses, "memory is 0, and bfloat16 represents the features exactly"
    for name, table in full.state.items():
        if not table.is_floating_point():
            assert torch.equal(run.state[name], table)
            continue
        assert run.state[name].dtype == torch.bfloat16
        assert torch.equal(run.state[name].float(), rounded(table))
        assert table.any()
        assert name == "mail_features" or not torch.equal(rounded(table), table)


def test_staleness_and_mitigation_work_in_bf16() -> None:
    settings = {"schedule": "fixed", "staleness": 2, "mitigation": "similarity"}
    run = Run(session(stream(), SIZE, {**SMALL, "precision": "bf16"}, **settings), COUNT)
    assert run.staleness == [0, 1, 2, 2, 2, 2]
    assert run.state["memory"].dtype == torch.bfloat16
    assert torch.tensor(run.losses).isfinite().all()


def test_tables_have_half_the_bytes_and_parameters_stay() -> None:
    full, narrow = (session(stream(), SIZE, {**SMALL, "precision": name}) for name in ("full", "bf16"))
    for name in ("memory", "partner"):
        assert 2 * narrow.state.tables[name].nbytes == full.state.tables[name].nbytes
    assert narrow.edges.dtype == torch.bfloat16
    assert narrow.stream.node_features is not None
    assert narrow.stream.node_features.dtype == torch.bfloat16
    assert {weight.dtype for weight in narrow.model.parameters()} == {torch.float32}


def test_a_run_of_the_command_is_saved_and_evaluated_again(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write_stream(stream(node=False), tmp_path / "events.csv")
    small = ("--epochs", "1", "--batch-size", "100", "--dim", "8", "--fanout", "3", "--negatives", "3")
    flags = ("--precision", "bf16", "--threads", "1", "--deterministic", "--out", "run", "--json")
    trained = command("train", "events.csv", *small, *flags)
    assert trained.returncode == 0, trained.stderr
    assert load_config(tmp_path / "run" / "config.toml").model.precision == "bf16"
    tables = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    assert {tables["memory"].dtype, tables["partner"].dtype} == {torch.bfloat16}
    evaluated = evaluate_run(str(tmp_path / "run"), "test")
    assert evaluated == json.loads(trained.stdout)["test"]


def test_a_resumed_run_equals_the_uninterrupted_one_and_keeps_its_precision(tmp_path: Path) -> None:
    def settings(epochs: int, precision: str = "bf16") -> RunConfig:
        model = ModelConfig(dim=8, fanout=3, precision=precision)
        return RunConfig(model=model, train=TrainConfig(epochs=epochs, batch_size=100, threads=1, deterministic=True))

    whole = train(settings(2), stream(), out=str(tmp_path / "whole"))
    train(settings(1), stream(), out=str(tmp_path / "parts"))
    with pytest.raises(RunFolderError, match=re.escape("another --precision (bf16 there, full here)")):
        train(settings(2, "full"), stream(), out=str(tmp_path / "parts"), resume=True)
    resumed = train(settings(2), stream(), out=str(tmp_path / "parts"), resume=True)
    assert (resumed["losses"], resumed["test"]) == (whole["losses"], whole["test"])


def test_unsupported_precisions_get_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(dtype="float64", precision="bf16")
    assert str(caught.value) == (
        "precision bf16 needs dtype float32, not float64; use --precision full, or --dtype float32"
    )
    with pytest.raises(ConfigError, match="precision 'fp8' is not one of full, tf32, bf16"):
        ModelConfig(precision="fp8")
    assert ModelConfig(dtype="float64").table_dtype == "float64"


@pytest.mark.parametrize(
    ("device", "precision", "products"),
    [("cuda", "tf32", "high"), ("cuda", "bf16", "high"), ("cuda", "full", "highest"), ("cpu", "tf32", "highest")],
)
def test_products_are_rounded_only_on_a_gpu_and_only_during_the_run(device: str, precision: str, products: str) -> None:
    config = RunConfig(model=ModelConfig(precision=precision), train=TrainConfig(device=device))
    with process_settings(config):
        assert torch.get_float32_matmul_precision() == products
    assert torch.get_float32_matmul_precision() == "highest"
