"""The work of resident passes: learn from a batch, score and rank it, or keep the embeddings of its sources."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.neighbourhood import Roots
from mspipe_triton.data.static_neighbourhood import StaticSampler
from mspipe_triton.iteration.ranking import Pairs, Ranking, StaticPairs, group_count
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
        self.ranked = ranked
        super().__init__(session, Purpose.EVAL_NEGATIVES, iterations, group_count(session.size, ranked))
        self.scores = session.model.time.frequency.new_empty((iterations, 2, session.size))
        self.ranks = torch.empty((iterations, session.size), dtype=torch.float64, device=self.scores.device)
        self.pairs = StaticPairs(session.stream.t.device)
        self.candidates = StaticSampler(session.sampler, session.model.layers)

    @torch.no_grad()
    def work(self, scene: Scene) -> None:
        """Score a batch, and rank its destinations."""
        ranking = None
        if self.ranked:
            pairs = self._pairs()
            ranking = Ranking(pairs.rows, (self.fetched(each) for each in self._pair_scenes(pairs)))
        result = score(self.model, self.fetched(scene), self.deliver, ranking)
        self.scores.index_copy_(0, self.clock.iteration, result.logits.unsqueeze(0))
        if self.ranked:
            self.ranks.index_copy_(0, self.clock.iteration, result.ranks.unsqueeze(0))

    def look(self) -> None:
        """Sample the batch and the candidates of its events."""
        self.clock.table.copy_(self.ahead.table)
        super().look()
        if self.ranked:
            for _ in self._pair_scenes(self._pairs()):
                pass

    def samplers(self) -> Iterator[StaticSampler | StaticPairs]:
        """Yield the samplers of the batch, of its candidates and of their pairs."""
        yield from super().samplers()
        yield from (self.candidates, self.pairs)

    def _pairs(self) -> Pairs:
        """Draw the candidates of the clock's batch, and return the pairs of its destinations and candidates."""
        session, clock, size = self.session, self.clock, self.session.size
        stream, words = session.stream, clock.words(Purpose.RANKING_NEGATIVES)
        nodes, times, *_ = draw_batch(
            stream.src, stream.dst, stream.t, session.negatives.destinations, clock.span, words, size, self.ranked
        )
        dst, candidates = nodes[size : 2 * size, None], nodes[2 * size :].view(size, -1)
        return self.pairs.of(torch.cat([dst, candidates], 1), times[:size])

    def _pair_scenes(self, pairs: Pairs) -> Iterator[Scene]:
        """Yield the scenes of pairs, group by group."""
        clock, layers, events = self.clock, self.model.layers, len(self.session.stream)
        for number, (nodes, times) in enumerate(pairs.groups()):
            roots = Roots(nodes, times, new_keys(nodes, events) if layers > 1 else nodes)
            hops = [clock.words(Purpose.RANKING_NEIGHBOURS, hop, number) for hop in range(layers)]
            yield Scene(nodes, times, nodes[:0], None, self.candidates.around(roots, 0, hops))


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
