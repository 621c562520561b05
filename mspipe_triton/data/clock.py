"""Position in a run of batches, stored on the device: the next events, the iteration, and the words of all draws."""

from __future__ import annotations

import torch

from mspipe_triton.data.negatives import LAYER, RANK, Purpose, drawing_rank


class Clock:
    """Counter of the batches of a run that needs no host: `advance` is one addition on the device.

    It serves as the `Draws` of every iteration in turn. The words of a draw are incremented in place, so a CUDA graph
    that reads them draws new numbers in every replay.

    Args:
        seed: of the run.
        size: B, events per batch.
        device: the device that reads the counter.
        layers: number of hops and layers with draws of their own.
        groups: number of parts in which a batch is ranked; neighbours are drawn with 2 · group + epoch as the epoch.
        rank: of the process; see `drawing_rank`.
    """

    def __init__(self, seed: int, size: int, device: torch.device, layers: int, groups: int = 0, rank: int = 0) -> None:
        self.seed, self.size, self.layers, self.rank = seed, size, layers, rank
        keys = [(int(purpose), layer, 0) for purpose in Purpose for layer in range(max(layers, 1))]
        keys += [(int(Purpose.RANKING_NEIGHBOURS), layer, group) for group in range(groups) for layer in range(layers)]
        self.rows = {key: row for row, key in enumerate(dict.fromkeys(keys), 1)}
        self.table = torch.zeros((len(self.rows) + 1, 4), dtype=torch.int64, device=device)
        step = torch.tensor([0, 0, 0, 1]).repeat(len(self.rows) + 1, 1)
        step[0] = torch.tensor([size, 0, 1, 0])
        self.step = step.to(device)

    def start(self, first: int, stop: int, epoch: int) -> int:
        """Go to the first batch of events [first, stop); returns the number of batches."""
        place = torch.zeros(self.table.shape, dtype=torch.int64)
        place[0, :2] = torch.tensor([first, stop])
        for (purpose, layer, group), row in self.rows.items():
            rank = drawing_rank(Purpose(purpose), layer, self.layers, self.rank)
            place[row, :3] = torch.tensor([self.seed, purpose + LAYER * layer + RANK * rank, epoch + 2 * group])
        self.table.copy_(place)
        return -(-(stop - first) // self.size)

    def advance(self) -> None:
        """Go to the next batch."""
        self.table.add_(self.step)

    @property
    def span(self) -> torch.Tensor:
        """[2] int64: the batch's first event, and the end of all events."""
        return self.table[0, :2]

    @property
    def iteration(self) -> torch.Tensor:
        """[1] int64: the batch's number."""
        return self.table[0, 2:3]

    def words(self, purpose: Purpose, layer: int = 0, group: int = 0) -> torch.Tensor:
        """Philox words [4] int64 of this iteration's draws."""
        return self.table[self.rows[int(purpose), layer, group]]
