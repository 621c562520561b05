"""Small modules that return their loss: the models of the tests of pipelined runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TwoBranch(nn.Module):
    """Two towers joined by a head; the towers change activations in place, the first has a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 10), nn.ReLU(inplace=True), nn.Linear(10, 8), nn.ReLU(inplace=True))
        self.b = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 7), nn.LayerNorm(7))
        self.head = nn.Linear(15, 1)
        self.a[0].requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        joined = torch.cat([self.a(x), self.b(y)], dim=1)
        return F.mse_loss(self.head(joined).squeeze(1), target)


class TwoLosses(nn.Module):
    """Two branches with a loss each; the sum of the losses is a costless join."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))
        self.b = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 1))

    def forward(self, x: Tensor, y: Tensor, label: Tensor, target: Tensor) -> Tensor:
        """Return the sum of the mean cross-entropy and the mean squared error."""
        return F.cross_entropy(self.a(x), label) + 0.5 * F.mse_loss(self.b(y).squeeze(1), target)


class SeparateLosses(TwoLosses):
    """The same, returned as a mean and as a loss per sample."""

    def forward(self, x: Tensor, y: Tensor, label: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the mean cross-entropy, and the squared errors, [B]."""
        return F.cross_entropy(self.a(x), label), (self.b(y).squeeze(1) - target) ** 2


class Summed(TwoLosses):
    """The same with sums over the samples."""

    def forward(self, x: Tensor, y: Tensor, label: Tensor, target: Tensor) -> Tensor:
        """Return the sum of the losses of all samples."""
        whole = F.cross_entropy(self.a(x), label, reduction="sum")
        return whole + 0.5 * F.mse_loss(self.b(y).squeeze(1), target, reduction="sum")


class Diamond(nn.Module):
    """A stem before two branches that a head joins, with a constant mask on one of them."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True))
        self.a, self.b = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU())
        self.head = nn.Linear(8, 3)
        self.register_buffer("mask", (torch.arange(8) % 3 > 0).to(torch.get_default_dtype()))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        stem = self.stem(x)
        return F.cross_entropy(self.head(self.a(stem) * self.mask + self.b(stem)), label)


class FanOut(nn.Module):
    """A stem that three branches use, and the head once more; a loss per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4)) for _ in range(3))
        self.head = nn.Linear(20, 1)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return squared errors, [B]."""
        stem = torch.tanh(self.stem(x))
        joined = torch.cat([stem, *(branch(stem) for branch in self.branches)], dim=1)
        return (self.head(joined).squeeze(1) - target) ** 2


class Merge(nn.Module):
    """A layer on the concatenation of its inputs, as one operator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, width) / width)

    def forward(self, *parts: Tensor) -> Tensor:
        """Map tensors [B, D] to [B]."""
        return F.linear(torch.cat(parts, dim=1), self.weight).squeeze(1)


class Skip(nn.Module):
    """Four blocks in a row; the last one uses both results of the first block once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(6, 8), nn.Linear(6, 8)
        self.second, self.third = (nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.last = Merge(24)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        first, gate = self.first(x), torch.sigmoid(self.gate(x))
        deep = self.third(self.second(first * gate))
        return F.mse_loss(self.last(deep, gate, first), target)


class Interaction(nn.Module):
    """Products of all pairs of branches: [B, n, D] to [B, n · (n − 1) / 2]; no parameters."""

    pairs: Tensor

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.register_buffer("pairs", torch.triu_indices(branches, branches, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the products."""
        return torch.bmm(x, x.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]


class DLRM(nn.Module):
    """A recommendation model: embedding bags and a dense tower, their products, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(rows, 6, mode="sum") for rows in (11, 7))
        self.dense = nn.Sequential(nn.Linear(5, 9), nn.ReLU(inplace=True), nn.Linear(9, 6), nn.ReLU(inplace=True))
        self.interaction = Interaction(3)
        self.top = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, dense: Tensor, one: Tensor, other: Tensor, label: Tensor) -> Tensor:
        """Return the mean binary cross-entropy."""
        branches = [self.dense(dense), self.bags[0](one), self.bags[1](other)]
        products = self.interaction(torch.stack(branches, dim=1))
        scores = self.top(torch.cat([branches[0], products], dim=1)).squeeze(1)
        return F.binary_cross_entropy_with_logits(scores, label)


class Layer(nn.Module):
    """A transformer layer; keys have no bias, since attention does not depend on one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.back = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, L, D] to [B, L, D]."""
        batch, length, width = x.shape
        parts = self.project(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts.unbind(0))
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.back(self.feed(x))


class MMT(nn.Module):
    """A multi-modal transformer: two layers per modality after a table of positions, and a classifier."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.linspace(-1, 1, 5 * 8).view(5, 8))
        self.modalities = nn.ModuleList(nn.Sequential(Layer(8, 2), Layer(8, 2)) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, text: Tensor, image: Tensor, label: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        inputs = (text + self.positions, image)
        means = [branch(x).mean(1) for branch, x in zip(self.modalities, inputs, strict=True)]
        return F.cross_entropy(self.head(torch.cat(means, dim=1)), label)


class Frozen(nn.Module):
    """A frozen stem with a layer of integers, before two layers that are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.stem = nn.Embedding(9, 8), nn.Linear(8, 8)
        self.hidden, self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)), nn.Linear(8, 1)
        self.table.requires_grad_(False)
        self.stem.requires_grad_(False)

    def forward(self, index: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(self.head(self.hidden(self.stem(self.table(index)))).squeeze(1), target)


class Normalised(nn.Module):
    """Layers with batch norm, whose result depends on the micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(self.head(self.second(self.first(x))).squeeze(1), target)


class Dropped(nn.Module):
    """Layers with dropout, on the inputs too, which two branches share."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.a, self.b = (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5)) for _ in range(2))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        x = self.drop(x)
        return F.mse_loss(self.head(self.a(x) * self.b(x)).squeeze(1), target)


class Twins(nn.Module):
    """Equal branches after the dropout of an input, and a loss that is 0 if both see the same."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.a, self.b = nn.Dropout(0.4), nn.Linear(6, 8), nn.Linear(6, 8)
        self.b.load_state_dict(self.a.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean squared difference of the branches."""
        x = self.drop(x)
        return F.mse_loss(self.a(x), self.b(x))
