"""Where a device stands in a run of batches: the next events, the iteration and the words of all draws, kept there."""

from __future__ import annotations

import torch

from mspipe_triton.data.negatives import LAYER, Purpose


class Clock:
    """Tells the steps of a run of batches their place, without the host: `advance` is one addition on the device.

    It is the `Draws` of every iteration in turn. The words of a draw stay where they are and count on there, so that a
    CUDA graph which reads them draws anew at every replay.

    Args:
        seed: of the run.
        size: B, events a batch.
        device: where it is read.
        layers: hops and layers that have draws of their own.
        groups: groups of ranked candidates, whose neighbours are drawn under 2 · group + epoch in the epoch's place.
    """

    def __init__(self, seed: int, size: int, device: torch.device, layers: int, groups: int = 0) -> None:
        self.seed, self.size = seed, size
        named = [(int(purpose), layer, 0) for purpose in Purpose for layer in range(max(layers, 1))]
        ranked = [(int(Purpose.RANKING_NEIGHBOURS), layer, group) for group in range(groups) for layer in range(layers)]
        self.rows = {key: row for row, key in enumerate(dict.fromkeys([*named, *ranked]), 1)}
        self.table = torch.zeros((len(self.rows) + 1, 4), dtype=torch.int64, device=device)
        step = torch.tensor([0, 0, 0, 1]).repeat(len(self.rows) + 1, 1)
        step[0] = torch.tensor([size, 0, 1, 0])
        self.step = step.to(device)

    def start(self, first: int, stop: int, epoch: int) -> int:
        """Go to the first of the batches of events [first, stop); returns how many there are."""
        place = torch.zeros(self.table.shape, dtype=torch.int64)
        place[0, :2] = torch.tensor([first, stop])
        for (purpose, layer, group), row in self.rows.items():
            place[row, :3] = torch.tensor([self.seed, purpose + LAYER * layer, epoch + 2 * group])
        self.table.copy_(place)
        return -(-(stop - first) // self.size)

    def advance(self) -> None:
        """Go on to the next batch."""
        self.table.add_(self.step)

    @property
    def span(self) -> torch.Tensor:
        """[2] int64: the batch's first event, and where the events end."""
        return self.table[0, :2]

    @property
    def iteration(self) -> torch.Tensor:
        """[1] int64: the batch's number."""
        return self.table[0, 2:3]

    def words(self, purpose: Purpose, layer: int = 0, group: int = 0) -> torch.Tensor:
        """Philox words [4] int64 of this iteration's draws."""
        return self.table[self.rows[int(purpose), layer, group]]
