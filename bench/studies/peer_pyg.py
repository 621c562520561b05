"""PyG's TGN as in its documentation, behind the interface of the comparison's peers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch_geometric.nn import TGNMemory, TransformerConv
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

from mspipe_triton.data.events import EventStream

Draws = Callable[[int], torch.Tensor]


class FixedAggregator(LastAggregator):
    """PyG's LastAggregator with a fix for nodes without messages.

    Without torch_scatter, PyG 2.8 marks such a node with U − 1, which is another node's message if the U nodes that
    are read have U messages or more.
    """

    def forward(self, msg: torch.Tensor, index: torch.Tensor, t: torch.Tensor, dim_size: int) -> torch.Tensor:
        """Last message of each of dim_size nodes, 0 for a node without messages."""
        aggregated: torch.Tensor = super().forward(msg, index, t, max(dim_size, msg.size(0) + 1))
        return aggregated[:dim_size]


class _Embedding(nn.Module):
    """Transformer attention over the neighbour graph; an edge carries its time encoding and its message."""

    def __init__(self, dim: int, dim_message: int, time_encoder: Any) -> None:
        super().__init__()
        self.time_encoder = time_encoder
        width = dim_message + time_encoder.out_channels
        self.convolution = TransformerConv(dim, dim // 2, heads=2, dropout=0.1, edge_dim=width)

    def forward(
        self, memory: torch.Tensor, updated: torch.Tensor, edges: torch.Tensor, t: torch.Tensor, message: torch.Tensor
    ) -> torch.Tensor:
        elapsed = (updated[edges[0]] - t).to(memory.dtype)
        attributes = torch.cat([self.time_encoder(elapsed), message], 1)
        embedded: torch.Tensor = self.convolution(memory, edges, attributes)
        return embedded


class _Predictor(nn.Module):
    """w·ReLU(W_s z_src + W_d z_dst) + b."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.src, self.dst, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        score: torch.Tensor = self.out((self.src(src) + self.dst(dst)).relu())
        return score.squeeze(-1)


class PygTGN:
    """TGNMemory, LastNeighborLoader and TransformerConv in the order of the documented training loop.

    Without edge features the raw message is one zero, since TGNMemory needs a message; its times are int64. Everything
    is on one device, including the negatives that callers pass.
    """

    def __init__(self, stream: EventStream, dim: int, fanout: int, lr: float, seed: int, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        self.device = torch.device(device)
        message = torch.zeros(len(stream), 1) if stream.edge_features is None else stream.edge_features
        self.src, self.dst, self.t, self.message = (
            column.to(self.device) for column in (stream.src, stream.dst, stream.t.long(), message)
        )
        width, nodes = self.message.shape[1], stream.num_nodes
        self.memory = TGNMemory(nodes, width, dim, dim, IdentityMessage(width, dim, dim), FixedAggregator())
        self.embedding = _Embedding(dim, width, self.memory.time_enc)
        self.predictor = _Predictor(dim)
        self.modules = nn.ModuleList([self.memory, self.embedding, self.predictor]).to(self.device)
        self.optimizer = torch.optim.Adam(self.modules.parameters(), lr=lr)
        self.neighbours = LastNeighborLoader(nodes, size=fanout, device=self.device)
        self.position = torch.empty(nodes, dtype=torch.long, device=self.device)

    def train_epoch(self, stop: int, batch_size: int, negatives: Draws) -> float:
        """Train on events [0, stop) from an empty memory; returns wall seconds."""
        self._settle()
        begin = time.perf_counter()
        self.modules.train()
        self.memory.reset_state()
        self.neighbours.reset_state()
        criterion = nn.BCEWithLogitsLoss()
        for index, start in enumerate(range(0, stop, batch_size)):
            events = slice(start, min(start + batch_size, stop))
            self.optimizer.zero_grad()
            positive, negative = self._scores(events, self.dst[events], negatives(index))
            loss = criterion(positive, torch.ones_like(positive)) + criterion(negative, torch.zeros_like(negative))
            self._observe(events)
            loss.backward()
            self.optimizer.step()
            self.memory.detach()
        self._settle()
        return time.perf_counter() - begin

    @torch.no_grad()
    def evaluate(
        self, start: int, stop: int, batch_size: int, negatives: Draws, candidates: Draws | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Logits of positives, negatives and candidates per batch, continuing from the current memory."""
        self.modules.eval()
        scores: tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]] = ([], [], [])
        for index, begin in enumerate(range(start, stop, batch_size)):
            events = slice(begin, min(begin + batch_size, stop))
            destinations = [self.dst[events], negatives(index)]
            if candidates is not None:
                destinations.append(candidates(index))
            for lists, logits in zip(scores, self._scores(events, *destinations), strict=False):
                lists.append(logits)
            self._observe(events)
        return scores

    def snapshot(self) -> Any:
        """Copy parameters, memory, message stores, neighbour loader and mode, but not Adam's moments.

        The stores are copied shallowly: TGNMemory replaces their tensors and never writes into them.
        """
        stores = (dict(self.memory.msg_s_store), dict(self.memory.msg_d_store))
        loader = {name: getattr(self.neighbours, name) for name in ("neighbors", "e_id", "cur_e_id")}
        return *copy.deepcopy((self.modules.state_dict(), loader)), stores, self.memory.training

    @torch.no_grad()
    def restore(self, saved: Any) -> None:
        """Go back to a snapshot; the mode comes first, since leaving training flushes TGNMemory's messages."""
        parameters, loader, stores, training = saved
        self.modules.train(training)
        self.modules.load_state_dict(parameters)
        self.memory.msg_s_store, self.memory.msg_d_store = (dict(store) for store in stores)
        for name, value in copy.deepcopy(loader).items():
            setattr(self.neighbours, name, value)

    def _scores(self, events: slice, *destinations: torch.Tensor) -> list[torch.Tensor]:
        """Logits of the events' sources with each of the destinations, [B] or [B, N], from one pass over the nodes."""
        src = self.src[events]
        touched = torch.cat([src, *(each.reshape(-1) for each in destinations)]).unique()
        nodes, edges, event_ids = self.neighbours(touched)
        self.position[nodes] = torch.arange(nodes.numel(), device=self.device)
        rows, updated = self.memory(nodes)
        z = self.embedding(rows, updated, edges, self.t[event_ids], self.message[event_ids])
        scores = []
        for each in destinations:
            paired = src if each.dim() == 1 else src.unsqueeze(1)
            scores.append(self.predictor(z[self.position[paired]], z[self.position[each]]))
        return scores

    def _observe(self, events: slice) -> None:
        """Pass the batch's events to memory and loader."""
        src, dst = self.src[events], self.dst[events]
        self.memory.update_state(src, dst, self.t[events], self.message[events])
        self.neighbours.insert(src, dst)

    def _settle(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
