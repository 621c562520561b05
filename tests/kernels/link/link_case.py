"""Cases of link_loss; the oracle is torch's cross-entropies on the scores of the real events alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear

from mspipe_triton.kernels import link_loss
from tests.kernels.comparing import Tensors
from tests.kernels.runtime.operation_case import OperationCase

# By name: the settings of `Case` for each form of the operation.
FORMS: dict[str, dict[str, Any]] = {
    "one negative": {},
    "pairs": {"features": 4},
    "negatives": {"negatives": 3},
    "negatives, pairs": {"negatives": 3, "features": 4},
    "softmax": {"negatives": 3, "softmax": True},
    "softmax, pairs": {"negatives": 2, "features": 4, "softmax": True},
    "softmax, one negative": {"softmax": True},
}


@dataclass
class Case(OperationCase):
    """Random embeddings and weights for B events; the first `count` are real, the others' numbers are `junk`.

    There are no features of pairs if `features` is 0. Gradients are those of 1.7 times the loss.
    """

    function: ClassVar[Callable[..., Any]] = staticmethod(link_loss)
    outputs: ClassVar[tuple[str, ...]] = ("loss", "scores")
    unread: ClassVar[tuple[str, ...]] = ("loss", "scores")

    events: int
    dim: int = 3
    count: int | None = None
    junk: float = torch.nan
    negatives: int = 1
    features: int = 0
    softmax: bool = False

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(31 * self.events + self.dim)
        self.pairs: torch.Tensor | None = None
        self.log_weights = self.normal(self.events, self.negatives) if self.softmax else None
        if self.log_weights is not None:
            self.log_weights[self.real :] = self.junk
        self.numbers = (*(("pairs",) if self.features else ()), *(("log_weights",) if self.softmax else ()))
        self.leaves = {
            "embedded": self.normal((2 + self.negatives) * self.events, self.dim),
            "weight_src": self.normal(self.dim, self.dim) / self.dim**0.5,
            "bias_src": self.normal(self.dim),
            "weight_dst": self.normal(self.dim, self.dim) / self.dim**0.5,
            "bias_dst": self.normal(self.dim),
            "weight_out": self.normal(1, self.dim),
            "bias_out": self.normal(1),
        }
        self.leaves["embedded"][self.padding] = self.junk
        if self.features:
            self.pairs = self.normal(self.events, 1 + self.negatives, self.features)
            self.pairs[self.real :] = self.junk
            self.leaves["weight_pair"] = self.normal(self.dim, self.features) / self.features**0.5
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.probes = (torch.tensor(1.7, dtype=torch.float64),)

    @property
    def real(self) -> int:
        return self.events if self.count is None else self.count

    @property
    def differentiable(self) -> list[str]:
        return [*self.leaves, *(() if self.features else ("weight_pair",))]

    @property
    def padding(self) -> torch.Tensor:
        """True for the rows of `embedded` of events that are not real, [(2 + K)B]."""
        events = torch.arange(self.events)
        return torch.cat([events, events, events.repeat_interleave(self.negatives)]) >= self.real

    def keywords(self) -> dict[str, Any]:
        """Arguments of the public function, by name and in its order."""
        count = None if self.count is None else torch.tensor([self.count])
        leaves = {"weight_pair": None, **self.leaves}
        order = ("weight_src", "bias_src", "weight_dst", "bias_dst", "weight_out", "bias_out", "weight_pair")
        return {
            "embedded": leaves["embedded"], "pairs": self.pairs, "count": count,
            **{name: leaves[name] for name in order}, "negatives": self.negatives,
            "log_weights": self.log_weights,
        }  # fmt: skip

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the docstring's equations in torch."""
        leaves, count, real = self.leaves, self.events, self.real
        src, dst, others = leaves["embedded"].split([count, count, self.negatives * count])
        candidates = [dst, *others.view(count, self.negatives, self.dim).unbind(1)]

        def score(number: int, candidate: torch.Tensor) -> torch.Tensor:
            hidden = linear(src[:real], leaves["weight_src"], leaves["bias_src"]) + linear(
                candidate[:real], leaves["weight_dst"], leaves["bias_dst"]
            )
            if self.pairs is not None:
                hidden = hidden + linear(self.pairs[:real, number], leaves["weight_pair"])
            return linear(torch.relu(hidden), leaves["weight_out"], leaves["bias_out"]).squeeze(1)

        real_scores = torch.stack([score(*each) for each in enumerate(candidates)])
        scores = torch.zeros(1 + self.negatives, count, dtype=src.dtype)
        scores[:, :real] = real_scores.detach()
        if real == 0:
            return 0 * leaves["bias_out"].sum(), scores
        if self.softmax:
            weighted = torch.cat([real_scores[:1], real_scores[1:] + self.log_weights[:real].t()])
            return cross_entropy(weighted.t(), torch.zeros(real, dtype=torch.int64)), scores
        loss = binary_cross_entropy_with_logits(real_scores[0], torch.ones_like(real_scores[0]))
        return loss + binary_cross_entropy_with_logits(real_scores[1:], torch.zeros_like(real_scores[1:])), scores


def close(actual: Tensors, expected: Tensors) -> None:
    """Check that float64 tensors agree by name, to 1e-12."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )
