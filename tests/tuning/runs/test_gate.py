"""The gate of a run's settings passes settings with the same results, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mspipe_triton import EventStream, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.head import first_events
from mspipe_triton.data.neighbourhood import EdgeRows, NeighbourSampler
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.staged import Stages
from mspipe_triton.tuning.runs.gate import RunGate

BASE = RunSettings("serial", threads=1, host_threads=1, fused=False)


@pytest.fixture(autouse=True)
def _without_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the shipped settings without fused loops, which are slow to compile."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def make_gate(stream: EventStream, model: str = "tgn", **train: Any) -> RunGate:
    config = RunConfig(model=ModelConfig(model, dim=8), train=TrainConfig(batch_size=60, **train))
    return RunGate(config, stream)


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", ["tgn", "jodie", "apan", "tgat"])
def test_all_settings_of_every_model_pass(
    small_stream: EventStream, model: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare settings without fused loops with the shipped ones, with and without them."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0" if fused else "1")
    gate = make_gate(small_stream, model)
    for schedule in ("serial", "prefetch", "exact"):
        for deduplicate in ("all", "roots"):
            settings = replace(BASE, schedule=schedule, prefetch=2, deduplicate=deduplicate)
            assert gate.refusal(settings) is None, settings


def test_tables_in_bfloat16_are_checked_in_bfloat16(small_stream: EventStream) -> None:
    config = RunConfig(model=ModelConfig(dim=8, precision="bf16"), train=TrainConfig(batch_size=60))
    gate = RunGate(config, small_stream)
    assert gate.refusal(replace(BASE, schedule="exact")) is None
    assert gate._session(gate.config, BASE).state.tables["memory"].dtype == torch.bfloat16


@pytest.mark.slow
def test_stale_schedules_are_compared_with_their_own_reference(small_stream: EventStream) -> None:
    fixed = make_gate(small_stream, schedule="fixed", staleness=2)
    assert fixed.refusal(replace(BASE, schedule="fixed", prefetch=1)) is None
    losses = [gate.reference[0].truth["the loss"] for gate in (fixed, make_gate(small_stream))]
    assert not torch.allclose(*losses), "fixed does not see the latest writes, and serial does"
    mspipe = make_gate(small_stream, schedule="mspipe", mitigation="similarity")
    assert mspipe.refusal(replace(BASE, schedule="mspipe")) is None


def test_a_wrong_neighbour_is_caught(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = make_gate(small_stream)
    assert gate.refusal(BASE) is None
    real = NeighbourSampler.around

    def around(self: NeighbourSampler, *arguments: Any) -> Any:
        result = real(self, *arguments)
        if self.deduplicate == "roots":
            result.hops[-1].rows[5, 0] = 0
        return result

    monkeypatch.setattr(NeighbourSampler, "around", around)
    assert "is off by" in (gate.refusal(replace(BASE, deduplicate="roots")) or "")
    assert gate.refusal(BASE) is None


def test_unwritten_values_are_caught(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = make_gate(small_stream)
    assert gate.refusal(BASE) is None
    real = Stages.features

    def features(self: Stages, work: Any) -> Any:
        result = real(self, work)
        first, *others = result.scene.edges
        edges = [EdgeRows(torch.empty(first.table.shape)), *others]
        return replace(result, scene=replace(result.scene, edges=edges))

    monkeypatch.setattr(Stages, "features", features)
    assert "nan" in (gate.refusal(BASE) or "")


def test_the_head_has_the_first_events_and_only_their_nodes(small_stream: EventStream) -> None:
    rows = torch.arange(small_stream.num_nodes * 2.0).view(-1, 2)
    head = first_events(replace(small_stream, node_features=rows), 20)
    ids = torch.cat([small_stream.src[:20], small_stream.dst[:20]]).unique()
    assert (len(head), head.num_nodes) == (20, ids.numel())
    assert torch.equal(ids[head.src], small_stream.src[:20])
    assert torch.equal(ids[head.dst], small_stream.dst[:20])
    assert torch.equal(head.node_features, rows[ids])  # type: ignore[arg-type]
    assert torch.equal(head.edge_features, small_stream.edge_features[:20])  # type: ignore[index,arg-type]


def test_events_of_few_times_pass(small_stream: EventStream) -> None:
    t = torch.tensor([0] * 1000 + [1] * 100 + [2] * 100)
    assert make_gate(replace(small_stream, t=t)).refusal(BASE) is None
