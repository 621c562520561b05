"""Cases of link_loss, whose oracle is torch's binary cross-entropy on the scores of the real events alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from mspipe_triton.kernels import link_loss
from tests.kernels.comparing import Named


@dataclass
class Case:
    """Random embeddings and weights for B events, of which `count` are real; the others' embeddings are `junk`."""

    events: int
    dim: int = 3
    count: int | None = None
    junk: float = torch.nan
    leaves: Named = field(init=False)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(31 * self.events + self.dim)
        self.leaves = {
            "embedded": self.normal(3 * self.events, self.dim),
            "weight_src": self.normal(self.dim, self.dim) / self.dim**0.5,
            "bias_src": self.normal(self.dim),
            "weight_dst": self.normal(self.dim, self.dim) / self.dim**0.5,
            "bias_dst": self.normal(self.dim),
            "weight_out": self.normal(1, self.dim),
            "bias_out": self.normal(1),
        }
        self.leaves["embedded"].view(3, self.events, self.dim)[:, self.real :] = self.junk
        for leaf in self.leaves.values():
            leaf.requires_grad_()

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.random)

    @property
    def real(self) -> int:
        return self.events if self.count is None else self.count

    def to(self, dtype: torch.dtype) -> Case:
        """This case's numbers rounded to `dtype`."""
        made = copy.copy(self)
        made.leaves = {name: leaf.detach().to(dtype).requires_grad_() for name, leaf in self.leaves.items()}
        return made

    def named(self) -> dict[str, Any]:
        """What the public function takes, by name and in its order."""
        count = None if self.count is None else torch.tensor([self.count])
        embedded, *weights = self.leaves.items()
        return dict([embedded, ("count", count), *weights])

    def actual(self) -> tuple[torch.Tensor, torch.Tensor]:
        return link_loss(**self.named())

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The docstring's equations, in torch."""
        at = self.leaves
        src, dst, negative = at["embedded"].view(3, self.events, self.dim)[:, : self.real]

        def score(destination: torch.Tensor) -> torch.Tensor:
            hidden = linear(src, at["weight_src"], at["bias_src"]) + linear(
                destination, at["weight_dst"], at["bias_dst"]
            )
            return linear(torch.relu(hidden), at["weight_out"], at["bias_out"]).squeeze(1)

        positive, other = score(dst), score(negative)
        scores = torch.zeros(2, self.events, dtype=src.dtype)
        scores[:, : self.real] = torch.stack([positive, other]).detach()
        if self.real == 0:
            return 0 * at["bias_out"].sum(), scores
        loss = binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
        return loss + binary_cross_entropy_with_logits(other, torch.zeros_like(other)), scores

    def with_gradients(self, result: tuple[torch.Tensor, torch.Tensor]) -> Named:
        """Loss, scores and the gradients of 1.7 times the loss."""
        leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(1.7 * result[0], list(leaves.values()), materialize_grads=True)
        return {"loss": result[0].detach(), "scores": result[1], **dict(zip(leaves, gradients, strict=True))}


def close(actual: Named, expected: Named) -> None:
    """Float64 tensors alike, by name, to 1e-12."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )
