"""PyG's TGN with PyG's memory or with mspipe-triton's: only the memory's class differs, the loop is the same.

python examples/pyg_tgn_with_fused_memory.py --memory fused
python examples/pyg_tgn_with_fused_memory.py --memory pyg --data events.csv
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn
from torch_geometric.nn import TGNMemory, TransformerConv
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.readers import read_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.evaluation.metrics import average_precision
from mspipe_triton.kernels.pyg import FusedTGNMemory

DIM, FANOUT = 32, 10


class GraphAttentionEmbedding(nn.Module):
    """Attention over a node's latest neighbours; an edge carries the encoding of its age and its message."""

    def __init__(self, dim: int, message_dim: int, time_enc: nn.Module) -> None:
        super().__init__()
        self.time_enc = time_enc
        edge_dim = message_dim + time_enc.out_channels
        self.convolution = TransformerConv(dim, dim // 2, heads=2, dropout=0.1, edge_dim=edge_dim)

    def forward(
        self, z: torch.Tensor, last_update: torch.Tensor, edges: torch.Tensor, t: torch.Tensor, message: torch.Tensor
    ) -> torch.Tensor:
        """Embeddings of all nodes z from `edges` (neighbour, node), the edges' times and messages."""
        age = (last_update[edges[0]] - t).to(message.dtype)
        return self.convolution(z, edges, torch.cat([self.time_enc(age), message], 1))


class LinkPredictor(nn.Module):
    """A logit per pair of embeddings."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.src, self.dst, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        """Logits [B] that src and dst interact."""
        return self.out((self.src(src) + self.dst(dst)).relu()).squeeze(1)


class TGN:
    """The stream and the four parts of PyG's example: memory, embedding, predictor, neighbour loader."""

    def __init__(self, stream: EventStream, memory_class: type[nn.Module], batch_size: int) -> None:
        self.src, self.dst, self.t, self.batch_size = stream.src, stream.dst, stream.t.long(), batch_size
        features = stream.edge_features
        self.message = torch.zeros(len(stream), 1) if features is None else features  # PyG needs at least one column
        nodes, width = stream.num_nodes, self.message.shape[1]
        self.memory = memory_class(nodes, width, DIM, DIM, IdentityMessage(width, DIM, DIM), LastAggregator())
        self.embedding = GraphAttentionEmbedding(DIM, width, self.memory.time_enc)
        self.modules = nn.ModuleList([self.memory, self.embedding, LinkPredictor(DIM)])
        self.optimizer = torch.optim.Adam(self.modules.parameters(), lr=1e-3)
        self.loader = LastNeighborLoader(nodes, size=FANOUT)
        self.position = torch.empty(nodes, dtype=torch.long)

    def logits(self, events: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the events and as many with random destinations, then add the events to memory and loader."""
        src, dst, t, message = self.src[events], self.dst[events], self.t[events], self.message[events]
        negative = torch.randint(int(self.dst.min()), int(self.dst.max()) + 1, dst.shape)
        n_id, edges, e_id = self.loader(torch.cat([src, dst, negative]).unique())
        self.position[n_id] = torch.arange(n_id.numel())
        memory, last_update = self.memory(n_id)
        z = self.embedding(memory, last_update, edges, self.t[e_id], self.message[e_id])
        at_src, at_dst, at_negative = (z[self.position[nodes]] for nodes in (src, dst, negative))
        scores = self.modules[2](at_src, at_dst), self.modules[2](at_src, at_negative)
        self.memory.update_state(src, dst, t, message)
        self.loader.insert(src, dst)
        return scores

    def batches(self, start: int, stop: int) -> list[slice]:
        """Slices of the events [start, stop), one per batch."""
        return [slice(i, min(i + self.batch_size, stop)) for i in range(start, stop, self.batch_size)]

    def train(self, stop: int) -> float:
        """Train for an epoch on events [0, stop) from an empty memory, and return the mean loss of its batches."""
        self.modules.train()
        self.memory.reset_state()
        self.loader.reset_state()
        losses = []
        for events in self.batches(0, stop):
            self.optimizer.zero_grad()
            positive, negative = self.logits(events)
            loss = nn.functional.softplus(-positive).mean() + nn.functional.softplus(negative).mean()
            loss.backward()
            self.optimizer.step()
            self.memory.detach()
            losses.append(float(loss.detach()))
        return sum(losses) / len(losses)

    @torch.no_grad()
    def test(self, start: int, stop: int) -> float:
        """Average precision on events [start, stop), starting from the current memory."""
        self.modules.eval()
        positive, negative = zip(*(self.logits(events) for events in self.batches(start, stop)), strict=True)
        return average_precision(torch.cat(positive), torch.cat(negative))


def main(arguments: list[str] | None = None) -> None:
    """Train on the first 70 % of a stream, and print the AP on the next 15 % and on the last 15 % per epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", choices=["pyg", "fused"], default="fused")
    parser.add_argument("--data", help="CSV or Parquet file of events; default: a generated stream")
    parser.add_argument("--events", type=int, default=10_000, help="events of the generated stream")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    config = SyntheticConfig(events=options.events, users=300, items=100, edge_features=16)
    stream = read_stream(options.data) if options.data else synthetic_stream(config)
    split = stream.split()
    tgn = TGN(stream, {"pyg": TGNMemory, "fused": FusedTGNMemory}[options.memory], options.batch_size)
    for epoch in range(1, options.epochs + 1):
        start = time.perf_counter()
        loss, seconds = tgn.train(split.train_end), time.perf_counter() - start
        validation, test = tgn.test(split.train_end, split.val_end), tgn.test(split.val_end, len(stream))
        print(f"epoch {epoch}  loss {loss:.4f}  val AP {validation:.4f}  test AP {test:.4f}  training {seconds:.1f} s")


if __name__ == "__main__":
    main()
