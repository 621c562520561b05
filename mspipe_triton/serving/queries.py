"""Queries of a trained model: scores of pairs, rankings and embeddings, in the user's own ids and times."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mspipe_triton.data.ids import is_single
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import ConfigError, DataError
from mspipe_triton.models.stored import StoredModel
from mspipe_triton.serving.clock import Clock
from mspipe_triton.serving.defaults import SHARE
from mspipe_triton.serving.destinations import Destinations
from mspipe_triton.serving.inputs import broadcast, column, picked, plain_list, times_of
from mspipe_triton.serving.live import Live
from mspipe_triton.serving.names import DESTINATION, SOURCE, Names


class Queries:
    """Answers from the state of the events so far.

    Nodes are named by the user's ids. With two kinds of nodes, sources are of the first and destinations of the second.
    Times are numbers in the unit of the run's events, or dates (text, datetime, datetime64) if those are dates or Unix
    times; fractions are rounded down if the run's times are integers. None is the time just after the last event.

    A query cannot be earlier than the last event. It reads neighbours and features of pairs from events strictly before
    its time, as training does; memory is that after all events observed.

    Args:
        stored: the model's description. live: the live session. ids: of its nodes. times: the events' own times.
        share: see `load`.
    """

    def __init__(
        self, stored: StoredModel, live: Live, ids: LiveIds, times: torch.Tensor, share: float = SHARE
    ) -> None:
        self._stored, self._live, self._ids = stored, live, ids
        self._times, self._names = Clock(stored, live, times), Names(ids, live, bool(stored.stream["roles"]))
        self._ranking = {"exact": Destinations(live, 0.0), "cached": Destinations(live, share)}

    def __len__(self) -> int:
        """Number of events so far."""
        return self._live.events

    def __repr__(self) -> str:
        """Describe the predictor in a line."""
        return f"Predictor({self.name}: {len(self):,} events, {self.num_nodes:,} nodes, until {self.time})"

    @property
    def name(self) -> str:
        """Name of the model and of its stream, as in "tgn on wiki"."""
        return f"{self._stored.config.model.model} on {self._stored.name}"

    @property
    def time(self) -> int | float | str:
        """The time of the last event: a number, or the text of a date if the run's times are dates."""
        return self._times.shown(self._times.last.item())

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the two kinds of nodes, sources first; () if there is one kind."""
        return self._ids.kinds

    @property
    def dim(self) -> int:
        """D, the width of embeddings."""
        return self._live.model.dim

    @property
    def batch_size(self) -> int:
        """B, the most events by which memory moves on at once, as in training."""
        return self._live.session.size

    def score(
        self, src: Any, dst: Any, t: Any = None, *, probability: bool = False, new: bool = False
    ) -> np.ndarray | float:
        """Score pairs at times: the higher, the likelier is an event. Nothing is observed.

        Args:
            src, dst: M ids each, or one for all.
            t: M times, or one for all.
            probability: return the probability that a pair is an event rather than a random one, σ(logit).
            new: score ids that no event has, as nodes without events; False refuses them.

        Returns:
            Logits [M] in the dtype of the model, or a float if all arguments are single.

        Raises:
            DataError: an id is unknown, lengths differ, or a time is before the last event.
            ConfigError: a probability of a model that was trained by softmax, whose logits give none.
        """
        if probability and self._stored.config.train.loss == "softmax":
            raise ConfigError(
                "probability is for loss bce; this run's is softmax, whose scores rank destinations alone"
            )
        single = is_single(src) and is_single(dst) and is_single(t)
        sources, destinations = self._number(src, SOURCE, "src", new), self._number(dst, DESTINATION, "dst", new)
        times = self._times.queries(t)
        length = max(sources.numel(), destinations.numel(), times.numel())
        if sources.numel() == 0 or destinations.numel() == 0 or times.numel() == 0:
            length = 0
        columns = [
            broadcast(each, length, name) for each, name in ((sources, "src"), (destinations, "dst"), (times, "t"))
        ]
        logits = self._live.score(columns[0], columns[1].unsqueeze(1), columns[2]).squeeze(1)
        scores = torch.sigmoid(logits) if probability else logits
        return float(scores[0]) if single else scores.numpy()

    def rank(
        self, src: Any, t: Any = None, top: int | None = 10, candidates: Any = None, *, mode: str = "exact",
        new: bool = False,
    ) -> list[tuple[Any, float]]:  # fmt: skip
        """Rank destinations of a source at a time, the likeliest first.

        Args:
            src: one id. t: one time.
            top: the number of destinations to return; None for all.
            candidates: ids of destinations, which may repeat; None for all that have received an event so far.
            mode: "exact" computes the embedding of each candidate at this time; "cached" keeps embeddings while no
                memory that they read has moved, and their age is at most a share of the time since the node's last
                event before them (see `load`). Scores of pairs' features are exact in both.
            new: rank for a source or candidates that no event has.

        Returns:
            Pairs (id, logit) in descending order.

        Raises:
            DataError: an id is unknown, or the time is before the last event.
            ConfigError: a mode that is neither, or `top` is below 1.
        """
        self._check(mode, top)
        source, time = self._source(src, new), self._times.query(t, "rank")
        if candidates is None:
            return self._ranked(source, time, top, mode)[0]
        candidates = [candidates] if is_single(candidates) else column(candidates)
        if len(candidates) == 0:
            return []
        nodes, places = self._number(candidates, DESTINATION, "candidates", new).unique(return_inverse=True)
        scores = self._ranking[mode].scores(source, nodes, time)[0, places]
        best = scores.topk(scores.numel() if top is None else min(int(top), scores.numel()))
        ids = plain_list(picked(candidates, best.indices.numpy()))
        return list(zip(ids, best.values.tolist(), strict=True))

    def check_source(self, src: Any, new: bool = False) -> None:
        """Refuse a source that `rank` refuses.

        Raises:
            DataError: it is a list, no id, or unknown unless `new`.
        """
        self._source(src, new)

    def rank_many(
        self, src: Any, t: Any = None, top: int | None = 10, *, mode: str = "exact", new: bool = False
    ) -> list[list[tuple[Any, float]]]:
        """Rank all destinations that have received an event for each of many sources at one time.

        The rankings are those of `rank`, but for rounding, in less time, since embeddings of destinations are for all.

        Args:
            src: M ids, which may repeat. t: one time.
            top, mode, new: see `rank`.

        Returns:
            M lists of pairs (id, logit) in descending order.

        Raises:
            DataError: an id is unknown, or the time is before the last event.
            ConfigError: a mode that is neither, or `top` is below 1.
        """
        self._check(mode, top)
        if is_single(src):
            raise DataError(f"src is {shown(src)}, not a list; rank_many takes a list of sources, and rank one")
        numbers, time = self._number(src, SOURCE, "src", new), self._times.query(t, "rank_many")
        sources, places = numbers.unique(return_inverse=True)
        rankings = self._ranked(sources, time, top, mode)
        return [rankings[place].copy() for place in places.tolist()]

    def embed(self, nodes: Any = None, t: Any = None, kind: str | None = None) -> np.ndarray:
        """Compute embeddings of nodes at a time.

        Args:
            nodes: M ids, or pairs (kind, id); None for all nodes, or those of a kind, in the order of `nodes`.
            t: one time. kind: of the ids, if there are two.

        Returns:
            [M, D] in the dtype of the model, or [D] for one id.

        Raises:
            DataError: an id is unknown, its kind is missing, or the time is before the last event.
        """
        pairs = self.kinds and kind is None and _are_pairs(nodes)
        if nodes is None:
            numbers = self._names.all(None if kind is None else self._names.kind(kind))
        elif pairs:
            parts = [self._names.numbers([each], self._names.kind(name), "nodes") for name, each in nodes]
            numbers = torch.cat(parts)
        else:
            numbers = self._names.numbers(nodes, self._names.kind(kind), "nodes")
        times = self._times.query(t, "embed")
        rows = [self._live.embed(part, times.repeat(part.numel())) for part in numbers.split(4096) if part.numel()]
        table = torch.cat(rows) if rows else self._live.no_rows(self.dim)
        return table[0].numpy() if nodes is not None and is_single(nodes) else table.numpy()

    @property
    def nodes(self) -> list[Any]:
        """Ids of all nodes that have an event; with two kinds, pairs (kind, id)."""
        return self._ids.of(self._names.all())

    @property
    def num_nodes(self) -> int:
        """Number of nodes that have an event."""
        return self._names.count

    @property
    def destinations(self) -> int:
        """Number of nodes that have received an event."""
        return self._live.destinations.numel()

    def known(self, src: Any) -> Any:
        """Return a source's id as the run has it, as in 7 for the text "7" beside integers; a new one as it is."""
        number = self._ids.numbers(src, SOURCE)
        return src if number[0] < 0 else self._ids.plain(torch.from_numpy(number))[0]

    def typed(self, ids: pa.Array, end: int) -> pa.Array:
        """Return ids [M] of an end as the run has them, as in 7 for the text "7"; as they are if one is no id."""
        column = self._ids.typed(ids, end)
        return ids if column.null_count else column

    def time_of(self, t: Any) -> int | float | str:
        """Return a time in the form of `time`; None is the last event's."""
        return self.time if t is None else self._times.shown(times_of(t, self._stored).item())

    def shown(self, t: float) -> int | float | str:
        """Return a time in the run's unit in the form of `time`."""
        return self._times.shown(t)

    @property
    def node_table(self) -> pa.Table:
        """Table with a row per node, in the order of `nodes`: `id`, after `kind` if there are two."""
        return self._ids.table().take(pa.array(self._names.all().numpy()))

    def _check(self, mode: str, top: int | None) -> None:
        """Refuse arguments of a ranking.

        Raises:
            ConfigError: a mode that is neither, or `top` is no whole number, or below 1.
        """
        if mode not in self._ranking:
            raise ConfigError(f"mode must be exact or cached, not {mode!r}")
        if top is not None and (not isinstance(top, int | np.integer) or isinstance(top, bool) or top < 1):
            raise ConfigError(f"top must be a whole number of at least 1, not {shown(top)}; None returns all")

    def _ranked(
        self, sources: torch.Tensor, time: torch.Tensor, top: int | None, mode: str
    ) -> list[list[tuple[Any, float]]]:
        """Rank all destinations for each of sources [M] at a time [1]."""
        nodes = self._live.destinations
        scores, best = self._ranking[mode].best(sources, nodes, time, top)
        rows = best.tolist()
        places = list(dict.fromkeys(chain.from_iterable(rows)))
        ids = dict(zip(places, self._ids.plain(nodes[places]), strict=True))
        return [
            [(ids[place], score) for place, score in zip(*row, strict=True)]
            for row in zip(rows, scores.tolist(), strict=True)
        ]

    def _source(self, src: Any, new: bool) -> torch.Tensor:
        """Return the number [1] of one source."""
        if not is_single(src):
            raise DataError("src is a list; rank takes one source, and rank_many a list")
        return self._number(src, SOURCE, "src", new)

    def _number(self, ids: Any, end: int, name: str, new: bool) -> torch.Tensor:
        """Return the numbers [M] of ids; unknown ones get a row without events if `new`."""
        return self._names.numbers(ids, end, name, self._live.nodes if new else None)


def _are_pairs(nodes: Any) -> bool:
    """Return True for a list of pairs (kind, id)."""
    return isinstance(nodes, list) and bool(nodes) and all(isinstance(each, tuple) and len(each) == 2 for each in nodes)
