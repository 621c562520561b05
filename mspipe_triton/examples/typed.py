"""Temporal graph network with a memory, an updater and an attention for each type of event, joined in a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mspipe_triton.data.neighbourhood import EdgeRows, Hop
from mspipe_triton.examples.typed_batches import TypedBatches
from mspipe_triton.examples.typed_stream import KINDS, NAMES, TypedConfig, typed_stream
from mspipe_triton.kernels import aggregate_messages, memory_gru, unique_nodes
from mspipe_triton.models.layers import TemporalAttention, TimeEncoder

BATCH, FANOUT, DIM, HEADS = 256, 8, 64, 2
_DECADES = 7.0  # of the time encoder's frequencies: a second to months
_EXAMPLES = 64  # events in the example inputs, as many as in a usual micro-batch


class TypedBranch(nn.Module):
    """Memory of the events of one type, and embeddings from it, as in TGN (Rossi et al., 2020).

    A node's memory starts as its code, a random vector by which others recognise it. When nodes are read, each digests
    its mail: h = GRU([memory ‖ partner ‖ φ(mail time − memory time)], memory), or its memory if it has no mail. The
    rows of the attention are h + W·code. After a batch, each endpoint of its events of this type gets memory h and a
    mail with the other endpoint's h; of several the latest counts. The rows written are detached, and those read are
    copies, so that a backward pass can follow the forward passes of later batches. Event 0 clears all mail, with which
    every node counts as new.

    Args:
        kind: the type.
        codes: [N, D], floating.
        fanout: F, neighbours per root.
        heads: of the attention, a divisor of D.

    Attributes:
        memory: [2N, D]; row N + u has u's code and is never written.
        partner: [N, D], of each node's mail; event_id [N], −1 for no mail; mail_time, memory_time [N] int64.
    """

    memory: Tensor
    partner: Tensor
    event_id: Tensor
    mail_time: Tensor
    memory_time: Tensor

    def __init__(self, kind: int, codes: Tensor, fanout: int, heads: int) -> None:
        super().__init__()
        self.kind, (self.nodes, dim), dtype = kind, codes.shape, codes.dtype
        self.register_buffer("memory", torch.cat([codes, codes]))
        self.register_buffer("partner", torch.zeros_like(codes))
        self.register_buffer("event_id", torch.full((self.nodes,), -1))
        for name in ("mail_time", "memory_time"):
            self.register_buffer(name, torch.zeros(self.nodes, dtype=torch.int64))
        self.time = TimeEncoder(dim, False, dtype, _DECADES)
        self.updater = nn.GRUCell(3 * dim, dim, dtype=dtype)
        self.code = nn.Linear(dim, dim, bias=False, dtype=dtype)
        self.attention = TemporalAttention(dim, 0, dim, heads, 0.0, dtype)
        self.output = nn.Linear(dim + fanout, dim, dtype=dtype)

    def forward(
        self, roots: Tensor, times: Tensor, kind: Tensor, event: Tensor,
        neighbours: Tensor, deltas: Tensor, counts: Tensor,
    ) -> Tensor:  # fmt: skip
        """Compute embeddings [B, 3, D] of the roots, and update the memory.

        An embedding is W [z ‖ m] + b, with z of the attention, and m_f = 1 if the root is the source's f-th latest
        neighbour, otherwise 0 (a relative identity, as in CAW and DyGFormer: z hardly tells one node from a thousand).

        Args:
            roots, times, kind, event: as in `TypedBatch`.
            neighbours, deltas: [B, 3, F]; counts: [B, 3]; by earlier events of this type.
        """
        number, nodes, slots = roots.numel(), self.nodes, (roots.numel(), neighbours.shape[2])
        entries = torch.cat([roots.reshape(-1), neighbours.reshape(-1)])
        ids, rows, count = unique_nodes(entries, min(entries.numel(), nodes))
        node, root_rows = ids.clamp(min=0), rows[:number]

        self.event_id.masked_fill_((event == 0).any(), -1)
        has_mail = self.event_id.index_select(0, node) >= 0
        mail_time, memory_time = (
            torch.where(has_mail, each.index_select(0, node), 0) for each in (self.mail_time, self.memory_time)
        )
        hidden = memory_gru(
            self.memory, torch.where(has_mail, node, node + nodes), self.partner, node, self.partner[:, :0], node,
            (mail_time - memory_time).to(self.memory.dtype), has_mail, self.time.frequency, self.time.phase,
            self.updater.weight_ih, self.updater.weight_hh, self.updater.bias_ih, self.updater.bias_hh,
            empty="keep", count=count,
        )  # fmt: skip

        table = hidden + self.code(self.memory.index_select(0, node + nodes))
        hop = Hop(
            root_rows, min(number, nodes), rows[number:].view(slots), neighbours.reshape(slots),
            deltas.reshape(slots), counts.reshape(-1),
        )  # fmt: skip
        around = self.attention(table, hop, EdgeRows(table.new_zeros((rows.numel() - number, 0))), self.time, None)
        met = (neighbours[:, :1] == roots.unsqueeze(2)).to(table.dtype)

        src, dst = (torch.where(kind == self.kind, roots[:, end], -1).contiguous() for end in (0, 1))
        src_rows, dst_rows = (root_rows[end::3].contiguous() for end in (0, 1))
        aggregate_messages(
            self.memory[:nodes], self.memory_time, self.partner, self.event_id, self.mail_time, None, src, dst, event,
            times, None, hidden.detach(), mail_time, src_rows, dst_rows,
        )  # fmt: skip
        embeddings: Tensor = self.output(torch.cat([around.view(*roots.shape, -1), met], 2))
        return embeddings


class TypedDecoder(nn.Module):
    """Scores of pairs for events of a type, from the embeddings of all branches.

    With z the joined embeddings of a node, s = W_src z_src + b_src and d = W_dst z_dst + b_dst, the score of type k is
    w·ReLU(s + d + a_k) + b + Σ (s ⊙ m_k ⊙ d) / √D.

    Args:
        width: of joined embeddings. dim: D. kinds: K. dtype: float32 or float64.
    """

    def __init__(self, width: int, dim: int, kinds: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.src, self.dst = (nn.Linear(width, dim, dtype=dtype) for _ in range(2))
        self.shift, self.match = (nn.Embedding(kinds, dim, dtype=dtype) for _ in range(2))
        self.out = nn.Linear(dim, 1, dtype=dtype)

    def forward(self, embeddings: Sequence[Tensor], kind: Tensor) -> Tensor:
        """Compute scores [B, 2], before the logistic function, of source with destination and with the negative.

        Args:
            embeddings: [B, 3, ·] of each branch.
            kind: [B], the types.
        """
        joined = torch.cat([*embeddings], 2)
        src, dst = self.src(joined[:, :1]), self.dst(joined[:, 1:])
        shift, match = (each(kind).unsqueeze(1) for each in (self.shift, self.match))
        hidden = torch.relu(src + dst + shift)
        scores: Tensor = self.out(hidden).squeeze(2) + (src * match * dst).sum(2) / sqrt(src.shape[2])
        return scores


class TypedModel(nn.Module):
    """A branch for each type of event, which runs without the others, and a decoder that joins them.

    Inputs are the fields of `TypedBatch`. A forward pass reads the memory as the one before left it, so mini-batches in
    several micro-batches are trained like mini-batches of that size, with an optimiser step after several of them.

    Args:
        nodes: N.
        kinds: types that have a branch; the decoder scores events of all.
        dim, fanout, heads: D, neighbours per root and type, heads of the attention.
        dtype: float32 or float64.
        seed: of the nodes' codes.
    """

    def __init__(
        self, nodes: int, kinds: Sequence[int] = KINDS, *, dim: int = DIM, fanout: int = FANOUT, heads: int = HEADS,
        dtype: torch.dtype = torch.float32, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        codes = torch.randn(nodes, dim, dtype=dtype, generator=torch.Generator().manual_seed(seed)) / sqrt(dim)
        self.kinds = tuple(kinds)
        self.branches = nn.ModuleDict({NAMES[kind]: TypedBranch(kind, codes, fanout, heads) for kind in kinds})
        self.decoder = TypedDecoder(len(kinds) * dim, dim, len(KINDS), dtype)

    def scores(
        self, roots: Tensor, times: Tensor, kind: Tensor, event: Tensor,
        neighbours: Tensor, deltas: Tensor, counts: Tensor,
    ) -> Tensor:  # fmt: skip
        """Compute scores [B, 2] of the events' destinations and negatives, and update the memory."""
        embeddings = [
            branch(roots, times, kind, event, neighbours[:, which], deltas[:, which], counts[:, which])
            for which, branch in zip(self.kinds, self.branches.values(), strict=True)
        ]
        scores: Tensor = self.decoder(embeddings, kind)
        return scores

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss [], the mean over events of both binary cross-entropies, and update the memory."""
        positive, negative = self.scores(*batch).unbind(1)
        return (softplus(-positive) + softplus(negative)).mean()


def build() -> tuple[TypedModel, tuple[Tensor, ...]]:
    """Return the model for the default stream, and its first events as example inputs."""
    (first,) = TypedBatches(typed_stream(TypedConfig(events=_EXAMPLES)), _EXAMPLES, FANOUT)
    return TypedModel(TypedConfig().traders), first


def batches(size: int = BATCH) -> TypedBatches:
    """Return mini-batches of the default stream.

    Args:
        size: events per mini-batch, the plan's `--batch`.
    """
    return TypedBatches(typed_stream(), size, FANOUT)
