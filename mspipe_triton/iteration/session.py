"""Sessions: stream, sampler, model and node state, which all iterations of a run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.negatives import NegativeSampler, check_destinations
from mspipe_triton.data.neighbourhood import NeighbourSampler
from mspipe_triton.data.pair_choices import Choices
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.data.scaling import scaled_in_chunks
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.errors import ConfigError
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.learning_rate import LearningRate
from mspipe_triton.iteration.optimizer import Clipping, make_optimizer
from mspipe_triton.models import Facts, TemporalModel, build_model
from mspipe_triton.models.mitigation import Mitigation
from mspipe_triton.models.stored import Past, StoredModel
from mspipe_triton.nodes.state import NodeState
from mspipe_triton.placement import LazyTable, Placement, RowTable
from mspipe_triton.settings import run_settings


@dataclass(frozen=True)
class Session:
    """Objects that all iterations of a run share; training changes node state, parameters and optimiser state alone.

    Args:
        stream: the events at scaled times. split: that of the times in the input. time: the scale.
        edges: the stream's edge table [E, ·], on host or device as the settings say; width 0 without edge features.
            Lazy if the stream scales its rows, and no kernel reads the table.
        sampler: samples temporal neighbours. negatives: samples negative destinations.
        index: of the stream's pairs, if the model or its negatives need it. meetings: its `meeting_keys`, if the
            negatives need them.
        make_optimizer: see `optimizer`. rates: its learning rates. clipping: clips its gradients, or None.
        mitigation: blends stale memory rows after the fetch, or None.
        ranks: those that share each batch.
    """

    config: RunConfig
    settings: RunSettings
    stream: EventStream
    split: Split
    time: TimeScale
    edges: RowTable
    sampler: NeighbourSampler
    negatives: NegativeSampler
    model: TemporalModel
    state: NodeState[Any]
    index: PairIndex | None
    meetings: torch.Tensor | None
    make_optimizer: Callable[[], torch.optim.Optimizer]
    rates: LearningRate
    clipping: Clipping | None
    mitigation: Mitigation | None
    ranks: Ranks

    @staticmethod
    def create(
        config: RunConfig, stream: EventStream, stored: StoredModel | None = None, past: Past | None = None,
        split: Split | None = None, learns: bool = True, ranks: Ranks = ALONE,
    ) -> Session:  # fmt: skip
        """Build a session from the seed; the same config and stream give the same parameters.

        Args:
            config: with "cpu" or "cuda" as device (see `resolve_device`); "auto" means the CPU here.
            stream: the events.
            stored: a model of the same settings, whose parameters and scale of time are used instead of new ones. Its
                node state is not loaded.
            past: the run that this one continues. All epochs start after its events, from its node state, and its model
                is `stored` if that is None.
            learns: make the optimizer now, and not at its first use, since torch imports much for it.
            ranks: those that share each batch; all then start from the parameters of rank 0.
            split: of the run's events, if the stream may have fewer, from which no negatives are drawn; or one whose
                validation ends with the stream.

        Raises:
            ConfigError: the batch size is above the number of training events.
            DataError: all events have the same destination.
            RunFolderError: the stored model is not of these settings.
        """
        train, settings = config.train, run_settings(config)
        stored = past.stored if stored is None and past is not None else stored
        if split is None:
            split = stream.split_for(train.batch_size)
            check_destinations(stream)
        negatives = NegativeSampler(stream, train.seed)
        device = torch.device("cuda" if train.device == "cuda" else "cpu")
        placement = Placement(device, settings.gather, settings.resident)
        time = TimeScale.of(stream.t, split.train_end) if stored is None else stored.time
        scaled = time.scale(stream.t, None if stored is None else stored.steps)
        start = None if past is None else past.stored.events
        stream = stream.to_dtype(getattr(torch, config.model.table_dtype)).at(scaled, split, start)
        adjacency = TemporalCSR.build(stream)
        facts = Facts.of(stream, adjacency, split, time.decades) if stored is None else stored.facts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            model = build_model(config.model, facts).to(device)
        stream = stream.pinned(placement)
        if train.mitigation != "none" and "memory" not in model.mailbox.tables():
            raise ConfigError(
                f"mitigation {train.mitigation} is for stale memory, and model {config.model.model} has no memory; "
                "omit --mitigation"
            )
        base = None if past is None else past.base
        state = NodeState.create(model.mailbox, stream.num_nodes, stream.t[0], placement, base)
        capturable = settings.resident and placement.apart
        parameters, iterations = list(model.parameters()), -(-(split.train_end - stream.start) // train.batch_size)
        rates = LearningRate(train, iterations)
        clipping = Clipping(parameters, train.clip_norm) if train.clip_norm > 0 else None
        mitigation = Mitigation(adjacency) if train.mitigation == "similarity" else None
        index = PairIndex.build(stream.src, stream.dst, stream.t) if needs_index(config) else None
        if stored is not None:
            stored.restore(model)
        elif index is not None and model.predictor.pair is not None:
            model.predictor.start(Choices.draw(stream, index, split, train.seed).weights())
        ranks.copy_from_first(model.state_dict().values())
        meetings = index.meeting_keys() if index is not None and train.historical else None
        uniform, dtype = config.model.sampler == "uniform", getattr(torch, config.model.dtype)
        sampler = NeighbourSampler(stream, adjacency, config.model.setting("fanout"), uniform, dtype)
        optimizer = cache(partial(make_optimizer, parameters, train, rates.initial(device), clipping, capturable))
        if learns:
            optimizer()
        session = Session(
            config, settings, stream, split, time, stream.t[:0], sampler, negatives, model,
            state, index, meetings, optimizer, rates, clipping, mitigation, ranks,
        )  # fmt: skip
        return replace(session, sampler=session._sampler(settings), edges=session._edges(settings))

    def under(self, settings: RunSettings) -> Session:
        """Return the session under other settings, with the same data, model and state; call it between iterations."""
        state = replace(self.state, placement=replace(self.state.placement, how=settings.gather))
        session = replace(self, settings=settings, state=state, sampler=self._sampler(settings))
        lazy = isinstance(self.edges, LazyTable)
        if settings.features == self.settings.features and lazy == session._lazy(settings):
            return session
        return replace(session, edges=session._edges(settings))

    def on(self, device: torch.device) -> Session:
        """Return the session with the stream, adjacency and negatives that iterations read on a device."""
        stream, negatives = self.stream.on(device), self.negatives.on(device)
        sampler = replace(self.sampler, stream=stream, adjacency=self.sampler.adjacency.on(device))
        index = None if self.index is None else self.index.on(device)
        meetings = None if self.meetings is None else self.meetings.to(device)
        return replace(self, stream=stream, sampler=sampler, negatives=negatives, index=index, meetings=meetings)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters."""
        return self.make_optimizer()

    @property
    def edge_table(self) -> torch.Tensor:
        """The edge table, in a run whose kernels read it directly."""
        assert isinstance(self.edges, torch.Tensor)
        return self.edges

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.state.placement.device

    @property
    def size(self) -> int:
        """B, events per batch."""
        return self.config.train.batch_size

    @property
    def training_events(self) -> int:
        """Number of training events, which come after `stream.start`."""
        return self.split.train_end - self.stream.start

    @property
    def seed(self) -> int:
        """The seed of all draws."""
        return self.config.train.seed

    def _sampler(self, settings: RunSettings) -> NeighbourSampler:
        """Return the sampler under settings; mitigation needs distinct nodes, over which it computes a quantile."""
        return replace(self.sampler, deduplicate=settings.deduplicate if self.mitigation is None else "all")

    def _lazy(self, settings: RunSettings) -> bool:
        """True if rows of the edge table are scaled when they are fetched; a kernel reads scaled tables only."""
        placement = self.state.placement
        direct = placement.resident or placement.by_kernel or (placement.apart and settings.features == "device")
        return self.stream.edge_scaling is not None and not direct

    def _edges(self, settings: RunSettings) -> RowTable:
        """Return the stream's edge table on the device that settings name."""
        table, scaling, placement = self.stream.edge_features, self.stream.edge_scaling, self.state.placement
        dtype = getattr(torch, self.config.model.table_dtype)
        if table is None:
            return placement.placed(torch.zeros((len(self.stream), 0), dtype=dtype), settings.features)
        if scaling is None:
            return placement.placed(table, settings.features)
        if self._lazy(settings):
            on_device = scaling.on(self.device)
            return LazyTable(table, lambda rows: on_device.apply(rows).to(dtype), dtype)
        return placement.placed(scaled_in_chunks(table, scaling, len(self.stream), dtype), settings.features)


def needs_index(config: RunConfig) -> bool:
    """Return True if a run reads features of pairs, or trains on historical negatives."""
    return config.model.pair_features or config.train.historical > 0
