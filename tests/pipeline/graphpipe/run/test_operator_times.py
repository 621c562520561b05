"""Times of single operators in a run: they are those of its own operators, and nothing of the training changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mspipe_triton.pipeline.graphpipe.capture import capture
from mspipe_triton.pipeline.graphpipe.costs import ACCELERATORS
from mspipe_triton.pipeline.graphpipe.operators import members
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.profile import measured_costs
from mspipe_triton.pipeline.graphpipe.run.settings import RunSettings
from mspipe_triton.pipeline.graphpipe.run.worker import work
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm
from tests.pipeline.graphpipe.run.cases import batches
from tests.pipeline.graphpipe.run.harness import trainer_of
from tests.pipeline.graphpipe.run.layouts import FURTHER, NAMED, Layout, Share, by_hand
from tests.processes.pool import Pool

HERE = "tests.pipeline.graphpipe.run.test_operator_times"
DTYPE = torch.float64
BATCH = 8
SLEEPS = {"a.0": 1e-3, "a.1": 4e-3, "b.0": 5e-3, "b.1": 2e-3}  # seconds per sample; a backward pass takes twice it


@torch.library.custom_op("mspipe_test::sleep", mutates_args=())
def sleep(x: Tensor, per_sample: float) -> Tensor:
    """Return a copy of x, [N, D], after N · `per_sample` seconds."""
    time.sleep(len(x) * per_sample)
    return x.clone()


@sleep.register_fake
def _(x: Tensor, per_sample: float) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
    ctx.per_sample = inputs[1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return sleep(gradient, 2 * ctx.per_sample), None


sleep.register_autograd(_backward, setup_context=_remember)


class Layer(nn.Module):
    """A fully connected layer that sleeps."""

    def __init__(self, per_sample: float) -> None:
        super().__init__()
        self.per_sample, self.linear = per_sample, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3] to [N, 3]."""
        return sleep(F.linear(x, self.linear.weight, self.linear.bias), self.per_sample)


class Sleepers(nn.Module):
    """Two layers, and then two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(*(Layer(SLEEPS[f"{branch}.{index}"]) for index in range(2))) for branch in "ab")

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean square of the last layer."""
        return self.b(self.a(x)).square().mean()


class Picky(nn.Module):
    """A layer whose results are between -1 and 0, and a loss that fails for others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums of the binary cross-entropy of the first and the square of the second, [N]."""
        first = self.a(x) - 1
        errors = F.binary_cross_entropy(first + 1, torch.ones_like(first), reduction="none")
        return errors.mean(1) + self.b(first).square().squeeze(1)


def sleepers() -> tuple[nn.Module, tuple[Tensor]]:
    return Sleepers(), (torch.randn(2, 3),)


def picky() -> tuple[nn.Module, tuple[Tensor]]:
    return Picky(), (torch.randn(2, 3),)


def data() -> repeat[tuple[Tensor]]:
    return repeat((torch.ones(BATCH, 3),))


def planned(build: Any, stages: Sequence[tuple[str, int]]) -> PipelinePlan:
    """Plan a model by hand: a word that the names of the stage's first operators begin with, and devices."""
    module, inputs = build()
    graph = capture(module, inputs, accelerator=ACCELERATORS["h200"])
    sets, index = [0] * len(stages), 0
    for each in members(graph.placed):
        if index + 1 < len(stages) and graph.operators[each].name.startswith(stages[index + 1][0]):
            index += 1
        sets[index] |= 1 << each
    parts = [Part(each, devices, Rhythm(4)) for each, (_, devices) in zip(sets, stages, strict=True)]
    return assemble(Problem(graph, Cluster(sum(devices for _, devices in stages), 1e12), BATCH), parts)


def run(plan: PipelinePlan, model: str, profile: bool) -> tuple[dict[str, Any], Any] | None:
    """Train in this process; return the result as JSON, and the times of the operators."""
    result = work(plan, f"{HERE}:{model}", f"{HERE}:data", RunSettings(steps=2), profile=profile)
    return None if result is None else (result.to_json(), result.operators)


def measure(plan: PipelinePlan, name: str) -> tuple[int, dict[str, tuple[float, float]]]:
    """Measure the operators of this process's stage between two steps, and check that nothing changes."""
    trainer = trainer_of(plan, name, DTYPE, "adam")
    first, second = batches(name, DTYPE, 2)
    trainer.step(first, {})
    gradients = {key: each.grad for key, each in trainer.parameters.items()}
    before = {key: (each, each.clone(), each._version) for key, each in trainer.state.items()}
    random = torch.get_rng_state()
    seconds = trainer.operator_seconds()
    assert torch.equal(random, torch.get_rng_state())
    for key, each in trainer.state.items():
        same, values, version = before[key]
        assert each is same
        assert (torch.equal(each, values), each._version) == (True, version)
    assert gradients == {key: each.grad for key, each in trainer.parameters.items()}
    trainer.step(second, {})
    return trainer.index, seconds


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, NAMED[name][4]) for name in ("two-branch", "dlrm", "mmt")),
        *(FURTHER[each] for each in ("a join of losses", "a relayed skip", "a frozen stem in a chain")),
        ("normalised", Layout((Share("first second", 3, 6), Share("head", 1, 6)))),
        ("dropped", Layout((Share("drop", 1, 2), Share("a b", 2, 6), Share("head", 1, 3)))),
    ],
    ids=["two-branch", "dlrm", "mmt", "join", "skip", "frozen", "normalised", "dropped"],
)
def test_every_operator_has_times_and_nothing_changes(processes: Pool, name: str, layout: Layout) -> None:
    plan = by_hand(name, layout)
    graph = plan.problem.graph
    for index, seconds in processes(plan.devices, measure, plan, name):
        needed = set(graph.names(plan.stages[index].operators & graph.placed))
        assert needed <= set(seconds) <= set(graph.names(plan.stages[index].operators))
        for operator, (forward, backward) in seconds.items():
            assert forward > 0, operator
            assert backward >= 0, operator


@pytest.mark.slow
def test_operators_have_their_own_times(processes: Pool) -> None:
    """Layers of a stage on two devices have 2 of 4 samples each."""
    plan = planned(sleepers, [("a", 1), ("b", 2)])
    (report, operators), *others = processes(3, run, plan, "sleepers", True)
    assert others == [None, None]
    assert report["bandwidth"] > 0
    assert report["operators"] == {
        name: {"forward": forward, "backward": backward} for name, (forward, backward) in operators.items()
    }
    for name, per_sample in SLEEPS.items():
        samples = 4 if name.startswith("a") else 2
        (forward, backward) = operators[name]
        assert samples * per_sample <= forward < 1.5 * samples * per_sample + 5e-3
        assert 2 * samples * per_sample <= backward < 3 * samples * per_sample + 5e-3
    passes = [(each["forward"]["measured"], each["backward"]["measured"]) for each in report["stages"]]
    costs = {each.name: each for each in measured_costs(plan, passes, operators).operators}
    alike = {each.name: each for each in measured_costs(plan, passes).operators}
    assert costs["a.1"].forward.per_sample > 2 * costs["a.0"].forward.per_sample
    assert costs["b.0"].backward.per_sample > 1.5 * costs["b.1"].backward.per_sample
    assert alike["a.1"].forward.per_sample < 1.5 * alike["a.0"].forward.per_sample


@pytest.mark.slow
def test_operators_are_measured_only_if_a_profile_is_wanted(processes: Pool) -> None:
    report, operators = processes(2, run, planned(sleepers, [("a", 1), ("b", 1)]), "sleepers", False)[0]
    assert operators is None
    assert "operators" not in report


@pytest.mark.slow
def test_a_stage_whose_operators_cannot_run_alone_has_no_times(processes: Pool) -> None:
    plan = planned(picky, [("a", 1), ("b", 1)])
    graph = plan.problem.graph
    report, operators = processes(2, run, plan, "picky", True)[0]
    assert all(each > 0 for each in report["losses"])
    first, second = (set(graph.names(stage.operators & graph.placed)) for stage in plan.stages)
    assert first <= set(operators)
    assert not second & set(operators)
