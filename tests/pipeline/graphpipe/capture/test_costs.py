"""Costs of captured operators: bytes and operations as worked out by hand, and times as measured."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture import capture
from mspipe_triton.pipeline.graphpipe.capture.meter import line
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.operators import Operator, OperatorGraph

FLOPS = replace(ACCELERATORS["v100"], flops=1.0, bytes_per_second=1e30, overhead=0.0, half_rows=0.0)  # time is FLOPs
BYTES = replace(FLOPS, flops=1e30, bytes_per_second=1.0)
KERNELS = replace(FLOPS, flops=1e30, overhead=1.0)
ROWS = replace(FLOPS, half_rows=1.0)


def estimated(module: nn.Module, *args: Any, accelerator: Any = FLOPS) -> OperatorGraph:
    return capture(module, args, accelerator=accelerator)


def operator(graph: OperatorGraph, name: str) -> Operator:
    return next(each for each in graph.operators if each.name == name)


class Recommender(nn.Module):
    """A dense branch and two embedding bags, their products in pairs, and a top layer, as in DLRM."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(5, 4)
        self.tables = nn.ModuleList(nn.EmbeddingBag(100, 4, mode="sum") for _ in range(2))
        self.top = nn.Linear(9, 1)

    def forward(self, dense: Tensor, indices: Tensor) -> Tensor:
        rows = [self.dense(dense), *(table(indices[:, i]) for i, table in enumerate(self.tables))]
        stacked = torch.stack(rows, 1)
        return self.top((stacked @ stacked.mT).flatten(1))


def test_a_chain_of_layers_with_costs_as_worked_out_by_hand() -> None:
    """n samples: a layer of m × k takes 2·n·m·k operations forward, and as many for each of its gradients."""
    graph = estimated(nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)), torch.ones(4, 6))
    assert graph.edges == ((0, 1),)
    first, second = graph.operators
    assert (first.parameters, second.parameters) == (4 * (60 + 10), 4 * (30 + 3))
    assert (first.output, second.output) == (40, 0)
    assert (first.activations, second.activations) == (4 * (6 + 10), 40)  # input and what ReLU keeps, input
    assert (first.forward.fixed, first.forward.per_sample) == pytest.approx((0, 120))
    assert first.backward.per_sample == pytest.approx(120)  # the model's input needs no gradient
    assert second.forward.per_sample == pytest.approx(60)
    assert second.backward.per_sample == pytest.approx(120)


def test_traffic_kernels_and_rows_of_a_layer() -> None:
    """Forward, y = x·W + b reads x, W and b and writes y; ReLU reads and writes as many bytes as y has."""
    module, inputs = nn.Sequential(nn.Linear(6, 10), nn.ReLU()), torch.ones(4, 7, 6)
    traffic = estimated(module, inputs, accelerator=BYTES).operators[0].forward
    assert traffic.per_sample == pytest.approx(7 * 4 * (6 + 10 + 2 * 10))
    assert traffic.fixed == pytest.approx(4 * (60 + 10))
    assert estimated(module, inputs, accelerator=KERNELS).operators[0].forward.fixed == pytest.approx(2)
    operations = estimated(module, inputs, accelerator=ROWS).operators[0]
    assert operations.forward.fixed == pytest.approx(operations.forward.per_sample / 7)
    assert operations.backward.fixed == pytest.approx(operations.backward.per_sample / 7)


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_layer(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, batch_first=True, norm_first=training).train(training)
    graph = estimated(nn.ModuleDict({"layer": layer})["layer"], torch.ones(2, 5, 16))
    order = ["norm1", "self_attn", "norm2", "linear1", "linear2"]
    order = order if training else ["self_attn", "norm1", "linear1", "linear2", "norm2"]
    assert [each.name for each in graph.operators] == order
    assert sum(each.parameters for each in graph.operators) == 4 * (12 * 16**2 + 13 * 16)
    attention, linear = operator(graph, "self_attn"), operator(graph, "linear1")
    assert attention.forward.per_sample == pytest.approx(2 * 5 * 16 * 64 + 4 * 5**2 * 16)
    assert linear.forward.per_sample == pytest.approx(2 * 5 * 16 * 64)
    assert linear.output == 4 * 5 * 64
    assert {each.output for each in graph.operators} == {4 * 5 * 16, 4 * 5 * 64, 0}


def test_a_recommender() -> None:
    """A lookup reads rows and not the whole table; the gradients of tables are dense."""
    inputs = (torch.ones(3, 5), torch.ones(3, 2, 7, dtype=torch.int64))
    graph = estimated(Recommender(), *inputs)
    names = [each.name for each in graph.operators]
    assert names == ["dense", "tables.0", "tables.1", "matmul", "top"]
    assert graph.edges == ((0, 3), (1, 3), (2, 3), (3, 4))
    table = operator(estimated(Recommender(), *inputs, accelerator=BYTES), "tables.0")
    assert table.parameters == 4 * 400
    assert table.output == 16
    assert table.forward.per_sample < 4 * 400 / 3
    assert table.backward.fixed >= 4 * 400


def test_buffers_count_as_parameters_and_stay_as_they_are() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    before = {name: each.clone() for name, each in module.state_dict().items()}
    graph = estimated(module, torch.randn(2, 3, 6, 6))
    assert [each.parameters for each in graph.operators] == [4 * 216, 4 * 4 * 8 + 8]
    assert graph.operators[0].forward.per_sample == pytest.approx(2 * 16 * 216)
    capture(module, (torch.randn(2, 3, 6, 6),))
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


@pytest.mark.parametrize(
    ("values", "slope", "intercept"),
    [((5, 11), 2, 1), ((4, 10), 2, 0), ((5, 5), 0, 5), ((6, 5), 0, 5), ((1, 10), 2, 0)],
)
def test_a_line_has_no_negative_part(values: tuple[int, int], slope: float, intercept: float) -> None:
    """Values at 2 and 5 samples; slope and intercept of the line, or of the nearest one without negative parts."""
    assert line((2, 5), values) == pytest.approx((slope, intercept))


def widths(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.Flatten(0))


def test_measured_times() -> None:
    """A layer of 512 × 512 does 16,384 times the operations of one of 4 × 4."""
    narrow, wide = (capture(widths(width), (torch.randn(64, width),)) for width in (4, 512))
    for graph in (narrow, wide):
        assert [each.name for each in graph.operators] == ["0", "2"]
        for each in graph.operators:
            for duration in (each.forward, each.backward):
                assert duration.fixed >= 0
                assert duration.per_sample >= 0
                assert 0 < duration.fixed + 64 * duration.per_sample < 60
                assert isfinite(duration.fixed + duration.per_sample)
    for before, after in zip(narrow.operators, wide.operators, strict=True):
        assert after.forward.per_sample > before.forward.per_sample
        assert after.backward.per_sample > before.backward.per_sample


def test_measuring_changes_neither_weights_gradients_nor_random_numbers() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    before = {name: each.clone() for name, each in module.state_dict().items()}
    inputs, state = torch.randn(4, 4), torch.get_rng_state()
    graph = capture(module, (inputs,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert all(each.grad is None for each in module.parameters())
    assert all(each.backward.fixed + each.backward.per_sample > 0 for each in graph.operators)


def test_what_is_not_trained_has_no_backward_pass() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[0].requires_grad_(False)
    for accelerator in (ACCELERATORS["h100"], None):
        first, second = capture(module, (torch.randn(4, 4),), accelerator=accelerator).operators
        assert (first.backward.fixed, first.backward.per_sample, first.activations) == (0, 0, 0)
        assert second.backward.fixed + second.backward.per_sample > 0


def test_a_module_without_data_is_estimated_and_not_measured() -> None:
    with torch.device("meta"):
        module, inputs = nn.Linear(1 << 20, 1 << 20), torch.ones(2, 1 << 20)
    assert estimated(module, inputs).operators[0].parameters == 4 * ((1 << 40) + (1 << 20))
    with pytest.raises(GraphError, match="the module is on device meta, without data; move it to "):
        capture(module, (inputs,))
