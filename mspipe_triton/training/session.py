"""A run's live objects (stream, adjacency, model, node state) and the process settings they run under."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from mspipe_triton.config import DataConfig, RunConfig, RunSettings
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.negatives import NegativeSampler
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.synthetic import synthetic_stream
from mspipe_triton.errors import ConfigError
from mspipe_triton.kernels.fusion import enable_fusion
from mspipe_triton.models import Facts, TemporalModel, build_model
from mspipe_triton.models.mitigation import Mitigation
from mspipe_triton.pipeline.schedules import RESIDENT
from mspipe_triton.placement import Placement
from mspipe_triton.state import NodeState
from mspipe_triton.training.iteration import Iteration
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.resident_pass import OnDevice
from mspipe_triton.training.settings import compiler, run_settings


@dataclass(frozen=True)
class Session:
    """What training and evaluation share; the state and the model's parameters are all that changes."""

    config: RunConfig
    settings: RunSettings
    stream: EventStream
    split: Split
    adjacency: TemporalCSR
    model: TemporalModel
    state: NodeState[Any]
    negatives: NegativeSampler
    optimizer: torch.optim.Optimizer
    iteration: Iteration
    resident: Resident | None

    @staticmethod
    def create(config: RunConfig, stream: EventStream) -> Session:
        """Build everything from the seed; the same config and stream give the same parameters.

        Args:
            config: with "cpu" or "cuda" as device (see `resolve_device`); "auto" is the CPU here.
            stream: the events.

        Raises:
            ConfigError: the batch size is above the number of training events.
        """
        settings = run_settings(config)
        device = torch.device("cuda" if config.train.device == "cuda" else "cpu")
        resident = settings.schedule == RESIDENT
        placement = Placement(device, settings.gather, resident)
        split = stream.split()
        if config.train.batch_size > split.train_end:
            raise ConfigError(
                f"batch-size {config.train.batch_size:,} is above the {split.train_end:,} training events of "
                f"{stream.name}; give at most that"
            )
        tables = getattr(torch, config.model.table_dtype)
        stream, adjacency = stream.to_dtype(tables), TemporalCSR.build(stream)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            model = build_model(config.model, Facts.of(stream, adjacency)).to(placement.device)
        stream = stream.pinned(placement)
        if config.train.mitigation != "none" and "memory" not in model.mailbox.tables():
            raise ConfigError(
                f"mitigation {config.train.mitigation} is for stale memory, which model {config.model.model} has none "
                "of; leave --mitigation out"
            )
        state = NodeState.create(model.mailbox, stream.num_nodes, stream.t[0], placement)
        capturable = resident and placement.apart
        optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, fused=True, capturable=capturable)
        seed = config.train.seed
        mitigation = Mitigation(adjacency) if config.train.mitigation == "similarity" else None
        iteration = Iteration(stream, adjacency, model, state, config.model, settings, seed, optimizer, mitigation)
        negatives = NegativeSampler(stream, seed)
        made = Session(config, settings, stream, split, adjacency, model, state, negatives, optimizer, iteration, None)
        return replace(made, resident=made._on_device()) if resident else made

    def under(self, settings: RunSettings) -> Session:
        """The same data, model and node state, carried out in another way; nothing may be under way."""
        state = replace(self.state, placement=replace(self.state.placement, how=settings.gather))
        other = replace(self, settings=settings, state=state, iteration=self.iteration.under(settings, state))
        if self.resident is None:
            return other
        given = replace(self.resident.given, captured=settings.captured, branch=settings.branch)
        return replace(other, resident=Resident(given, self.split, self.optimizer))

    def _on_device(self) -> Resident:
        """What runs it with everything on the device."""
        settings, iteration, device = self.settings, self.iteration, self.state.placement.device
        stream = self.stream.on(device)
        sampler = replace(iteration.sampler, stream=stream, adjacency=self.adjacency.on(device))
        given = OnDevice(
            stream, iteration.edge_table, self.negatives.destinations.to(device), sampler, self.model, self.state,
            self.config.train.batch_size, self.config.train.seed, settings.captured, settings.branch,
        )  # fmt: skip
        return Resident(given, self.split, self.optimizer)


def load_stream(data: DataConfig) -> EventStream:
    """The stream that a run's data settings name."""
    if data.path == "synthetic":
        if data.node_features:
            raise ConfigError("the built-in stream takes no --node-features; write it to a file with `data generate`")
        return synthetic_stream()
    return read_stream(data.path, data.columns, data.sort, data.node_features or None)


def fingerprint(stream: EventStream) -> str:
    """A digest of the events and features, to tell whether a run's data are what they were."""
    digest = hashlib.blake2b(digest_size=8)
    for column in (stream.src, stream.dst, stream.t, stream.edge_features, stream.node_features):
        if column is not None:
            digest.update(column.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def process_settings(config: RunConfig) -> Iterator[None]:
    """Threads, determinism, fusion and a GPU's products for the length of a run, put back afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    products = torch.get_float32_matmul_precision()
    settings = run_settings(config)
    torch.set_num_threads(settings.threads)
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, a GPU's products are refused
    torch.use_deterministic_algorithms(config.train.deterministic or deterministic)
    enable_fusion(settings.fused and compiler() is not None)
    if config.train.device == "cuda" and config.model.precision != "full":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(products)
        enable_fusion(False)
