"""Layout of a mini-batch over the processes of a plan: which samples each pass has, and which it gets from others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan


class Slice(NamedTuple):
    """Samples of a mini-batch that one pass of a stage has in common with one of a later stage.

    Outputs go from the sender's forward pass to the receiver's; gradients come back between their backward passes.

    Args:
        sender: process of the earlier stage.
        sender_pass: number of the micro-batch there.
        receiver: process of the later stage.
        receiver_pass: number of the micro-batch there.
        start: first sample.
        stop: the one after the last.
        first: True if it is the first that the receiver's pass gets.
    """

    sender: int
    sender_pass: int
    receiver: int
    receiver_pass: int
    start: int
    stop: int
    first: bool


@dataclass(frozen=True)
class Layout:
    """The samples of all passes of a plan, whose processes are numbered as its devices."""

    plan: PipelinePlan

    @cached_property
    def places(self) -> dict[int, tuple[int, int]]:
        """Of every process, the index of its stage, and its place among the devices of the stage."""
        return {
            device: (index, replica)
            for index, stage in enumerate(self.plan.stages)
            for replica, device in enumerate(stage.devices)
        }

    def passes(self, stage: int) -> int:
        """Return the number of micro-batches of a stage."""
        return self.plan.problem.batch // self.plan.stages[stage].rhythm.micro_batch

    def share(self, stage: int, replica: int) -> range:
        """Return the samples of the first micro-batch that one device of a stage has; the first devices have more."""
        devices = len(self.plan.stages[stage].devices)
        size, more = divmod(self.plan.stages[stage].rhythm.micro_batch, devices)
        start = replica * size + min(replica, more)
        return range(start, start + size + (replica < more))

    def samples(self, stage: int, replica: int, number: int) -> range:
        """Return the samples that one device of a stage has in a micro-batch."""
        first = number * self.plan.stages[stage].rhythm.micro_batch
        share = self.share(stage, replica)
        return range(first + share.start, first + share.stop)

    def aligned(self, before: int, stage: int) -> bool:
        """Return True if both stages have the same samples in each pass of each device."""
        one, other = self.plan.stages[before], self.plan.stages[stage]
        return (one.rhythm.micro_batch, len(one.devices)) == (other.rhythm.micro_batch, len(other.devices))

    def behind(self, stage: int) -> int:
        """Return how many backward passes after a gradient was sent it has surely been received.

        A pass so much later needs outputs that an earlier stage computes after it has used the gradient.
        """
        earlier = [self.plan.stages[each] for each in self.plan.stages[stage].after]
        samples = max(((each.in_flight + 1) * each.rhythm.micro_batch for each in earlier), default=0)
        return 1 - (-samples // self.plan.stages[stage].rhythm.micro_batch)

    def slices(self, before: int, stage: int) -> Iterator[Slice]:
        """Yield what the passes of an earlier and of a later stage have in common, by process of the later one.

        Between two processes, both number their passes in the order of the samples, so neither sends out of order.
        """
        senders, micro_batch = self.plan.stages[before].devices, self.plan.stages[before].rhythm.micro_batch
        for replica, receiver in enumerate(self.plan.stages[stage].devices):
            for number in range(self.passes(stage)):
                mine = self.samples(stage, replica, number)
                for other in range(mine.start // micro_batch, (mine.stop - 1) // micro_batch + 1):
                    for place, sender in enumerate(senders):
                        theirs = self.samples(before, place, other)
                        start, stop = max(mine.start, theirs.start), min(mine.stop, theirs.stop)
                        if start < stop:
                            yield Slice(sender, other, receiver, number, start, stop, start == mine.start)
