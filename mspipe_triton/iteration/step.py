"""The computation of one iteration: a model's step on a scene, shared by staged and resident runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch

from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.iteration.ranking import Ranking
from mspipe_triton.iteration.scene import Scene
from mspipe_triton.models.model import TemporalModel

# Writes a batch's results, the ends' memory and mail, from h [U, D] of the scene's distinct nodes.
Write = Callable[[Scene, torch.Tensor | None], None]
# Takes these and the scene's loss [] after the forward pass; the function that it returns, called after the backward
# pass, writes the batch's results, and returns the loss [] of the batch.
Start = Callable[[Scene, torch.Tensor | None, torch.Tensor], Callable[[], torch.Tensor]]
# Opens a context whose work may run in parallel to later work; the function that it yields joins both.
Branch = Callable[[], AbstractContextManager[Callable[[], None]]]


class Learned(NamedTuple):
    """The loss [] of a batch."""

    loss: torch.Tensor


class Scored(NamedTuple):
    """Logits [2, B] of a batch's events and negatives, and for ranking those [B, N] of the candidates."""

    logits: torch.Tensor
    ranked: torch.Tensor | None

    @property
    def ranks(self) -> torch.Tensor:
        """Reciprocal ranks [B] of the events among their candidates; [0] where none are ranked."""
        if self.ranked is None:
            return torch.empty(0, dtype=torch.float64)
        return reciprocal_ranks(self.logits[0], self.ranked)


def reciprocal_ranks(positive: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return 1 / rank [B] of each positive [B] among its candidates [B, N]; tied scores share their mean rank."""
    scores = positive.unsqueeze(1)
    return 1.0 / (1.0 + (candidates > scores).sum(1).double() + 0.5 * (candidates == scores).sum(1).double())


class Embedded(NamedTuple):
    """Embeddings [B, D] of the sources right before their events."""

    sources: torch.Tensor


def forward(
    model: TemporalModel, scene: Scene, now: torch.Tensor | None = None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return h [U, D] of the distinct nodes (None in a model without memory) and embeddings [R, D] of the roots.

    Args:
        now: [], the time of the batch's first event; by default the scene's.
    """
    record, draws = scene.record, scene.draws
    hidden = model.update_memory(record, scene_time(scene) if now is None else now, draws)
    rows = scene.edges, scene.node_features
    return hidden, model.embed(hidden, record.digested_time, scene.around, scene.times, *rows, draws)


def scene_time(scene: Scene) -> torch.Tensor:
    """Return the time [] of the first event of the scene's batch."""
    return scene.times[0] if scene.now is None else scene.now


def loss_of(model: TemporalModel, scene: Scene, embedded: torch.Tensor) -> torch.Tensor:
    """Compute the loss [] of the scene's events, with its graph."""
    return model.loss(embedded, scene.pairs, scene.count, scene.each, scene.log_weights)[0]


def differentiate(
    loss: torch.Tensor, optimizer: torch.optim.Optimizer, unit: torch.Tensor | None = None, ranks: Ranks = ALONE
) -> torch.Tensor:
    """Compute the gradients of a loss [], summed over the ranks, and return the loss without its graph.

    Args:
        unit: [], the factor of the gradients, 1 if None; torch would then create a 1 on each call.
        ranks: those that share the batch.
    """
    optimizer.zero_grad()  # to None: a captured backward pass then owns the gradients' memory
    loss.backward(unit)
    parameters = (each for group in optimizer.param_groups for each in group["params"])
    ranks.reduce(each.grad for each in parameters if each.grad is not None)
    return loss.detach()


@contextmanager
def in_order() -> Iterator[Callable[[], None]]:
    """Run all work in the order of its calls, as a `Branch` without parallel work."""
    yield lambda: None


def after(write: Write) -> Start:
    """Make a `Start` for a batch that no other rank shares: nothing starts before the backward pass."""

    def start(scene: Scene, hidden: torch.Tensor | None, loss: torch.Tensor) -> Callable[[], torch.Tensor]:
        def finish() -> torch.Tensor:
            write(scene, hidden)
            return loss

        return finish

    return start


def learn(
    model: TemporalModel, scene: Scene, optimizer: torch.optim.Optimizer, start: Start,
    branch: Branch = in_order, unit: torch.Tensor | None = None, ranks: Ranks = ALONE,
) -> Learned:  # fmt: skip
    """Train on a batch: forward, loss, backward, the batch's writes, optimiser step.

    Args:
        start: starts an exchange with other ranks, and returns the function that writes memory and mail.
        branch: runs that function in parallel to the optimiser's step.
        unit, ranks: see `differentiate`.
    """
    hidden, embedded = forward(model, scene)
    loss = loss_of(model, scene, embedded)
    finish = start(scene, None if hidden is None else hidden.detach(), loss.detach())
    differentiate(loss, optimizer, unit, ranks)
    with branch() as join, torch.no_grad():  # writing reads no parameters, and the optimiser no tables
        loss = finish()
    optimizer.step()
    join()
    return Learned(loss)


@torch.no_grad()
def score(model: TemporalModel, scene: Scene, write: Write, ranking: Ranking | None = None) -> Scored:
    """Compute logits of a batch's events and negatives, and of the candidates if it is ranked."""
    hidden, embedded = forward(model, scene)
    events = scene.events.numel()
    logits = model.loss(embedded, scene.pairs, scene.count)[1][:, :events]
    ranked = None if ranking is None else rank(model, ranking, embedded[:events], logits[0], scene_time(scene))
    _write(write, scene, hidden)
    return Scored(logits, ranked)


@torch.no_grad()
def rank(
    model: TemporalModel, ranking: Ranking, src: torch.Tensor, positive: torch.Tensor, now: torch.Tensor
) -> torch.Tensor:
    """Compute logits [B, N] of candidates from their differences to the true destinations' logits.

    Equal embeddings then tie exactly, even where products of other shapes round differently.

    Args:
        src: [B, D], embeddings of the sources. positive: [B], the events' logits. now: [], the first event's time.
    """
    parts, start = list[torch.Tensor](), 0
    for rows, scene, gaps in ranking:
        stop = start + rows.shape[0]
        logits = model.score(src[start:stop], forward(model, scene, now)[1], rows, scene.pairs)
        logits = positive[start:stop, None] + (logits[:, 1:] - logits[:, :1])
        parts.append(logits if gaps is None else logits.masked_fill(gaps, -torch.inf))
        start = stop
    return torch.cat(parts)


@torch.no_grad()
def embed(model: TemporalModel, scene: Scene, write: Write) -> Embedded:
    """Compute embeddings of the sources alone, for tasks other than link prediction."""
    hidden, embedded = forward(model, scene)
    _write(write, scene, hidden)
    return Embedded(embedded[: scene.events.numel()])


@torch.no_grad()
def _write(write: Write, scene: Scene, hidden: torch.Tensor | None) -> None:
    write(scene, None if hidden is None else hidden.detach())
