"""Modules whose passes are not a function of the samples alone: batch norm, and dropout."""

from __future__ import annotations

import pytest
import torch

from tests.pipeline.graphpipe.run.cases import BATCH
from tests.pipeline.graphpipe.run.harness import compare, equal, joined, train
from tests.pipeline.graphpipe.run.layouts import Layout, Share, by_hand
from tests.processes.pool import Pool


@pytest.mark.parametrize("micro_batch", [3, 4])
@pytest.mark.parametrize("words", [("first.0", "first.1 second.0", "second.1 head"), ("first second", "head")])
@pytest.mark.sample(2)
def test_batch_norm_sees_one_micro_batch_after_the_other(
    processes: Pool, words: tuple[str, ...], micro_batch: int
) -> None:
    plan = by_hand("normalised", Layout(tuple(Share(each, 1, micro_batch) for each in words)))
    compare(processes, plan, "normalised", torch.float64, "sgd", micro_batch)


def test_replicas_with_batch_norm_have_one_state(processes: Pool) -> None:
    plan = by_hand("normalised", Layout((Share("first second", 3, 6), Share("head", 1, 6))))
    outcome = joined(plan, processes(4, train, plan, "normalised", torch.float64, "sgd"))
    assert int(outcome.state["first.1.num_batches_tracked"]) == 10 * BATCH // 6


@pytest.mark.parametrize(
    "shares",
    [
        (Share("drop a", 1, 4), Share("b", 1, 4), Share("head", 1, 4)),
        (Share("drop", 1, 2), Share("a b", 2, 6), Share("head", 1, 3)),
        (Share("drop a b", 2, 4), Share("head", 1, 4)),
    ],
    ids=["branches", "replicas", "trunk"],
)
@pytest.mark.sample(2)
def test_dropout_repeats_with_the_seed(processes: Pool, shares: tuple[Share, ...]) -> None:
    plan = by_hand("dropped", Layout(shares))
    one, again, other = (
        joined(plan, processes(plan.devices, train, plan, "dropped", torch.float64, "adam", seed)) for seed in (1, 1, 2)
    )
    assert all(torch.isfinite(each).all() for each in one.state.values())
    for quantity in ("gradients", "losses", "state"):
        assert equal(getattr(one, quantity), getattr(again, quantity))
    assert not any(torch.equal(value, other.gradients[name]) for name, value in one.gradients.items())
    assert len({float(each) for each in one.losses.values()}) == len(one.losses)


def test_branches_share_the_dropout_of_their_input(processes: Pool) -> None:
    """The loss is the difference of equal branches on two devices, which is 0 only if both see the same mask."""
    plan = by_hand("twins", Layout((Share("drop a", 1, 4), Share("b mse_loss", 1, 3))))
    outcome = joined(plan, processes(2, train, plan, "twins", torch.float64, "sgd"))
    assert all(float(each) < 1e-24 for each in outcome.losses.values())
    assert all(float(each.abs().max()) < 1e-12 for each in outcome.gradients.values())
