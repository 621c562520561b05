"""A custom model: message function, memory updater and embedding, trained beside TGN under any schedule.

python examples/own_model.py --schedule exact
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from torch import nn

from mspipe_triton import ModelConfig, RunConfig, TrainConfig, train
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.kernels import encode_time
from mspipe_triton.models import EmbeddingInput, Facts, Recipe, register


class LearnedMessage(nn.Module):
    """tanh(W [memory ‖ partner ‖ mail features ‖ φ(mail time − memory time)] + b)."""

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.width = config.dim
        self.linear = nn.Linear(3 * config.dim + facts.dim_edge, config.dim, dtype=getattr(torch, config.dtype))

    def forward(self, record: Any, time: Any) -> torch.Tensor:
        """Messages [U, D]."""
        age = (record.mail_time - record.memory_time).to(record.memory.dtype)
        encoded = encode_time(age, time.frequency, time.phase)
        return torch.tanh(self.linear(torch.cat([record.memory, record.partner, record.mail_features, encoded], 1)))


class MovingAverage(nn.Module):
    """h = (1 − a) ⊙ memory + a ⊙ message with a learned a in (0, 1) per dimension; memory itself without mail."""

    def __init__(self, config: ModelConfig, facts: Facts, message: nn.Module) -> None:
        super().__init__()
        self.message = message
        self.rate = nn.Parameter(torch.zeros(config.dim, dtype=getattr(torch, config.dtype)))

    def forward(self, record: Any, time: Any, now: torch.Tensor, draws: object) -> torch.Tensor:
        """h [U, D]."""
        average = torch.lerp(record.memory, self.message(record, time), torch.sigmoid(self.rate))
        return torch.where(record.has_mail.unsqueeze(1), average, record.memory)


class MeanOfNeighbours(nn.Module):
    """z = LayerNorm(ReLU(W [h ‖ mean of [h_j ‖ e_j ‖ φ(Δt_j)] over sampled neighbours j] + b)); a mean of none is 0."""

    layers = 1

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        dtype = getattr(torch, config.dtype)
        self.linear = nn.Linear(3 * config.dim + facts.dim_edge, config.dim, dtype=dtype)
        self.norm = nn.LayerNorm(config.dim, dtype=dtype)

    def forward(self, inputs: EmbeddingInput) -> torch.Tensor:
        """Embeddings [R, D]."""
        hop, (edges,), time = inputs.around.hops[0], inputs.edge_features, inputs.time
        points, fanout = hop.rows.shape
        hidden = inputs.table.index_select(0, hop.rows.view(-1))
        ages = encode_time(hop.deltas.view(-1), time.frequency, time.phase)
        slots = torch.cat([hidden, edges, ages], 1).view(points, fanout, -1)
        filled = torch.arange(fanout, device=slots.device) < hop.counts.unsqueeze(1)
        mean = (slots * filled.unsqueeze(2)).sum(1) / hop.counts.clamp(min=1).unsqueeze(1)
        root = inputs.table.index_select(0, hop.root_rows)
        embedded: torch.Tensor = self.norm(torch.relu(self.linear(torch.cat([root, mean], 1))))
        return embedded


AVERAGING = Recipe(MeanOfNeighbours, MovingAverage, LearnedMessage)


def main(arguments: list[str] | None = None) -> None:
    """Train the model and TGN on one generated stream, and print the average precision of each on its last 15 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedule", default="auto")
    parser.add_argument("--events", type=int, default=6_000, help="events of the generated stream")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args(arguments)

    register("averaging", AVERAGING, fanout=10)
    stream = synthetic_stream(SyntheticConfig(events=options.events, users=300, items=100, edge_features=16))
    settings = TrainConfig(epochs=options.epochs, batch_size=200, schedule=options.schedule)
    for name in ("averaging", "tgn"):
        with tempfile.TemporaryDirectory() as folder:
            result = train(RunConfig(model=ModelConfig(model=name, dim=32), train=settings), stream, out=folder)
        print(f"{name:9}  test AP {result['test']['ap']:.4f}  {result['train_events_per_s']:,.0f} events/s")


if __name__ == "__main__":
    main()
