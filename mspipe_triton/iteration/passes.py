"""The work of resident passes: learn from a batch, score and rank it, or keep the embeddings of its sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.neighbourhood import Roots
from mspipe_triton.data.static_neighbourhood import StaticSampler
from mspipe_triton.iteration.cuda_graph import Snapshot
from mspipe_triton.iteration.exchange import (
    Memory,
    Scores,
    embedding_parts,
    join_embeddings,
    join_losses,
    join_scores,
    loss_parts,
    score_parts,
)
from mspipe_triton.iteration.pairs import features_of
from mspipe_triton.iteration.ranking import Ranked, Ranking, StaticPairs, events_at_a_time
from mspipe_triton.iteration.resident import Pass
from mspipe_triton.iteration.scene import ALL, Candidates, Scene, new_keys
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.static_shares import StaticBatch
from mspipe_triton.iteration.step import Scored, after, embed, learn, score


class TrainPass(Pass):
    """Training pass; `losses` [iterations] holds the loss of every batch."""

    def __init__(self, session: Session, iterations: int) -> None:
        super().__init__(session, Purpose.TRAIN_NEGATIVES, iterations, each=session.config.train.train_negatives)
        self.optimizer = session.optimizer
        self.losses = session.model.time.frequency.new_empty(iterations)
        self.unit = self.losses.new_ones(())
        self.rates = torch.zeros(iterations, device=self.losses.device)

    def start(self, first: int, stop: int, epoch: int) -> int:
        """See `Pass`; the epoch's learning rates are stored on the device, where a captured step finds its own."""
        if self.session.rates.changes:
            self.rates.copy_(self.session.rates.of_epoch(epoch))
        return super().start(first, stop, epoch)

    def work(self, scene: Scene) -> None:
        """Learn from a batch."""
        if self.session.rates.changes:
            rate = self.rates.index_select(0, self.clock.iteration)[0]
            for group in self.optimizer.param_groups:
                group["lr"].copy_(rate)
        scene, ranks = self.fetched(scene, self.clock), self.session.ranks
        start, unit = (after(self.deliver), self.unit) if scene.whole is None else (self.begin, scene.whole.weight)
        result = learn(self.model, scene, self.optimizer, start, self.side_stream, unit, ranks)
        self.losses.index_copy_(0, self.clock.iteration, result.loss.view(1).to(self.losses.dtype))

    def begin(self, scene: Scene, hidden: torch.Tensor | None, loss: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start the exchange of a share, as a `Start`."""
        assert scene.whole is not None
        exchange = self.exchange(scene, hidden, loss_parts(loss, scene.whole.weight))
        return lambda: join_losses(*self.deliver_whole(scene, exchange)).loss

    def state_tensors(self) -> list[torch.Tensor]:
        """Return node tables, parameters and the optimiser's state."""
        return [*super().state_tensors(), *self.model_tensors()]

    def model_tensors(self) -> list[torch.Tensor]:
        """Return parameters, the sum of clipped norms, and the optimiser's state, which is created if it is missing."""
        states, norms = self.optimizer.state, [] if self.session.clipping is None else [self.session.clipping.totals]
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        if any(each not in states for each in parameters):
            self._make_state(parameters, Snapshot([*parameters, *norms]))
        moments = [value for each in parameters for value in states[each].values() if isinstance(value, torch.Tensor)]
        return [*parameters, *moments, *norms]

    @torch.no_grad()
    def _make_state(self, parameters: list[torch.Tensor], before: Snapshot) -> None:
        """Let the optimiser create its state in a step, and undo that step."""
        for each in parameters:
            each.grad = torch.zeros_like(each)
        self.optimizer.step()
        before.restore()
        for each in parameters:
            for moment in self.optimizer.state[each].values():
                moment.zero_()
        self.optimizer.zero_grad()


class ScorePass(Pass):
    """Logits `scores` [iterations, 2, B] of positives and negatives, and reciprocal `ranks` [iterations, B] if ranking.

    Args:
        candidates: destinations to rank each event among; a table is for the events from number `first` on.
        lagged: see `Pass`.
    """

    def __init__(
        self, session: Session, iterations: int, candidates: Candidates = 0, first: int = 0, lagged: bool = False
    ) -> None:
        self.first, self.random, self.table = first, 1, None
        if isinstance(candidates, torch.Tensor):
            self.table = candidates.to(session.stream.t.device)
            self.ranked = candidates.shape[1]
        elif candidates == ALL:
            self.ranked = session.negatives.destinations.numel() - 1
        else:
            self.ranked, self.random = candidates, candidates
        self.all = isinstance(candidates, int) and candidates == ALL
        self.events = events_at_a_time(self.ranked)
        groups = -(-session.ranks.share(session.size) // self.events) if self.ranked else 0
        super().__init__(session, Purpose.EVAL_NEGATIVES, iterations, groups, lagged=lagged)
        self.scores = session.model.time.frequency.new_empty((iterations, 2, session.size))
        self.ranks = torch.empty((iterations, session.size), dtype=torch.float64, device=self.scores.device)
        self.pairs = StaticPairs(session.stream.t.device)
        self.candidates = StaticSampler(session.sampler, session.model.layers)

    @torch.no_grad()
    def work(self, scene: Scene) -> None:
        """Score a batch, and rank its destinations."""
        scene, memory = self.fetched(scene), Memory()
        ranking = (each._replace(scene=self.fetched(each.scene)) for each in self._ranking())
        write = self.deliver if scene.whole is None else memory
        scored = score(self.model, scene, write, ranking if self.ranked else None)
        result: Scored | Scores = scored
        if scene.whole is not None:
            exchange = self.exchange(scene, memory.hidden, score_parts(scored, self.shares.share))
            result = join_scores(self.session.size, *self.deliver_whole(scene, exchange))
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
        """Yield the destinations and candidates of the clock's batch, not yet fetched."""
        session, clock, layers = self.session, self.clock, self.model.layers
        stream = session.stream
        batch = self.shares.draw(clock, Purpose.RANKING_NEGATIVES, self.random)
        horizon, (src, nodes, times) = self.horizon(batch.times), self._candidates(self.shares.cut(batch))
        parts = (column.split(self.events) for column in (src, nodes, times))
        for number, (sources, others, moments) in enumerate(zip(*parts, strict=True)):
            pairs = self.pairs.of(others, moments)
            keys = new_keys(pairs.nodes, len(stream)) if layers > 1 else pairs.nodes
            hops = [clock.words(Purpose.RANKING_NEIGHBOURS, hop, number) for hop in range(layers)]
            around = self.candidates.around(Roots(pairs.nodes, pairs.times, keys), 0, hops, horizon)
            features = features_of(session, sources, others, moments, horizon)
            scene = Scene(pairs.nodes, pairs.times, pairs.nodes[:0], None, around, pairs=features)
            yield Ranked(pairs.rows, scene, None if self.table is None else others[:, 1:] < 0)

    def _candidates(self, share: StaticBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return sources [C], destinations and candidates [C, 1 + N], −1 in gaps, and times [C] of a share."""
        src, dst, candidates = share.parts()
        if self.table is not None:
            candidates = self.table.index_select(0, (share.events - self.first).clamp(0, self.table.shape[0] - 1))
        elif self.all:
            candidates = self.session.negatives.others(dst)
        dst = dst.unsqueeze(1)
        return src, torch.cat([dst, torch.where(dst < 0, -1, candidates)], 1), share.times[: src.numel()]


class EmbedPass(Pass):
    """Embeddings `sources` [iterations, B, D] of the events' sources."""

    reads_pairs = False

    def __init__(self, session: Session, iterations: int) -> None:
        super().__init__(session, Purpose.EVAL_NEGATIVES, iterations)
        self.sources = session.model.time.frequency.new_empty((iterations, session.size, session.model.dim))

    @torch.no_grad()
    def work(self, scene: Scene) -> None:
        """Store the embeddings of a batch's sources."""
        scene, memory = self.fetched(scene), Memory()
        result = embed(self.model, scene, self.deliver if scene.whole is None else memory)
        if scene.whole is not None:
            exchange = self.exchange(scene, memory.hidden, embedding_parts(result, self.shares.share))
            result = join_embeddings(self.session.size, *self.deliver_whole(scene, exchange))
        self.sources.index_copy_(0, self.clock.iteration, result.sources.unsqueeze(0))
