"""Layout of samples: who has what in each pass, what crosses between passes, and in which order."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import assume, given

from mspipe_triton.pipeline.graphpipe.operators import Operator, OperatorGraph
from mspipe_triton.pipeline.graphpipe.plan import Part, PipelinePlan, assemble
from mspipe_triton.pipeline.graphpipe.problem import Cluster, Problem
from mspipe_triton.pipeline.graphpipe.run.layout import Layout, Slice
from mspipe_triton.pipeline.graphpipe.schedule import Rhythm, passes
from tests.pipeline.graphpipe.plans import random_plans

Visit = tuple[int, bool, int]  # process, forward or backward, number of the pass


def pair(one: tuple[int, int], other: tuple[int, int], batch: int) -> Layout:
    """Layout of two stages, each with a micro-batch and a number of devices."""
    graph = OperatorGraph((Operator("a", output=1, parameters=1), Operator("b", parameters=1)), ((0, 1),))
    parts = [Part(1, one[1], Rhythm(one[0])), Part(2, other[1], Rhythm(other[0]))]
    return Layout(assemble(Problem(graph, Cluster(one[1] + other[1], 100), batch), parts))


def full(plan: PipelinePlan) -> bool:
    """Return True if every device has a sample of every micro-batch."""
    return all(len(stage.devices) <= stage.rhythm.micro_batch for stage in plan.stages)


def test_shares_by_hand() -> None:
    """Ten samples on three devices: four, three, three; in the second micro-batch of two, from ten on."""
    layout = pair((10, 3), (20, 1), 20)
    assert [layout.share(0, replica) for replica in range(3)] == [range(4), range(4, 7), range(7, 10)]
    assert [layout.samples(0, replica, 1) for replica in range(3)] == [range(10, 14), range(14, 17), range(17, 20)]


def test_slices_by_hand() -> None:
    """Micro-batches of two on two devices, then of three on one, in a mini-batch of six."""
    layout = pair((2, 2), (3, 1), 6)
    assert list(layout.slices(0, 1)) == [
        Slice(0, 0, 2, 0, 0, 1, True),
        Slice(1, 0, 2, 0, 1, 2, False),
        Slice(0, 1, 2, 0, 2, 3, False),
        Slice(1, 1, 2, 1, 3, 4, True),
        Slice(0, 2, 2, 1, 4, 5, False),
        Slice(1, 2, 2, 1, 5, 6, False),
    ]
    assert not layout.aligned(0, 1)


@pytest.mark.parametrize(("one", "other", "aligned"), [((2, 1), (2, 1), True), ((2, 2), (2, 1), False)])
def test_stages_are_aligned_if_their_passes_have_equal_samples(
    one: tuple[int, int], other: tuple[int, int], aligned: bool
) -> None:
    assert pair(one, other, 4).aligned(0, 1) is aligned


@given(random_plans())
def test_every_sample_of_a_pass_comes_once_from_every_stage_before(plan: PipelinePlan) -> None:
    assume(full(plan))
    layout = Layout(plan)
    for index, stage in enumerate(plan.stages):
        samples = [
            sample
            for number in range(layout.passes(index))
            for replica in range(len(stage.devices))
            for sample in layout.samples(index, replica, number)
        ]
        assert sorted(samples) == list(range(plan.problem.batch))
        for before in stage.after:
            received, sent = defaultdict(list), defaultdict(list)
            for each in layout.slices(before, index):
                received[each.receiver, each.receiver_pass].append(each)
                sent[each.sender, each.sender_pass] += range(each.start, each.stop)
            for (process, number), slices in received.items():
                mine = layout.samples(index, layout.places[process][1], number)
                assert [sample for each in slices for sample in range(each.start, each.stop)] == list(mine)
                assert [each.first for each in slices] == [True] + [False] * (len(slices) - 1)
            for (process, number), several in sent.items():
                assert sorted(several) == list(layout.samples(before, layout.places[process][1], number))


def orders(plan: PipelinePlan) -> dict[int, list[tuple[bool, int]]]:
    """Passes of every process, in the order in which it runs them."""
    return {
        device: list(passes(stage.rhythm, stage.in_flight * stage.rhythm.micro_batch, plan.problem.batch))
        for stage in plan.stages
        for device in stage.devices
    }


def messages(plan: PipelinePlan) -> list[tuple[Visit, Visit]]:
    """Passes that send, with those that receive: outputs, and gradients the other way."""
    layout, result = Layout(plan), []
    for index, stage in enumerate(plan.stages):
        for before in stage.after:
            for each in layout.slices(before, index):
                sender, receiver = (each.sender, each.sender_pass), (each.receiver, each.receiver_pass)
                result.append(((sender[0], True, sender[1]), (receiver[0], True, receiver[1])))
                result.append(((receiver[0], False, receiver[1]), (sender[0], False, sender[1])))
    return result


@given(random_plans())
def test_messages_between_two_processes_are_received_in_the_order_in_which_they_are_sent(plan: PipelinePlan) -> None:
    assume(full(plan))
    place = {(who, *each): turn for who, order in orders(plan).items() for turn, each in enumerate(order)}
    channels = defaultdict(list)
    for sender, receiver in messages(plan):
        channels[sender[0], receiver[0], sender[1]].append((sender, receiver))
    for pairs in channels.values():
        by_sender = sorted(pairs, key=lambda each: place[each[0]])
        assert by_sender == sorted(pairs, key=lambda each: place[each[1]])


@given(random_plans())
def test_no_process_waits_for_ever(plan: PipelinePlan) -> None:
    """A pass waits for what it receives; a backward pass also until what was sent has been received.

    That is what its forward pass sent, and what a backward pass sent `behind` passes earlier.

    A process begins to receive what a pass needs one pass earlier.
    """
    assume(full(plan))
    order, layout = orders(plan), Layout(plan)
    turns = dict.fromkeys(layout.places, 0)
    place = {(who, *each): turn for who, several in order.items() for turn, each in enumerate(several)}
    needs, sent = defaultdict(list), defaultdict(list)
    for sender, receiver in messages(plan):
        needs[receiver].append(sender)
        sent[sender].append(receiver)

    def ready(who: int, forward: bool, number: int) -> bool:
        arrived = all(turns[each[0]] > place[each] for each in needs[who, forward, number])
        earlier = number - layout.behind(layout.places[who][0])
        waiting = [*sent[who, True, number], *sent[who, False, earlier]]
        return arrived and (forward or all(turns[each[0]] >= place[each] - 1 for each in waiting))

    moved = True
    while moved:
        moved = False
        for who, several in order.items():
            while turns[who] < len(several) and ready(who, *several[turns[who]]):
                turns[who] += 1
                moved = True
    assert turns == {who: len(several) for who, several in order.items()}
