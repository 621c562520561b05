"""The absorbed form of both attentions against projected attention, which is written from the equations."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tests.kernels.attention.attention_case import ATTENTIONS, Case
from tests.kernels.attention.slot_case import encode, leaky, softmax
from tests.kernels.comparing import Agree, Tensors


@dataclass
class Projections:
    """W_q, W_k, W_v with their biases, and `size` outputs per head."""

    case: Case
    size: int = 5

    def __post_init__(self) -> None:
        case, out = self.case, self.case.heads * self.size
        wide = case.dim + case.width + case.times
        self.leaves = {
            "h_root": case.normal(case.roots, case.dim),
            "W_q": case.normal(out, case.dim + case.times) / 3,
            "b_q": case.normal(out),
            "W_k": case.normal(out, wide) / 3,
            "b_k": case.normal(out),
            "W_v": case.normal(out, wide) / 3,
            "b_v": case.normal(out),
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.leaves |= {name: case.leaves[name] for name in ("table", "frequency", "phase") if name in case.leaves}

    def q(self) -> torch.Tensor:
        """W_q [h_root ‖ φ(0)] + b_q, [R, K, size]."""
        at_zero = encode(torch.zeros(self.case.roots, dtype=torch.float64), self.case.leaves)
        inputs = torch.cat([self.leaves["h_root"], at_zero], 1)
        return (inputs @ self.leaves["W_q"].T + self.leaves["b_q"]).view(self.case.roots, self.case.heads, self.size)

    def heads(self, name: str) -> torch.Tensor:
        return self.leaves[name].view(self.case.heads, self.size, *self.leaves[name].shape[1:])

    def project(self) -> torch.Tensor:
        """Project keys and values of every neighbour, then attend over them."""
        q, scale, outputs = self.q(), self.case.multipliers(), []
        for root in range(self.case.roots):
            x = self.case.neighbours(root)
            k = (x @ self.leaves["W_k"].T + self.leaves["b_k"]).view(len(x), self.case.heads, self.size)
            v = (x @ self.leaves["W_v"].T + self.leaves["b_v"]).view(len(x), self.case.heads, self.size)
            for head in range(self.case.heads):
                a = softmax(leaky(k[:, head] @ q[root, head])) * scale[root, head, : len(x)]
                outputs.append(a @ v[:, head])
        return torch.stack(outputs).view(self.case.roots, self.case.heads, self.size)

    def absorb(self) -> torch.Tensor:
        """Compute the same through the operation: W_k goes into the query, W_v comes after the sum."""
        q = self.q()
        query = torch.einsum("rks,ksx->rkx", q, self.heads("W_k"))
        bias = torch.einsum("rks,ks->rk", q, self.heads("b_k"))
        context, total = self.case.actual(query=query, bias=bias)
        return torch.einsum("rkx,ksx->rks", context, self.heads("W_v")) + total[..., None] * self.heads("b_v")

    def with_gradients(self, output: torch.Tensor) -> Tensors:
        probe = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((output * probe).sum(), list(self.leaves.values()))
        return {"output": output.detach(), **dict(zip(self.leaves, gradients, strict=True))}


@ATTENTIONS
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("roots", "fanout", "width"), [(1, 1, 0), (33, 6, 3), (123, 10, 172)])
def test_the_absorbed_form_equals_projected_attention(
    kind: type[Case], roots: int, fanout: int, width: int, dropout: float, agree: Agree
) -> None:
    layer = Projections(kind(roots, fanout, width, counts="all" if roots == 1 else "some", dropout=dropout))
    expected = layer.with_gradients(layer.project())
    agree(layer.with_gradients(layer.absorb()), expected)
    if roots > 1:
        assert all(float(value.abs().max()) > 1e-3 for value in expected.values())
