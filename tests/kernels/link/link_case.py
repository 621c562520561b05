"""Cases of link_loss; the oracle is torch's binary cross-entropy on the scores of the real events alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from mspipe_triton.kernels import link_loss
from tests.kernels.comparing import Tensors
from tests.kernels.runtime.operation_case import OperationCase


@dataclass
class Case(OperationCase):
    """Random embeddings and weights for B events; the first `count` are real, the others' embeddings are `junk`.

    Gradients are those of 1.7 times the loss.
    """

    function: ClassVar[Callable[..., Any]] = staticmethod(link_loss)
    outputs: ClassVar[tuple[str, ...]] = ("loss", "scores")
    unread: ClassVar[tuple[str, ...]] = ("loss",)
    numbers: ClassVar[tuple[str, ...]] = ()

    events: int
    dim: int = 3
    count: int | None = None
    junk: float = torch.nan

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
        self.probes = (torch.tensor(1.7, dtype=torch.float64),)

    @property
    def real(self) -> int:
        return self.events if self.count is None else self.count

    def keywords(self) -> dict[str, Any]:
        """Arguments of the public function, by name and in its order."""
        count = None if self.count is None else torch.tensor([self.count])
        embedded, *weights = self.leaves.items()
        return dict([embedded, ("count", count), *weights])

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the docstring's equations in torch."""
        leaves = self.leaves
        src, dst, negative = leaves["embedded"].view(3, self.events, self.dim)[:, : self.real]

        def score(destination: torch.Tensor) -> torch.Tensor:
            hidden = linear(src, leaves["weight_src"], leaves["bias_src"]) + linear(
                destination, leaves["weight_dst"], leaves["bias_dst"]
            )
            return linear(torch.relu(hidden), leaves["weight_out"], leaves["bias_out"]).squeeze(1)

        positive, other = score(dst), score(negative)
        scores = torch.zeros(2, self.events, dtype=src.dtype)
        scores[:, : self.real] = torch.stack([positive, other]).detach()
        if self.real == 0:
            return 0 * leaves["bias_out"].sum(), scores
        loss = binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
        return loss + binary_cross_entropy_with_logits(other, torch.zeros_like(other)), scores


def close(actual: Tensors, expected: Tensors) -> None:
    """Check that float64 tensors agree by name, to 1e-12."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )
