"""Frame of all models: time encoder, memory updater, embedding and link predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.negatives import Draws
from mspipe_triton.data.neighbourhood import EdgeRows, Neighbourhood
from mspipe_triton.errors import ConfigError
from mspipe_triton.kernels import link_loss
from mspipe_triton.models.layers import LinkPredictor, TimeEncoder
from mspipe_triton.nodes.mailbox import CompactMailbox, Mailbox, Record
from mspipe_triton.nodes.precision import WideRecord, widen


@dataclass(frozen=True)
class Facts:
    """Facts of a stream that a model is built for: widths of edge and node features, and the scale of time gaps.

    `gap` is the standard deviation of the times between successive training events of a node, in the unit of the
    session's times, where the first gap is from the stream's start; 1 if the deviation is 0. `decades` are those of the
    time encoder's frequencies (see `TimeScale`).
    """

    dim_edge: int = 0
    dim_node: int = 0
    gap: float = 1.0
    decades: float = 9.0

    @staticmethod
    def of(stream: EventStream, adjacency: TemporalCSR, split: Split, decades: float) -> Facts:
        """Compute the facts of a session's stream, with the gaps of its training events."""
        degree = adjacency.indptr.diff()
        before = torch.cat([stream.t[:1], adjacency.times[:-1]])
        before[adjacency.indptr[:-1].masked_select(degree > 0)] = stream.t[0]
        gaps = (adjacency.times - before).masked_select(adjacency.event_ids < split.train_end)
        return Facts(stream.dim_edge, stream.dim_node, float(gaps.double().std(correction=0)) or 1.0, decades)


@dataclass(frozen=True)
class EmbeddingInput:
    """Inputs of an embedding.

    Args:
        table: [U, D], h of the distinct nodes (0 in a model without memory) plus their projected features.
        updated: [U], the times of their memory; [0] in a model without memory.
        around: the neighbourhood, with the rows of roots and neighbours in the table.
        times: [R] of the roots.
        edges: the edge rows of the slots, one entry per hop.
        time: the model's time encoder.
        draws: keys of dropout in training, otherwise None.
    """

    table: torch.Tensor
    updated: torch.Tensor
    around: Neighbourhood
    times: torch.Tensor
    edges: Sequence[EdgeRows]
    time: TimeEncoder
    draws: Draws | None

    @property
    def edge_features(self) -> list[torch.Tensor]:
        """Edge features [P·F, E] of the slots, one tensor per hop, in the dtype of computation."""
        return [widen(each.gather(), self.time.frequency.dtype) for each in self.edges]


def compact_mailbox(config: ModelConfig, facts: Facts) -> CompactMailbox:
    """Build the mailbox of one mail per node."""
    return CompactMailbox(config.dim, facts.dim_edge, getattr(torch, config.table_dtype), config.aggregator)


@dataclass(frozen=True)
class Recipe:
    """Parts of a model; each is built from the model's settings and the facts of the stream.

    Parts receive rows stored in bfloat16 in the dtype of computation, except an updater whose `reads_tables` is True.

    Args:
        embedding: a module that maps an `EmbeddingInput` to [R, D]; its `layers` is the number of hops that it reads.
        updater: a module that maps (record, time encoder, the batch's first time [], draws) to h [U, D]; it is built
            with the message function as the third argument. One that does not read the time may say so with a
            `reads_now` of False: a trained model then keeps h until a node's record changes. None for a model without
            memory.
        message: a module with a `width` W that maps (record, time encoder) to messages [U, W].
        mailbox: the layout of a node's record.
    """

    embedding: Callable[[ModelConfig, Facts], nn.Module]
    updater: Callable[[ModelConfig, Facts, Any], nn.Module] | None
    message: Callable[[ModelConfig, Facts], nn.Module] | None
    mailbox: Callable[[ModelConfig, Facts], Mailbox[Any]] = compact_mailbox


class TemporalModel(nn.Module):
    """Model built from a recipe for some facts; `layers` is the number of hops that its embedding reads."""

    def __init__(self, recipe: Recipe, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        dtype = getattr(torch, config.dtype)
        self.dim, self.facts, self.mailbox = config.dim, facts, recipe.mailbox(config, facts)
        self.narrow = config.precision == "bf16"
        self.time = TimeEncoder(config.dim, config.time_encoder == "learned", dtype, facts.decades)
        message = None if recipe.message is None else recipe.message(config, facts)
        self.updater = None if recipe.updater is None else recipe.updater(config, facts, message)
        self.node_projection = nn.Linear(facts.dim_node, config.dim, dtype=dtype) if facts.dim_node else None
        self.embedding = recipe.embedding(config, facts)
        layers = getattr(self.embedding, "layers", None)
        if not isinstance(layers, int):
            raise ConfigError(
                f"model {config.model}: its embedding {type(self.embedding).__name__} has no `layers`; set it to the "
                "number of hops that it reads, 0 for none"
            )
        self.layers = layers
        self.predictor = LinkPredictor(config.dim, dtype, config.pair_features)

    def update_memory(self, record: Record, now: torch.Tensor, draws: Draws | None = None) -> torch.Tensor | None:
        """Compute h [U, D], the memory of U nodes after they digest their mail; None in a model without memory.

        Args:
            now: [], the time of the batch's first event. draws: keys of dropout in training, otherwise None.
        """
        if self.updater is None:
            return None
        source: Any = record
        if self.narrow and not getattr(self.updater, "reads_tables", False):
            source = WideRecord(record, self.time.frequency.dtype)
        hidden: torch.Tensor = self.updater(source, self.time, now, draws)
        return hidden

    def embed(
        self,
        hidden: torch.Tensor | None,
        updated: torch.Tensor,
        around: Neighbourhood,
        times: torch.Tensor,
        edges: Sequence[EdgeRows],
        node_features: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> torch.Tensor:
        """Compute embeddings [R, D] of the roots from h [U, D] and node features [U, V] (see `EmbeddingInput`)."""
        table = hidden
        if self.node_projection is not None and node_features is not None:
            table = self.node_projection(widen(node_features, self.time.frequency.dtype))
            table = table if hidden is None else hidden + table
        elif table is None:
            table = self.time.frequency.new_zeros((around.nodes.numel(), self.dim))
        inputs = EmbeddingInput(table, updated, around, times, edges, self.time, draws)
        embeddings: torch.Tensor = self.embedding(inputs)
        return embeddings

    def score(
        self, src: torch.Tensor, dst: torch.Tensor, rows: torch.Tensor, pairs: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute logits [B, C] of B sources [B, D] against the destinations [P, D] at `rows` [B, C].

        Args:
            pairs: features [B, C, ·] of the pairs, or None in a model that does not read them.
        """
        scores: torch.Tensor = self.predictor(src, dst, rows, pairs)
        return scores

    def loss(
        self,
        embeddings: torch.Tensor,
        pairs: torch.Tensor | None = None,
        count: torch.Tensor | None = None,
        negatives: int = 1,
        log_weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss [] of embeddings [(2 + K)B, D], and the logits [1 + K, B] of every event; see `link_loss`.

        Args:
            pairs: features [B, 1 + K, ·], or None in a model that does not read them.
            count: [1], the number of real events, which come first; None for all B.
            negatives: K.
            log_weights: [B, K], for the softmax loss.
        """
        predictor = self.predictor
        return link_loss(
            embeddings, pairs, count, predictor.src.weight, predictor.src.bias, predictor.dst.weight,
            predictor.dst.bias, predictor.out.weight, predictor.out.bias,
            None if predictor.pair is None else predictor.pair.weight, negatives, log_weights,
        )  # fmt: skip
