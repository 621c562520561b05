"""What resident passes do with a batch: train on it, score and rank it, or keep the embeddings of its sources."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.neighbourhood import Neighbourhood, Roots
from mspipe_triton.data.static_neighbourhood import StaticSampler
from mspipe_triton.kernels import draw_batch
from mspipe_triton.training.iteration import ranked_columns
from mspipe_triton.training.metrics import reciprocal_ranks
from mspipe_triton.training.resident_pass import OnDevice, Pass, Scene, embedded, new_keys


class TrainPass(Pass):
    """Forward, loss, backward, optimiser step; `losses` [iterations] keeps the loss of every batch."""

    def __init__(self, given: OnDevice, iterations: int, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(given, Purpose.TRAIN_NEGATIVES, iterations)
        self.optimizer = optimizer
        self.losses = given.model.time.frequency.new_empty(iterations)
        self.unit = self.losses.new_ones(())  # the loss's own gradient, which backward would make every time

    def work(self, scene: Scene) -> None:
        """Train on a batch, then write what it leaves."""
        record, hidden, embeddings = self.embedded(scene, self.clock)
        loss, _ = self.given.model.loss(embeddings, scene.count)
        self.optimizer.zero_grad()  # to None: a captured backward pass then owns the gradients' memory
        loss.backward(self.unit)
        with self.aside() as join:  # it reads no parameters, and the optimiser no tables
            self.deliver(scene, record, hidden)
        self.optimizer.step()
        join()
        self.losses.index_copy_(0, self.clock.iteration, loss.detach().view(1))

    def changed(self) -> list[torch.Tensor]:
        """Node tables, parameters, and the optimiser's state."""
        return [*super().changed(), *self.learned()]

    def learned(self) -> list[torch.Tensor]:
        """Parameters and the optimiser's state, which is made where it is not there yet."""
        states = self.optimizer.state
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        if any(each not in states for each in parameters):
            self._make_state(parameters)
        moments = [value for each in parameters for value in states[each].values() if isinstance(value, torch.Tensor)]
        return [*parameters, *moments]

    @torch.no_grad()
    def _make_state(self, parameters: list[torch.Tensor]) -> None:
        """Let the optimiser make its state by a step that is undone."""
        before = [each.clone() for each in parameters]
        for each in parameters:
            each.grad = torch.zeros_like(each)
        self.optimizer.step()
        for each, kept in zip(parameters, before, strict=True):
            each.copy_(kept)
            for value in self.optimizer.state[each].values():
                value.zero_()
        self.optimizer.zero_grad()


class ScorePass(Pass):
    """Logits `scores` [iterations, 2, B] of positives and negatives, and `ranks` [iterations, B], reciprocal, if asked.

    Args:
        ranked: N random destinations that each event is ranked among, 0 for none.
    """

    def __init__(self, given: OnDevice, iterations: int, ranked: int = 0) -> None:
        self.ranked, self.columns = ranked, ranked_columns(given.size)
        groups = -(-ranked // self.columns)
        super().__init__(given, Purpose.EVAL_NEGATIVES, iterations, groups)
        self.scores = given.model.time.frequency.new_empty((iterations, 2, given.size))
        self.ranks = torch.empty((iterations, given.size), dtype=torch.float64, device=given.device)
        self.candidates = StaticSampler(given.sampler, given.model.layers)

    @torch.no_grad()
    def work(self, scene: Scene) -> None:
        """Score a batch, rank its destinations, then write what it leaves."""
        given = self.given
        record, hidden, embeddings = self.embedded(scene, None)
        _, scores = given.model.loss(embeddings, scene.count)
        self.scores.index_copy_(0, self.clock.iteration, scores.unsqueeze(0))
        if self.ranked:
            ranked = [self._rank(scene, embeddings[: given.size], scores[0], *group) for group in self._drawn()]
            self.ranks.index_copy_(0, self.clock.iteration, reciprocal_ranks(scores[0], torch.cat(ranked, 1))[None])
        self.deliver(scene, record, hidden)

    def look(self) -> None:
        """The batch, and the candidates of its events."""
        self.clock.table.copy_(self.ahead.table)
        super().look()
        if self.ranked:
            for number, candidates, times in self._drawn():
                self._around(number, candidates, times)

    def samplers(self) -> Iterator[StaticSampler]:
        """Of the batch and of candidates."""
        yield from super().samplers()
        yield self.candidates

    def _drawn(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """The candidates of the clock's batch in groups of columns, the true destination in front of each group:
        the group's number, nodes [B, 1 + C] and times [B, 1 + C]."""
        given, clock, size = self.given, self.clock, self.given.size
        stream, words = given.stream, clock.words(Purpose.RANKING_NEGATIVES)
        nodes, times, *_ = draw_batch(
            stream.src, stream.dst, stream.t, given.destinations, clock.span, words, size, self.ranked
        )
        both = (part[2 * size :].view(size, -1).split(self.columns, 1) for part in (nodes, times))
        dst, at = (part[size : 2 * size, None] for part in (nodes, times))
        for number, (group, group_at) in enumerate(zip(*both, strict=True)):
            yield number, torch.cat([dst, group], 1), torch.cat([at, group_at], 1)

    def _around(self, number: int, columns: torch.Tensor, times: torch.Tensor) -> tuple[Roots, Neighbourhood]:
        """A group's roots and their neighbourhood."""
        layers, roots = self.given.model.layers, columns.reshape(-1)
        keys = new_keys(roots, len(self.given.stream)) if layers > 1 else roots
        points = Roots(roots, times.reshape(-1), keys)
        words = [self.clock.words(Purpose.RANKING_NEIGHBOURS, hop, number) for hop in range(layers)]
        return points, self.candidates.around(points, 0, words)

    def _rank(
        self, scene: Scene, src: torch.Tensor, positive: torch.Tensor, number: int, columns: torch.Tensor,
        times: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Logits [B, C] of a group of candidates, by what they differ from the true destination's."""
        points, around = self._around(number, columns, times)
        *_, embeddings = embedded(self.given, around, points.times, scene.times[0], None)
        logits = self.given.model.score(src, embeddings.view(*columns.shape, -1))
        return positive.unsqueeze(1) + (logits[:, 1:] - logits[:, :1])


class EmbedPass(Pass):
    """Embeddings `sources` [iterations, B, D] of the events' sources."""

    def __init__(self, given: OnDevice, iterations: int) -> None:
        super().__init__(given, Purpose.EVAL_NEGATIVES, iterations)
        self.sources = given.model.time.frequency.new_empty((iterations, given.size, given.model.dim))

    @torch.no_grad()
    def work(self, scene: Scene) -> None:
        """Keep the sources' embeddings of a batch, then write what it leaves."""
        record, hidden, embeddings = self.embedded(scene, None)
        self.sources.index_copy_(0, self.clock.iteration, embeddings[: self.given.size].unsqueeze(0))
        self.deliver(scene, record, hidden)
