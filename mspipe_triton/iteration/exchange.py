"""Exchange of a batch among ranks: each rank's part of the outcome, and the updated memory of the batch's ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from mspipe_triton.distributed.ranks import Gathering, Ranks
from mspipe_triton.iteration.scene import Scene
from mspipe_triton.iteration.step import Embedded, Learned, Scored


class Scores(NamedTuple):
    """Logits [2, B] of a batch's events and negatives, and reciprocal ranks [B], or [0] where none are ranked."""

    logits: torch.Tensor
    ranks: torch.Tensor


class Memory:
    """A `Write` that stores h [U, D] of a share's nodes, None in a model without memory."""

    hidden: torch.Tensor | None

    def __call__(self, scene: Scene, hidden: torch.Tensor | None) -> None:
        """Store h."""
        self.hidden = hidden


@dataclass(frozen=True)
class Exchange:
    """Results of all ranks on their way to each of them: `parts` tensors of the outcome, then rows of memory."""

    gathering: Gathering
    parts: int

    @staticmethod
    @torch.no_grad()
    def start(
        ranks: Ranks, parts: Sequence[torch.Tensor], scene: Scene, hidden: torch.Tensor | None, rows: torch.Tensor
    ) -> Exchange:
        """Start to exchange parts of the outcome, and `rows` [R] of h [U, D] of the scene's nodes, if there is any."""
        sources = [] if hidden is None else [scene.record.digested_time, hidden]
        return Exchange(ranks.gather([*parts, *(each.index_select(0, rows) for each in sources)]), len(parts))

    def wait(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the parts [N, …] of all ranks, and the times [N · R] and rows [N · R, D] of memory, if any."""
        everything = self.gathering.wait()
        return everything[: self.parts], [each.flatten(0, 1) for each in everything[self.parts :]]


def loss_parts(loss: torch.Tensor, weight: float | torch.Tensor) -> list[torch.Tensor]:
    """Return a share's part [1] of the batch's loss; `weight` is that of the share's loss []."""
    return [loss.detach().double().mul(weight).view(1)]


def join_losses(losses: torch.Tensor) -> Learned:
    """Add up the ranks' parts [N, 1] of the loss."""
    return Learned(losses.sum())


def score_parts(result: Scored, size: int) -> list[torch.Tensor]:
    """Return logits [C, 2] of a share of `size` C, and its reciprocal ranks [C] if its events are ranked."""
    missing = size - result.logits.shape[1]
    parts = [pad(result.logits, (0, missing)).t()]
    return parts if result.ranked is None else [*parts, pad(result.ranks, (0, missing))]


def join_scores(events: int, logits: torch.Tensor, ranks: torch.Tensor | None = None) -> Scores:
    """Join logits [N, C, 2] and reciprocal ranks [N, C] of a batch's events."""
    joined = logits.new_empty(0, dtype=torch.float64) if ranks is None else ranks.flatten()[:events]
    return Scores(logits.flatten(0, 1)[:events].t(), joined)


def embedding_parts(result: Embedded, size: int) -> list[torch.Tensor]:
    """Return embeddings [C, D] of a share of `size` C."""
    return [pad(result.sources, (0, 0, 0, size - result.sources.shape[0]))]


def join_embeddings(events: int, sources: torch.Tensor) -> Embedded:
    """Join embeddings [N, C, D] of a batch's events."""
    return Embedded(sources.flatten(0, 1)[:events])
