"""Programs of stages: what crosses between them, which results are losses, and which models are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mspipe_triton.errors import GraphError
from mspipe_triton.pipeline.graphpipe.capture import Model, capture
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.run.program import Program, build_program
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm

BATCH = 12
CPU = torch.device("cpu")
Join = Callable[[Tensor, Tensor], Tensor]


class Forked(nn.Module):
    """A stem, two branches of it, and a function of their results that is the loss."""

    def __init__(self, join: Join, width: int = 4) -> None:
        super().__init__()
        self.stem, self.join = nn.Linear(3, width), join
        self.a, self.b = nn.Linear(width, 2), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the join of both branches."""
        stem = self.stem(x).relu()
        return self.join(self.a(stem), self.b(stem))


def model(join: Join, width: int = 4) -> Model:
    return Model(Forked(join, width), (torch.randn(2, 3),), {})


def planned(
    one: Model, stages: Sequence[Sequence[str]], micro_batches: Sequence[int], chain: bool = False
) -> PipelinePlan:
    """Plan a model by hand: names of the operators of every stage."""
    graph = capture(one.module, one.args, accelerator=ACCELERATORS["h100"])
    numbers = {each.name: index for index, each in enumerate(graph.operators)}
    parts = [
        Part(sum(1 << numbers[name] for name in names), 1, Rhythm(size))
        for names, size in zip(stages, micro_batches, strict=True)
    ]
    return assemble(Problem(graph, Cluster(len(parts), 1e12), BATCH), parts, chain)


def program(one: Model, plan: PipelinePlan, stage: int) -> Program:
    return build_program(plan, one, stage, plan.stages[stage].rhythm.micro_batch, CPU)


def squares(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(a, b)


def test_a_result_goes_to_all_stages_that_use_it() -> None:
    one = model(squares)
    plan = planned(one, [["stem"], ["a"], ["b", "mse_loss"]], [3, 3, 3])
    first, second, third = (program(one, plan, stage) for stage in range(3))
    (value,) = first.sent[1]
    assert first.sent[2] == (value,)
    assert not first.received
    assert not first.losses
    assert value.leaves[0][:4] == ((3, 4), torch.float32, True, 0)
    assert [each.node.name for each in second.received[0]] == [value.node.name]
    assert {*third.received} == {0, 1}
    assert not third.sent
    assert [*third.losses.values()] == [3 / BATCH]


def test_in_a_chain_it_passes_through_the_stages_between() -> None:
    one = model(squares)
    plan = planned(one, [["stem"], ["a"], ["b", "mse_loss"]], [2, 2, 2], chain=True)
    middle = program(one, plan, 1)
    assert len(middle.received[0]) == 1
    assert len(middle.sent[2]) == 2
    assert middle.received[0][0].node in [each.node for each in middle.sent[2]]


@pytest.mark.parametrize(
    ("join", "weights", "constant"),
    [
        (lambda a, b: a.square().mean() - b.abs().mean() + 3, [3 / BATCH, -3 / BATCH], 3 * 3 / BATCH),
        (lambda a, b: (a.square().sum() - b.abs().sum()) / 2, [0.5, -0.5], 0),
        (lambda a, b: (a.square().sum(1), b.abs().mean()), [1 / BATCH, 3 / BATCH], 0),
    ],
    ids=["means", "sums", "per sample and mean"],
)
def test_every_stage_has_its_part_of_the_loss(join: Join, weights: list[float], constant: float) -> None:
    """Passes over 3 of 12 samples: a mean counts with a quarter, a sum whole, a loss per sample with a twelfth."""
    one = model(join)
    plan = planned(one, [["stem"], ["a"], ["b"]], [3, 3, 3])
    stem, a, b = (program(one, plan, stage) for stage in range(3))
    assert not stem.losses
    assert [*a.losses.values(), *b.losses.values()] == pytest.approx(weights)
    assert a.constant + b.constant == pytest.approx(constant, abs=1e-6)


@pytest.mark.parametrize(
    ("join", "message"),
    [
        (lambda a, b: a.square().mean() * b.square().mean(), "joins losses of several branches in another way than"),
        (lambda a, b: a + b, r"Forked returns a tensor of shape \(3, 2\) and type torch.float32; to train it, return"),
        (lambda a, b: (a + b).argmax(1), r"of shape \(3,\) and type torch.int64, without gradient; to train"),
    ],
    ids=["product", "scores", "labels"],
)
def test_what_is_no_loss_is_refused(join: Join, message: str) -> None:
    one = model(join)
    graph = capture(one.module, one.args, accelerator=ACCELERATORS["h100"])
    rest = [each.name for index, each in enumerate(graph.operators) if index > 2 and index not in graph.joins]
    plan = planned(one, [["stem"], ["a"], ["b", *rest]], [3, 3, 3])
    with pytest.raises(GraphError, match=message):
        program(one, plan, 2)


class Headed(nn.Module):
    """Two layers over tokens, and a function of their result and the labels that is the loss."""

    def __init__(self, loss: Join, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.stem, self.head, self.loss = nn.Linear(3, 4, dtype=dtype), nn.Linear(4, 2, dtype=dtype), loss

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; tokens of all samples are rows of one matrix between the layers."""
        hidden = self.stem(x.reshape(-1, 3))
        return self.loss(self.head(hidden).view(len(x), 5, 2), labels)


def distilled(scores: Tensor, labels: Tensor) -> Tensor:
    """Return a sum in which a part without gradients draws random numbers."""
    with torch.no_grad():
        target = F.dropout(scores, 0.5) * torch.rand_like(scores)
    return (scores - target).square().sum()


def loss_weights(loss: Join, dtype: torch.dtype = torch.float32) -> list[float]:
    """Return the weight of a loss in a pass over 3 of 12 samples."""
    one = Model(Headed(loss, dtype), (torch.randn(2, 5, 3, dtype=dtype), torch.zeros(2, 5, dtype=torch.long)), {})
    return [*program(one, planned(one, [["stem"], ["head"]], [3, 3]), 1).losses.values()]


@pytest.mark.parametrize(
    ("loss", "dtype", "weight"),
    [
        (lambda scores, labels: F.cross_entropy(scores.mT, labels), torch.float32, 3 / BATCH),
        (lambda scores, labels: F.cross_entropy(scores.mT, labels, reduction="sum"), torch.float16, 1),
        (lambda scores, labels: (scores + torch.randn_like(scores)).square().sum(), torch.float32, 1),
        (distilled, torch.float32, 1),
        (lambda scores, labels: scores.mean((1, 2)).logsumexp(0), torch.float32, 3 / BATCH),
    ],
    ids=["mean", "sum of half precision", "sum with noise", "sum with noise without gradients", "samples compared"],
)
def test_sums_and_means_are_told_apart(loss: Join, dtype: torch.dtype, weight: float) -> None:
    assert loss_weights(loss, dtype) == [weight]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda scores, labels: scores.square().sum() + 0.1, "adds a sum over the samples and a term that is none"),
        (
            lambda scores, labels: F.cross_entropy(scores.mT, labels, reduction="sum", ignore_index=0),
            "the model's example inputs is 0, which does not tell a sum over the samples from a mean",
        ),
    ],
    ids=["sum and penalty", "no label counts"],
)
def test_what_may_be_a_sum_or_a_mean_is_refused(loss: Join, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        loss_weights(loss)


def test_a_plan_of_another_model_is_refused() -> None:
    one = model(squares)
    plan = planned(one, [["stem"], ["a"], ["b", "mse_loss"]], [3, 3, 3])
    with pytest.raises(GraphError, match="operator 'stem' has 80 bytes of parameters, in the plan 64: the plan is for"):
        program(model(squares, 5), plan, 0)
    other = Model(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), (torch.randn(2, 3),), {})
    with pytest.raises(GraphError, match="the model has no operator 'stem': the plan is for another model"):
        program(other, plan, 0)


def test_what_has_no_samples_crosses_only_between_equal_passes() -> None:
    """The maximum over the samples of a branch, which the other stage uses."""
    one = model(lambda a, b: F.mse_loss(b, a.max(0, keepdim=True).values.exp().expand_as(b)))
    graph = capture(one.module, one.args, accelerator=ACCELERATORS["h100"])
    rest = [each.name for each in graph.operators][3:]
    stages = [["stem", "a"], ["b", *rest]]
    program(one, planned(one, stages, [3, 3]), 1)
    with pytest.raises(
        GraphError, match=r"stage 0 sends stage 1 a tensor of shape \(1, 2\), in which no dimension numb"
    ):
        program(one, planned(one, stages, [3, 6]), 1)
