"""The exchange of a batch's ends: every node is sent once, by a rank that has it, and about as many by each rank."""

from __future__ import annotations

from math import ceil, log, sqrt
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.distributed.ends import Ends
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.placement import Placement
from tests.distributed.plain_ends import holders, most_rows, plain_ends, senders
from tests.distributed.streams import hub, real


def roots_of(src: list[int], dst: list[int], size: int, rank: int, world: int) -> list[int]:
    """Return the ends among a rank's roots, sources ‖ destinations, −1 in padding; a rank without events has the last.

    A share has ceil(size / world) places for sources, and as many for destinations.
    """
    share = ceil(size / world)
    numbers = range(rank * share, min((rank + 1) * share, len(src))) or range(len(src) - 1, len(src))
    columns = ([column[number] for number in numbers] for column in (src, dst))
    return [node for column in columns for node in [*column, *[-1] * (share - len(column))]]


def check(src: list[int], dst: list[int], size: int, world: int) -> None:
    """Exchange the nodes' numbers themselves, and compare with the oracle."""
    columns = torch.tensor(src), torch.tensor(dst)
    by_rank = [Ends.of(*columns, size, Ranks(rank, world)) for rank in range(world)]
    expected, chosen, rows = plain_ends(src, dst), senders(src, dst, size, world), most_rows(src, dst, size, world)
    messages = []
    for rank, ends in enumerate(by_rank):
        assert ends.nodes.tolist() == expected
        assert ends.nodes[ends.src_rows].tolist() == src
        assert ends.nodes[ends.dst_rows].tolist() == dst
        assert torch.equal(ends.rows, by_rank[0].rows)
        assert ends.mine.shape == (rows,)
        nodes = [node for node in expected if chosen[node] == rank]
        sent = torch.tensor(roots_of(src, dst, size, rank, world))[ends.mine].tolist()
        assert sent[: len(nodes)] == nodes
        assert set(sent[len(nodes) :]) <= {roots_of(src, dst, size, rank, world)[0]}
        messages += sent
    gathered = torch.tensor(messages)
    assert gathered[by_rank[0].rows].tolist() == expected
    assert by_rank[0].rows.unique().numel() == len(expected)


@settings(deadline=None, max_examples=150)
@given(
    events=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40),
    missing=st.integers(0, 20),
    world=st.integers(1, 9),
)
def test_every_node_is_sent_once_by_a_rank_that_has_it(events: list[tuple[int, int]], missing: int, world: int) -> None:
    src, dst = (list(column) for column in zip(*events, strict=True))
    check(src, dst, len(events) + missing, world)


@pytest.mark.parametrize("world", [1, 2, 4, 7])
@pytest.mark.parametrize(
    ("src", "dst", "size"),
    [
        ([5], [5], 1),  # a loop
        ([5], [6], 600),  # a last batch of one event
        ([3, 3, 3], [3, 3, 3], 3),
        ([0, 1, 2], [9, 9, 9], 3),  # more ranks than events, and a node in each event
        ([0, 1, 0, 1, 0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0, 1, 0, 1, 0], 10),
    ],
)
def test_small_batches(src: list[int], dst: list[int], size: int, world: int) -> None:
    check(src, dst, size, world)


def test_batches_of_a_stream_with_a_node_in_every_event() -> None:
    stream = hub(300)
    for start in range(0, 300, 77):
        events = slice(start, start + 77)
        check(stream.src[events].tolist(), stream.dst[events].tolist(), 77, 4)


def test_the_device_gets_the_same_ends() -> None:
    ends = Ends.of(torch.tensor([4, 2, 4]), torch.tensor([2, 7, 4]), 3, Ranks(1, 2))
    for name, tensor in vars(ends.on(Placement())).items():
        assert torch.equal(tensor, getattr(ends, name)), name


@pytest.mark.data
@pytest.mark.parametrize("world", [2, 4, 16])
def test_ranks_send_about_as_many_rows(real_data: Path, world: int) -> None:
    """Compare R with a random choice among each node's occurrences, for which rank r expects to send μ_r nodes.

    A node that only one rank has leaves no choice, so the largest μ is above E / N. The largest of N sums of K choices
    between 0 and 1 is √(K ln(N) / 2) above the largest expectation at most, on average over all choices (Hoeffding).
    """
    stream, size = real(real_data, 12_000), 600
    total, bound = 0.0, 0.0
    for start in range(0, 12_000, size):
        src, dst = (column[start : start + size].tolist() for column in (stream.src, stream.dst))
        total += Ends.of(torch.tensor(src), torch.tensor(dst), size, Ranks(0, world)).mine.numel()
        ranks = holders(src, dst, size, world)
        expected = [sum(each.count(rank) / len(each) for each in ranks.values()) for rank in range(world)]
        choices = max(sum(rank in each and len(set(each)) > 1 for each in ranks.values()) for rank in range(world))
        bound += max(expected) + sqrt(choices * log(world) / 2)
    assert total <= bound
