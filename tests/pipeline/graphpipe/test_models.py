"""Built-in models: shapes, parameters, operations and memory against formulas, and against torch's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from math import inf

import pytest
import torch
from torch import nn
from torch.nn import functional

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS, Accelerator
from mspipe_triton.pipeline.graphpipe.models import MODELS, candle_uno, dlrm, mmt, two_branch
from mspipe_triton.pipeline.graphpipe.operators import Operator, OperatorGraph, members
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.schedule import Held, held

V100 = ACCELERATORS["v100"]
# One operation per second and nothing else: durations are operations. And one byte per second: durations are bytes.
COUNTING = Accelerator("operations", 1, inf, inf, inf, inf, 1, overhead=0, half_rows=0)
READING = Accelerator("bytes", inf, 1, inf, inf, inf, 1, overhead=0, half_rows=0)
LAUNCHING = Accelerator("kernels", inf, inf, inf, inf, inf, 1, overhead=1, half_rows=0)


def operator(graph: OperatorGraph, name: str) -> Operator:
    return next(each for each in graph.operators if each.name == name)


def branches(graph: OperatorGraph) -> list[list[str]]:
    """The chains that lead from the inputs to the first operator that joins several."""
    chains = []
    for index, direct in enumerate(graph.predecessors):
        if not direct:
            chain = [index]
            while (following := list(members(graph.successors[chain[-1]]))) and len(
                list(members(graph.predecessors[following[0]]))
            ) == 1:
                assert len(following) == 1
                chain += following
            chains.append([graph.operators[each].name for each in chain])
    return chains


def numbered(names: list[str], layers: int) -> list[list[str]]:
    return [[f"{name}.{layer}" for layer in range(layers)] for name in names]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", ACCELERATORS)
def test_backward_takes_twice_as_long(name: str, device: str) -> None:
    graph = MODELS[name](ACCELERATORS[device])
    assert graph.name == name
    for each in graph.operators:
        assert each.backward.fixed == pytest.approx(2 * each.forward.fixed)
        assert each.backward.per_sample == pytest.approx(2 * each.forward.per_sample)
    assert sum(not following for following in graph.successors) == 1


def test_models_import_no_torch() -> None:
    code = "import sys, mspipe_triton.pipeline.graphpipe.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_branch_shape() -> None:
    graph = two_branch()
    assert branches(graph) == numbered(["a", "b"], 4)
    assert graph.names(sum(1 << index for index in graph.joins)) == ("loss",)
    assert len(set(operator(graph, f"{b}.{x}").forward for b in "ab" for x in range(4))) == 1
    assert branches(two_branch(layers=2)) == numbered(["a", "b"], 2)


def in_flight(depth: int, micro_batch: int, batch: int) -> int:
    """Samples that the first stage of a chain holds."""
    holding: list[Held] = []
    for _ in range(depth):
        holding.append(held(micro_batch, holding[-1:], batch))
    return holding[-1].samples


@pytest.mark.parametrize(
    ("depth", "micro_batch", "fits"), [(8, 2, True), (8, 4, True), (8, 8, False), (4, 8, True), (4, 16, False)]
)
@pytest.mark.parametrize("memory", [16e9, 16 * 2**30])
def test_two_branch_memory(depth: int, micro_batch: int, fits: bool, memory: float) -> None:
    graph = two_branch()
    problem = Problem(graph, Cluster(8, memory), 128)
    samples = in_flight(depth, micro_batch, 128)
    assert samples == depth * micro_batch
    need = problem.memory(1, micro_batch, 1, samples // micro_batch)
    assert need == 10e9 + 0.18e9 * samples
    assert (need <= memory) == fits
    assert problem.memory(0b11, 1, 1, 1) > memory, "two operators do not fit on one device"


def test_two_branch_speedup() -> None:
    """Half of the speedup of about 1.2 comes from the depth of the pipeline, half from the larger micro-batch."""
    problem = Problem(two_branch(), Cluster(8, 16e9), 128)

    def seconds(depth: int, micro_batch: int) -> float:
        """1F1B on stages of equal time: as many rounds as micro-batches, and one less than the depth to fill it."""
        return (128 // micro_batch + depth - 1) * sum(problem.seconds(1, micro_batch, 1))

    assert sum(problem.seconds(1, 4, 1)) == pytest.approx(3 * (2 + 4) * 1e-3)
    depth = seconds(8, 4) / seconds(4, 4)
    micro_batch = seconds(4, 4) / seconds(4, 8)
    assert depth == pytest.approx(39 / 35)
    assert micro_batch == pytest.approx(35 * 18 / (19 * 30))
    assert 1.1 < micro_batch < depth < 1.12
    assert problem.time_per_sample(1, 4, 1) / problem.time_per_sample(1, 8, 1) == pytest.approx(1.2)


def test_mmt_shape() -> None:
    graph = mmt(V100)
    assert branches(graph) == numbered(["m0", "m1", "m2", "m3"], 8)
    assert graph.operators[-1].name == "head"
    assert len(graph.operators) == 33
    assert len(graph.edges) == 32
    assert not graph.joins, "the classifier has costs and needs a device"
    assert branches(mmt(V100, branches=16, layers=2)) == numbered([f"m{b}" for b in range(16)], 2)


def test_transformer_layer() -> None:
    h, s = 1024, 256
    layer = operator(mmt(COUNTING), "m2.5")
    assert layer.parameters == 4 * (12 * h**2 + 13 * h)
    # Per token 2 · 12 · h² operations of matmuls with weights, and s · 4 · h of attention.
    assert layer.forward.per_sample == s * (24 * h**2 + 4 * s * h) == 6_710_886_400
    assert layer.forward.fixed == 0
    assert layer.output == 4 * s * h
    assert layer.activations == 4 * s * (8 * h + 2 * 4096 + 4 + 16)
    # Values that kernels read and write per token, in order: norm, queries to values, attention, projection, sum, norm,
    # feed-forward, GELU, feed-forward, sum.
    f = 4 * h
    values = 2 * h + 4 * h + 4 * h + 2 * h + 3 * h + 2 * h + (h + f) + 2 * f + (f + h) + 3 * h
    assert operator(mmt(READING), "m0.0").forward.per_sample == 4 * s * values
    assert operator(mmt(LAUNCHING), "m0.0").forward.fixed == 10


def test_mmt_head() -> None:
    head = operator(mmt(COUNTING), "head")
    assert head.parameters == 4 * (4096 * 1000 + 1000)
    assert head.forward.per_sample == 2 * 4096 * 1000
    assert head.forward.per_sample < 0.01 * operator(mmt(COUNTING), "m0.0").forward.per_sample


def test_mmt_totals() -> None:
    graph = mmt(COUNTING)
    assert sum(each.parameters for each in graph.operators) == 4 * (32 * (12 * 1024**2 + 13 * 1024) + 4_097_000)
    assert sum(each.forward.per_sample for each in graph.operators) == 32 * 6_710_886_400 + 8_192_000


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, hidden: int, feed_forward: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(hidden) for _ in range(2)])
        self.project = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, feed_forward), nn.Linear(feed_forward, hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, length, hidden = tokens.shape
        split = self.project(self.norms[0](tokens)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*split).transpose(1, 2).reshape(batch, length, hidden)
        tokens = tokens + self.out(mixed)
        return tokens + self.down(functional.gelu(self.up(self.norms[1](tokens))))


def kept_bytes(module: nn.Module, inputs: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, parameters left out."""
    storages: dict[int, tuple[torch.Tensor, int]] = {}
    parameters = {each.untyped_storage().data_ptr() for each in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module(inputs)
    assert result.requires_grad
    return sum(size for _, size in storages.values())


def test_transformer_layer_against_torch() -> None:
    hidden, feed_forward, heads, sequence, batch = 64, 192, 4, 32, 3
    graph = mmt(V100, hidden=hidden, feed_forward=feed_forward, heads=heads, sequence=sequence)
    layer = operator(graph, "m0.0")
    block = Block(hidden, feed_forward, heads)
    assert layer.parameters == sum(each.nbytes for each in block.parameters())
    assert layer.activations * batch == kept_bytes(block, torch.randn(batch, sequence, hidden, requires_grad=True))


def test_dense_layer_against_torch() -> None:
    layer = operator(candle_uno(V100, width=48), "feature0.1")
    linear = nn.Sequential(nn.Linear(48, 48), nn.ReLU(inplace=True))
    assert layer.parameters == sum(each.nbytes for each in linear.parameters())
    assert layer.activations * 5 == kept_bytes(linear, torch.randn(5, 48))


def test_dense_layer() -> None:
    layer = operator(dlrm(COUNTING), "dense6.3")
    assert layer.parameters == 4 * (4096**2 + 4096)
    assert layer.forward.per_sample == 2 * 4096**2
    assert layer.output == 4 * 4096
    # Input, output, and the output once more in and out for the activation function.
    assert operator(dlrm(READING), "dense6.3").forward.per_sample == 4 * 4 * 4096
    assert operator(dlrm(READING), "dense6.3").forward.fixed == layer.parameters


def test_dlrm_shape() -> None:
    graph = dlrm(V100)
    dense = numbered([f"dense{b}" for b in range(7)], 4)
    assert branches(graph) == dense + [[f"embedding{b}"] for b in range(7)]
    assert [each.name for each in graph.operators[-5:]] == [f"top.{layer}" for layer in range(5)]
    assert len(list(members(graph.predecessors[-5]))) == 14
    assert len(graph.operators) == 7 * 4 + 7 + 5
    small = dlrm(V100, dense=2, layers=3, embeddings=1, top=1)
    assert branches(small) == [*numbered(["dense0", "dense1"], 3), ["embedding0"]]


@pytest.mark.parametrize(("concatenated", "columns"), [(False, 64), (True, 6400)])
def test_dlrm_embeddings(concatenated: bool, columns: int) -> None:
    table = operator(dlrm(READING, concatenated=concatenated), "embedding3")
    assert table.parameters == 4 * 1_000_000 * 64
    assert table.output == 4 * columns
    assert table.activations == 8 * 100
    # 100 rows and their indices are read, the result is written; the table is not read as a whole.
    assert table.forward.per_sample == 100 * (4 * 64 + 8) + 4 * columns
    assert table.forward.fixed == 0
    top = operator(dlrm(COUNTING, concatenated=concatenated), "top.0")
    assert top.forward.per_sample == 2 * (7 * 4096 + 7 * columns) * 4096
    assert table.forward.per_sample / V100.bytes_per_second == pytest.approx(
        operator(dlrm(V100, concatenated=concatenated), "embedding3").forward.per_sample
    ), "memory bounds it"


def test_dlrm_totals() -> None:
    dense, top = 28 * (4096**2 + 4096), (7 * 4096 + 7 * 64 + 1) * 4096 + 3 * (4096**2 + 4096) + 4097
    assert sum(each.parameters for each in dlrm(V100).operators) == 4 * (dense + 7 * 64_000_000 + top)


def test_candle_uno_shape_and_totals() -> None:
    graph = candle_uno(COUNTING)
    assert branches(graph) == numbered([f"feature{b}" for b in range(7)], 4)
    assert [each.name for each in graph.operators[-5:]] == [f"trunk.{layer}" for layer in range(5)]
    flops = 2 * (28 * 4096**2 + 7 * 4096 * 4096 + 3 * 4096**2 + 4096)
    assert sum(each.forward.per_sample for each in graph.operators) == flops
    weights = 28 * 4097 * 4096 + (7 * 4096 + 1) * 4096 + 3 * 4097 * 4096 + 4097
    assert sum(each.parameters for each in graph.operators) == 4 * weights
    assert len(branches(candle_uno(V100, branches=16))) == 16
    assert operator(candle_uno(COUNTING, trunk=0), "trunk.0").forward.per_sample == 2 * 7 * 4096


def test_micro_batches_pay_on_a_v100() -> None:
    """A transformer layer attains half of the rate at half a sequence, a fully connected layer at 128 samples."""
    layer = operator(mmt(V100), "m0.0")
    products = 6_710_886_400 / V100.flops
    assert layer.forward.fixed == pytest.approx(10 * V100.overhead + products / 2)
    dense = operator(candle_uno(V100), "feature0.0")
    assert dense.forward.fixed == pytest.approx(2 * V100.overhead + 128 * 2 * 4096**2 / V100.flops)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: two_branch(layers=0), "layers must be at least 1, not 0", id="two-branch"),
        pytest.param(lambda: mmt(V100, branches=0), "branches must be at least 1, not 0", id="mmt"),
        pytest.param(lambda: mmt(V100, sequence=-1), "sequence must be at least 1, not -1", id="sequence"),
        pytest.param(lambda: mmt(V100, heads=3), "hidden must be a multiple of heads, 3, not 1024", id="heads"),
        pytest.param(lambda: dlrm(V100, bag=0), "bag must be at least 1, not 0", id="dlrm"),
        pytest.param(lambda: candle_uno(V100, trunk=-1), "trunk must be at least 0, not -1", id="candle-uno"),
    ],
)
def test_sizes_are_checked(build: Callable[[], OperatorGraph], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
