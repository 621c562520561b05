"""The work of resident passes: learn from a batch, score and rank it, or keep the embeddings of its sources."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.neighbourhood import Roots
from mspipe_triton.data.static_neighbourhood import StaticSampler
from mspipe_triton.iteration.ranking import Ranked, Ranking, StaticPairs, events_at_a_time
from mspipe_triton.iteration.resident import Pass
from mspipe_triton.iteration.scene import Scene, new_keys
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.step import embed, learn, score
from mspipe_triton.kernels import draw_batch


class TrainPass(Pass):
    """Training pass; `losses` [iterations] holds the loss of every batch."""

    def __init__(self, session: Session, iterations: int) -> None:
        super().__init__(session, Purpose.TRAIN_NEGATIVES, iterations)
        self.optimizer = session.optimizer
        self.losses = session.model.time.frequency.new_empty(iterations)
        self.unit = self.losses.new_ones(())

    def work(self, scene: Scene) -> None:
        """Learn from a batch."""
        scene = self.fetched(scene, self.clock)
        result = learn(self.model, scene, self.optimizer, self.deliver, self.side_stream, self.unit)
        self.losses.index_copy_(0, self.clock.iteration, result.loss.view(1))

    def state_tensors(self) -> list[torch.Tensor]:
        """Return node tables, parameters and the optimiser's state."""
        return [*super().state_tensors(), *self.model_tensors()]

    def model_tensors(self) -> list[torch.Tensor]:
        """Return parameters and the optimiser's state, which is created if it is missing."""
        states = self.optimizer.state
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        if any(each not in states for each in parameters):
            self._make_state(parameters)
        moments = [value for each in parameters for value in states[each].values() if isinstance(value, torch.Tensor)]
        return [*parameters, *moments]

    @torch.no_grad()
    def _make_state(self, parameters: list[torch.Tensor]) -> None:
        """Let the optimiser create its state in a step, and undo that step."""
        before = [each.clone() for each in parameters]
        for each in parameters:
            each.grad = torch.zeros_like(each)
        self.optimizer.step()
        for each, value in zip(parameters, before, strict=True):
            each.copy_(value)
            for moment in self.optimizer.state[each].values():
                moment.zero_()
        self.optimizer.zero_grad()


class ScorePass(Pass):
    """Logits `scores` [iterations, 2, B] of positives and negatives, and reciprocal `ranks` [iterations, B] if ranking.

    Args:
        ranked: N random destinations to rank each event among; 0 for no ranking.
    """

    def __init__(self, session: Session, iterations: int, ranked: int = 0) -> None:
        self.ranked, self.events = ranked, events_at_a_time(ranked)
        super().__init__(session, Purpose.EVAL_NEGATIVES, iterations, -(-session.size // self.events) if ranked else 0)
        self.scores = session.model.time.frequency.new_empty((iterations, 2, session.size))
        self.ranks = torch.empty((iterations, session.size), dtype=torch.float64, device=self.scores.device)
        self.pairs = StaticPairs(session.stream.t.device)
        self.candidates = StaticSampler(session.sampler, session.model.layers)

    @torch.no_grad()
    def work(self, scene: Scene) -> None:
        """Score a batch, and rank its destinations."""
        ranking = (each._replace(scene=self.fetched(each.scene)) for each in self._ranking())
        result = score(self.model, self.fetched(scene), self.deliver, ranking if self.ranked else None)
        self.scores.index_copy_(0, self.clock.iteration, result.logits.unsqueeze(0))
        if self.ranked:
            self.ranks.index_copy_(0, self.clock.iteration, result.ranks.unsqueeze(0))

    def look(self) -> None:
        """Sample the batch and the candidates of its events."""
        self.clock.table.copy_(self.ahead.table)
        super().look()
        if self.ranked:
            for _ in self._ranking():
                pass

    def samplers(self) -> Iterator[StaticSampler | StaticPairs]:
        """Yield the samplers of the batch, of its candidates and of their pairs."""
        yield from super().samplers()
        yield from (self.candidates, self.pairs)

    def _ranking(self) -> Ranking:
        """Draw the candidates of the clock's batch, and yield its destinations and candidates, not yet fetched."""
        session, clock, size, layers = self.session, self.clock, self.session.size, self.model.layers
        stream, words = session.stream, clock.words(Purpose.RANKING_NEGATIVES)
        nodes, times, *_ = draw_batch(
            stream.src, stream.dst, stream.t, session.negatives.destinations, clock.span, words, size, self.ranked
        )
        dst, candidates = nodes[size : 2 * size, None], nodes[2 * size :].view(size, -1)
        parts = (part.split(self.events) for part in (torch.cat([dst, candidates], 1), times[:size]))
        for number, part in enumerate(zip(*parts, strict=True)):
            pairs = self.pairs.of(*part)
            keys = new_keys(pairs.nodes, len(stream)) if layers > 1 else pairs.nodes
            hops = [clock.words(Purpose.RANKING_NEIGHBOURS, hop, number) for hop in range(layers)]
            around = self.candidates.around(Roots(pairs.nodes, pairs.times, keys), 0, hops)
            yield Ranked(pairs.rows, Scene(pairs.nodes, pairs.times, pairs.nodes[:0], None, around))


class EmbedPass(Pass):
    """Embeddings `sources` [iterations, B, D] of the events' sources."""

    def __init__(self, session: Session, iterations: int) -> None:
        super().__init__(session, Purpose.EVAL_NEGATIVES, iterations)
        self.sources = session.model.time.frequency.new_empty((iterations, session.size, session.model.dim))

    @torch.no_grad()
    def work(self, scene: Scene) -> None:
        """Store the embeddings of a batch's sources."""
        sources = embed(self.model, self.fetched(scene), self.deliver).sources
        self.sources.index_copy_(0, self.clock.iteration, sources.unsqueeze(0))
