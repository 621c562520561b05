"""Cases of attention_layer with an oracle that projects every slot's key and value, a root at a time."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from mspipe_triton.kernels import attention_layer
from mspipe_triton.kernels.philox import dropout_scale
from tests.kernels.attention_case import encode, leaky, softmax
from tests.kernels.comparing import Agree, Named

DRAWS, OUTPUT_DRAWS = torch.tensor([7, 3, 1, 20]), torch.tensor([7, 4, 1, 20])


@dataclass
class LayerCase:
    """R roots among the first `distinct` of 30 table rows, with up to F neighbours among all; `leaves` are
    differentiated. Every third root is padding: row 0, no neighbours."""

    roots: int
    fanout: int = 4
    width: int = 3  # of the edge features
    heads: int = 2
    dim: int = 6
    times: int = 3
    distinct: int = 5
    indexed_features: bool = False
    counts: str = "some"
    dropout: float = 0.0
    eps: float = 1e-5
    leaves: Named = field(init=False)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.roots * 31 + self.fanout)
        wide, slots = self.dim + self.width + self.times, (self.roots, self.fanout)
        shapes = {
            "query_weight": (self.dim, self.dim + self.times), "query_bias": (self.dim,),
            "key_weight": (self.dim, wide), "key_bias": (self.dim,),
            "value_weight": (self.dim, wide), "value_bias": (self.dim,),
            "output_weight": (self.dim, 2 * self.dim), "output_bias": (self.dim,),
            "norm_weight": (self.dim,), "norm_bias": (self.dim,),
        }  # fmt: skip
        self.leaves = {
            "table": self.normal(30, self.dim),
            "frequency": torch.logspace(0, -3, self.times, dtype=torch.float64),
            "phase": self.normal(self.times),
            **{name: self.normal(*shape) / shape[-1] ** 0.5 for name, shape in shapes.items()},
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.rows, self.root_rows = self.integers(30, *slots), self.integers(self.distinct, self.roots)
        self.deltas = torch.rand(slots, dtype=torch.float64, generator=self.random) * 100
        low, high = {"none": (0, 0), "some": (0, self.fanout), "all": (self.fanout, self.fanout)}[self.counts]
        self.filled = low + self.integers(high - low + 1, self.roots)
        if self.counts == "some":
            self.filled[2::3], self.root_rows[2::3] = 0, 0
        self.features = self.normal(50 if self.indexed_features else self.roots * self.fanout, self.width)
        self.feature_rows = self.integers(50, *slots) if self.indexed_features else None
        self.probe = self.normal(self.roots, self.dim)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random)

    def integers(self, bound: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, bound, shape, generator=self.random)

    def to(self, dtype: torch.dtype, rows: torch.dtype | None = None) -> LayerCase:
        """This case's numbers rounded to `dtype`, the table's and the edge features' to `rows` where it is given."""
        made = copy.copy(self)
        kinds = {name: rows or dtype if name == "table" else dtype for name in self.leaves}
        made.leaves = {name: leaf.detach().to(kinds[name]).requires_grad_() for name, leaf in self.leaves.items()}
        made.features, made.deltas = self.features.to(rows or dtype), self.deltas.to(dtype)
        made.probe = self.probe.to(dtype)
        return made

    def spoil(self, value: float) -> None:
        """Put `value` or a row that no table has wherever a slot is empty."""
        empty = torch.arange(self.fanout) >= self.filled[:, None]
        self.deltas = torch.where(empty, value, self.deltas)
        self.rows = torch.where(empty, 2**31 - 1, self.rows)
        if self.feature_rows is None:
            self.features = torch.where(empty.view(-1, 1), value, self.features)
        else:
            self.feature_rows = torch.where(empty, 2**31 - 1, self.feature_rows)

    def narrow(self) -> None:
        """Indices become int32, and the rows of tables come to lie apart."""
        self.rows, self.root_rows, self.filled = self.rows.int(), self.root_rows.int(), self.filled.int()
        self.feature_rows = None if self.feature_rows is None else self.feature_rows.int()
        self.features = torch.cat([self.features, self.features], 1)[:, : self.width]
        self.leaves["table"] = self.leaves["table"].detach().repeat(1, 2)[:, : self.dim].requires_grad_()

    def named(self) -> dict[str, Any]:
        """What the public function takes, by name and in its order."""
        leaves = dict(self.leaves)
        return {
            "table": leaves.pop("table"), "root_rows": self.root_rows, "distinct": self.distinct, "rows": self.rows,
            "features": self.features, "feature_rows": self.feature_rows, "deltas": self.deltas, "counts": self.filled,
            **leaves, "heads": self.heads, "eps": self.eps, "dropout": self.dropout,
            "draws": DRAWS if self.dropout else None, "output_draws": OUTPUT_DRAWS if self.dropout else None,
        }  # fmt: skip

    def arguments(self, save: bool = True) -> tuple[Any, ...]:
        """What the operation takes."""
        return (*self.named().values(), save)

    def actual(self, **changes: Any) -> torch.Tensor:
        return attention_layer(**{**self.named(), **changes})

    def activated(self) -> torch.Tensor:
        """What the operation saves of ReLU's result [R, D]."""
        saved: torch.Tensor = torch.ops.mspipe_triton.attention_layer.default(*self.arguments())[9]
        return saved

    def expected(self) -> torch.Tensor:
        """The docstring's equations with projected keys and values, a root at a time."""
        leaves, rows = self.leaves, []
        weight = dropout_scale(DRAWS, (self.roots, self.heads, self.fanout), self.dropout, torch.float64)
        kept = dropout_scale(OUTPUT_DRAWS, (self.roots, self.dim), self.dropout, torch.float64)
        for root in range(self.roots):
            own, x = leaves["table"][self.root_rows[root]], self.neighbours(root)
            zero = torch.cat([own, torch.cos(leaves["phase"])])
            query = self.heads_of(leaves["query_weight"] @ zero + leaves["query_bias"])
            keys = self.heads_of(x @ leaves["key_weight"].T + leaves["key_bias"])
            values = self.heads_of(x @ leaves["value_weight"].T + leaves["value_bias"])
            attended = []
            for head in range(self.heads):
                a = softmax(leaky(keys[:, head] @ query[head])) * weight[root, head, : len(x)]
                attended.append(a @ values[:, head])
            y = leaves["output_weight"] @ torch.cat([*attended, own]) + leaves["output_bias"]
            rows.append(self.normed((y * kept[root]).clamp(min=0)))
        return torch.stack(rows) if rows else torch.zeros(0, self.dim, dtype=torch.float64)

    def heads_of(self, row: torch.Tensor) -> torch.Tensor:
        return row.view(*row.shape[:-1], self.heads, self.dim // self.heads)

    def normed(self, row: torch.Tensor) -> torch.Tensor:
        centred = row - row.mean()
        return centred / ((centred**2).mean() + self.eps).sqrt() * self.leaves["norm_weight"] + self.leaves["norm_bias"]

    def neighbours(self, root: int) -> torch.Tensor:
        """x_j [counts, D + E + T] of one root's filled slots."""
        count = int(self.filled[root])
        slots = torch.arange(root * self.fanout, root * self.fanout + count)
        if self.feature_rows is not None:
            slots = self.feature_rows[root, :count].clamp(min=0)
        encoded = encode(self.deltas[root, :count], self.leaves)
        return torch.cat([self.leaves["table"][self.rows[root, :count]], self.features[slots], encoded], 1)

    def with_gradients(self, z: torch.Tensor) -> Named:
        leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad((z * self.probe).sum(), list(leaves.values()), materialize_grads=True)
        return {"z": z.detach(), **dict(zip(leaves, gradients, strict=True))}


def check(case: LayerCase, agree: Agree) -> Named:
    """Both agree; the oracle's tensors are returned."""
    expected = case.with_gradients(case.expected())
    agree(case.with_gradients(case.actual()), expected)
    return expected
