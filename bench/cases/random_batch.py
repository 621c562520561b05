"""Streams for the benchmarks of kernels: their sizes, and a random batch with its neighbourhood."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from mspipe_triton.kernels import sample_recent

# With p(k) ∝ k^-1.1 over WIKI's nodes, 19,800 slots at B 600 hold about 1,680 distinct nodes, as in the real stream.
EXPONENT = 1.1
SECONDS_BETWEEN_EVENTS = 30


@dataclass(frozen=True)
class Shape:
    """Sizes of a stream and a model: widths of memory, φ and edge rows, neighbours per root, nodes, events, batch."""

    name: str
    nodes: int
    events: int
    features: int
    batch: int
    dim: int = 100
    times: int = 100
    fanout: int = 10

    def __str__(self) -> str:
        return f"{self.name}-B{self.batch}"


def shapes(name: str, nodes: int, events: int, features: int) -> list[Shape]:
    return [Shape(name, nodes, events, features, batch) for batch in (200, 600, 4000)]


WIKI = shapes("WIKI", 9_227, 157_474, 172)
REDDIT = shapes("REDDIT", 10_984, 672_447, 172)
# GDELT's nodes and its widest row, with 500,000 events: all 1.9e8 would fill most of a GPU's memory and only add one or
# two steps to the binary search.
GDELT = shapes("GDELT", 16_682, 500_000, 413)
SHAPES = [*WIKI, *REDDIT, *GDELT]
TINY = Shape("TINY", 60, 300, 7, 8, dim=20, times=12, fanout=4)


@dataclass(frozen=True)
class RandomBatch:
    """A stream's last batch and its neighbourhood: T-CSR, 3B roots, their recent neighbours, the distinct nodes.

    indptr [N + 1], neighbours, event_ids [2E] int32, times [2E]; src, dst [B]; roots, root_times [3B]; events, deltas
    [3B, F], counts [3B]; nodes [3B + 3B·F], roots first, −1 in empty slots; distinct [U] in order of first occurrence,
    inverse as nodes; degree [N]; earlier [P], the distinct endpoints of the previous batch.
    """

    shape: Shape
    csr: dict[str, torch.Tensor]
    src: torch.Tensor
    dst: torch.Tensor
    roots: torch.Tensor
    root_times: torch.Tensor
    events: torch.Tensor
    deltas: torch.Tensor
    counts: torch.Tensor
    nodes: torch.Tensor
    distinct: torch.Tensor
    inverse: torch.Tensor
    degree: torch.Tensor
    earlier: torch.Tensor

    @property
    def root_rows(self) -> torch.Tensor:
        """Row of each root among the distinct nodes, [3B]; distinct roots come first."""
        return self.inverse[: self.roots.numel()]

    @property
    def filled(self) -> int:
        """Number of slots with a neighbour."""
        return int(self.counts.sum())


@functools.lru_cache(maxsize=4)
def random_batch(shape: Shape, seed: int = 0) -> RandomBatch:
    """Draw a stream whose endpoints follow Zipf's law, and sample around its last batch, on the CPU."""
    random = torch.Generator().manual_seed(seed)
    law = torch.arange(1, shape.nodes + 1, dtype=torch.float64) ** -EXPONENT
    ids = torch.randperm(shape.nodes, generator=random)  # spreads popular nodes over the tables

    def draw(count: int) -> torch.Tensor:
        return ids[torch.multinomial(law, count, replacement=True, generator=random)]

    src, dst, negatives = draw(shape.events), draw(shape.events), draw(shape.batch)
    times = torch.randint(0, 2 * SECONDS_BETWEEN_EVENTS, (shape.events,), generator=random).cumsum(0)
    owners, others = torch.stack([src, dst], 1).view(-1), torch.stack([dst, src], 1).view(-1)
    order = owners.argsort(stable=True)
    degree = owners.bincount(minlength=shape.nodes)
    csr = {
        "indptr": torch.cat([degree.new_zeros(1), degree.cumsum(0)]),
        "neighbours": others[order].int(),
        "event_ids": (order // 2).int(),
        "times": times.repeat_interleave(2)[order],
    }
    last, before = slice(-shape.batch, None), slice(-2 * shape.batch, -shape.batch)
    roots, root_times = torch.cat([src[last], dst[last], negatives]), times[last].repeat(3)
    neighbours, events, deltas, counts = sample_recent.reference(
        **csr, roots=roots, root_times=root_times, fanout=shape.fanout
    )
    nodes = torch.cat([roots, neighbours.view(-1)])
    distinct, inverse = first_occurrence(nodes)
    earlier = torch.cat([src[before], dst[before]]).unique()
    return RandomBatch(
        shape, csr, src[last], dst[last], roots, root_times, events, deltas, counts, nodes, distinct, inverse, degree,
        earlier,
    )  # fmt: skip


def first_occurrence(nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct nodes in order of first occurrence and each entry's index among them, 0 for negative entries."""
    real = nodes >= 0
    values, places = nodes[real].unique(return_inverse=True)
    first = places.new_full((values.numel(),), nodes.numel()).scatter_reduce_(0, places, real.nonzero()[:, 0], "amin")
    order = first.argsort()
    inverse = torch.zeros_like(nodes)
    inverse[real] = order.argsort()[places]
    return values[order], inverse


@dataclass(frozen=True)
class Numbers:
    """Source of floating-point inputs: device, dtypes of computation and tables, unused columns between table rows."""

    random: torch.Generator
    device: torch.device
    dtype: torch.dtype
    table_dtype: torch.dtype
    padding: int = 0

    def normal(self, *size: int, scale: float = 1.0) -> torch.Tensor:
        """Normal numbers in the dtype of computation."""
        return torch.randn(size, generator=self.random, device=self.device, dtype=self.dtype) * scale

    def table(self, rows: int, width: int) -> torch.Tensor:
        """Table [rows, width] in the tables' dtype, a slice of a wider one if rows are padded."""
        wide = torch.randn(rows, width + self.padding, generator=self.random, device=self.device, dtype=self.dtype)
        return wide.to(self.table_dtype)[:, :width]

    def seconds(self, rows: int) -> torch.Tensor:
        """Whole seconds up to about a week, [rows]."""
        return torch.randint(0, 600_000, (rows,), generator=self.random, device=self.device)
