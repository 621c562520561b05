"""Cases of attention_layer, with an oracle that projects the key and value of every slot, one root at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mspipe_triton.kernels import attention_layer
from mspipe_triton.kernels.numbers.philox import dropout_scale
from tests.kernels.attention.slot_case import SlotCase, leaky, softmax

DRAWS, OUTPUT_DRAWS = torch.tensor([7, 3, 1, 20]), torch.tensor([7, 4, 1, 20])


@dataclass
class LayerCase(SlotCase):
    """A call of attention_layer: roots among the first `distinct` of 30 table rows, neighbours among all of them. Every
    third root is padding: row 0, no neighbours."""

    function: ClassVar[Callable[..., Any]] = staticmethod(attention_layer)
    outputs: ClassVar[tuple[str, ...]] = ("z",)
    unread: ClassVar[tuple[str, ...]] = ("draws", "output_draws", "z")

    fanout: int = 4
    dim: int = 6
    distinct: int = 5
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        wide = self.dim + self.width + self.times
        shapes = {
            "query_weight": (self.dim, self.dim + self.times), "query_bias": (self.dim,),
            "key_weight": (self.dim, wide), "key_bias": (self.dim,),
            "value_weight": (self.dim, wide), "value_bias": (self.dim,),
            "output_weight": (self.dim, 2 * self.dim), "output_bias": (self.dim,),
            "norm_weight": (self.dim,), "norm_bias": (self.dim,),
        }  # fmt: skip
        self.leaves = {
            "table": self.normal(30, self.dim), **self.leaves,
            **{name: self.normal(*shape) / shape[-1] ** 0.5 for name, shape in shapes.items()},
        }  # fmt: skip
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.rows, self.root_rows = self.integers(30, self.roots, self.fanout), self.integers(self.distinct, self.roots)
        if self.counts == "some":
            self.filled[2::3], self.root_rows[2::3] = 0, 0
        self.probes = (self.normal(self.roots, self.dim),)

    def narrow(self) -> None:
        super().narrow()
        self.root_rows = self.root_rows.int()

    def keywords(self) -> dict[str, Any]:
        """Arguments of the public function, by name and in its order."""
        leaves = dict(self.leaves)
        return {
            "table": leaves.pop("table"), "root_rows": self.root_rows, "distinct": self.distinct, "rows": self.rows,
            "features": self.features, "feature_rows": self.feature_rows, "deltas": self.deltas, "counts": self.filled,
            **leaves, "heads": self.heads, "eps": self.eps, "dropout": self.dropout,
            "draws": DRAWS if self.dropout else None, "output_draws": OUTPUT_DRAWS if self.dropout else None,
        }  # fmt: skip

    def saved_activation(self) -> torch.Tensor:
        """ReLU's result [R, D] as the operation saves it."""
        saved: torch.Tensor = self.operation(*self.arguments())[9]
        return saved

    def expected(self) -> torch.Tensor:
        """Compute the docstring's equations with projected keys and values, one root at a time."""
        leaves, rows = self.leaves, []
        weight = dropout_scale(DRAWS, (self.roots, self.heads, self.fanout), self.dropout, torch.float64)
        output_scale = dropout_scale(OUTPUT_DRAWS, (self.roots, self.dim), self.dropout, torch.float64)
        for root in range(self.roots):
            root_row, x = leaves["table"][self.root_rows[root]], self.neighbours(root)
            zero = torch.cat([root_row, torch.cos(leaves["phase"])])
            query = self.heads_of(leaves["query_weight"] @ zero + leaves["query_bias"])
            keys = self.heads_of(x @ leaves["key_weight"].T + leaves["key_bias"])
            values = self.heads_of(x @ leaves["value_weight"].T + leaves["value_bias"])
            contexts = []
            for head in range(self.heads):
                a = softmax(leaky(keys[:, head] @ query[head])) * weight[root, head, : len(x)]
                contexts.append(a @ values[:, head])
            y = leaves["output_weight"] @ torch.cat([*contexts, root_row]) + leaves["output_bias"]
            rows.append(self.layer_norm((y * output_scale[root]).clamp(min=0)))
        return torch.stack(rows) if rows else torch.zeros(0, self.dim, dtype=torch.float64)

    def heads_of(self, row: torch.Tensor) -> torch.Tensor:
        return row.view(*row.shape[:-1], self.heads, self.dim // self.heads)

    def layer_norm(self, row: torch.Tensor) -> torch.Tensor:
        centred = row - row.mean()
        return centred / ((centred**2).mean() + self.eps).sqrt() * self.leaves["norm_weight"] + self.leaves["norm_bias"]
