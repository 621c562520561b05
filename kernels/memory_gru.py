"""TGN's memory update: message build from a compact mailbox, time encoding and GRU cell, in one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.time_encoding import encode_time_backward, fused_encode_time


def memory_gru(
    memory: torch.Tensor,
    memory_rows: torch.Tensor | None,
    partner: torch.Tensor,
    partner_rows: torch.Tensor | None,
    features: torch.Tensor,
    feature_rows: torch.Tensor | None,
    deltas: torch.Tensor,
    has_mail: torch.Tensor,
    frequency: torch.Tensor,
    phase: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor,
    bias_hh: torch.Tensor,
    empty: str = "update",
) -> torch.Tensor:
    """h(u) = GRU(mail(u), memory(u)) for U nodes, the memory update of TGN (Rossi et al., 2020).

    With m, p, e the rows of memory, partner and feature tables, x = [m ‖ p ‖ e ‖ φ(Δt)] where the node has mail and 0
    where it has none, and σ the logistic function:

        r = σ(W_ir x + b_ir + W_hr m + b_hr)        n = tanh(W_in x + b_in + r ⊙ (W_hn m + b_hn))
        z = σ(W_iz x + b_iz + W_hz m + b_hz)        h = n + z ⊙ (m − n)

    The mail's self part is the node's own memory row (the compact mailbox), so in r and z the self block of W_i and
    W_h act on one row: their sum is taken once a call and one product does for both.

    Args:
        memory: table [·, D]; partner: table [·, D]; features: table [·, E], E may be 0. Any row stride.
        memory_rows, partner_rows, feature_rows: [U] integer rows to read, or None where the table is already one
            row a node. A feature row below 0 is read as row 0; `has_mail` must then be false.
        deltas: [U] floating, mail time − memory time, subtracted by the caller before it was rounded.
        has_mail: [U] bool.
        frequency, phase: [T], of the time encoder.
        weight_ih [3D, 2D + E + T], weight_hh [3D, D], bias_ih [3D], bias_hh [3D]: torch.nn.GRUCell's, gates r, z, n.
        empty: "update" runs the cell on the zero message for a node without mail, "keep" returns its memory row.

    Returns:
        h [U, D]. Nothing is mutated. Differentiable in the weights, the biases, frequency, phase and the three tables.

    Raises:
        ValueError: `empty` is neither of the two, or the widths do not add up.
    """
    if empty not in ("update", "keep"):
        raise ValueError(f"memory_gru: empty must be 'update' or 'keep', not {empty!r}")
    width = memory.shape[1] + partner.shape[1] + features.shape[1] + frequency.numel()
    if weight_ih.shape != (3 * memory.shape[1], width):
        raise ValueError(f"memory_gru: weight_ih is {tuple(weight_ih.shape)}, messages have width {width}")
    result: torch.Tensor = _MemoryGRU.apply(
        _read(memory, memory_rows), _read(partner, partner_rows), _read(features, feature_rows), deltas, has_mail,
        frequency, phase, weight_ih, weight_hh, bias_ih, bias_hh, empty == "keep",
    )  # fmt: skip
    return result


def _read(table: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    if rows is None:
        return table
    if table.shape[1] == 0:
        return table.new_zeros((rows.numel(), 0))
    return table.index_select(0, rows.clamp(min=0))


@fused()
def _gates(joint: torch.Tensor, hidden_n: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """h [U, D] from the joint products [U, 3D], W_hn m + b_hn [U, D] and the memory rows [U, D]."""
    reset, update, new = joint.chunk(3, 1)
    n = torch.tanh(new + torch.sigmoid(reset) * hidden_n)
    return n + torch.sigmoid(update) * (memory - n)


@fused()
def _gates_backward(
    grad: torch.Tensor, joint: torch.Tensor, hidden_n: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the joint products [U, 3D], of W_hn m + b_hn [U, D] and, directly, of the memory rows [U, D]."""
    reset, update, new = joint.chunk(3, 1)
    r, z = torch.sigmoid(reset), torch.sigmoid(update)
    n = torch.tanh(new + r * hidden_n)
    d_new = grad * (1 - z) * (1 - n * n)
    d_update = grad * (memory - n) * z * (1 - z)
    return torch.cat([d_new * hidden_n * r * (1 - r), d_update, d_new], 1), d_new * r, grad * z


class _MemoryGRU(torch.autograd.Function):
    """The operation on rows already read; the backward pass keeps x, m and the products, and reads no table again."""

    @staticmethod
    def forward(
        ctx: Any, memory: torch.Tensor, partner: torch.Tensor, features: torch.Tensor, deltas: torch.Tensor,
        has_mail: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor,
        weight_hh: torch.Tensor, bias_ih: torch.Tensor, bias_hh: torch.Tensor, keep: bool,
    ) -> torch.Tensor:  # fmt: skip
        dim, dtype = memory.shape[1], weight_ih.dtype
        gates = 2 * dim  # rows of r and z
        memory, encoded = memory.to(dtype), fused_encode_time(deltas.to(dtype), frequency, phase)
        message = torch.cat([memory, partner.to(dtype), features.to(dtype), encoded], 1)
        without = (~has_mail).nonzero().squeeze(1)
        weight, bias = weight_ih.clone(), bias_ih.clone()
        weight[:gates, :dim] += weight_hh[:gates]
        bias[:gates] += bias_hh[:gates]
        joint = torch.addmm(bias, message, weight.t())
        if without.numel():
            alone = bias.repeat(without.numel(), 1)
            alone[:, :gates] += memory.index_select(0, without) @ weight_hh[:gates].t()
            joint.index_copy_(0, without, alone)
        hidden_n = torch.addmm(bias_hh[gates:], memory, weight_hh[gates:].t())
        h = _gates(joint, hidden_n, memory)
        ctx.save_for_backward(memory, message, without, joint, hidden_n, deltas, frequency, phase, weight, weight_hh)
        ctx.keep, ctx.widths = keep, (dim, partner.shape[1], features.shape[1], frequency.numel())
        return h.index_copy(0, without, memory.index_select(0, without)) if keep else h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        memory, message, without, joint, hidden_n, deltas, frequency, phase, weight, weight_hh = ctx.saved_tensors
        dim, gates = memory.shape[1], 2 * memory.shape[1]
        needs = ctx.needs_input_grad
        grad = grads[0].index_fill(0, without, 0.0) if ctx.keep else grads[0]
        d_joint, d_hidden_n, d_own = _gates_backward(grad, joint, hidden_n, memory)
        d_bias_ih = d_joint.sum(0)
        d_bias_hh = torch.cat([d_bias_ih[:gates], d_hidden_n.sum(0)])
        d_alone = d_joint[:, :gates].index_select(0, without)
        d_joint.index_fill_(0, without, 0.0)  # their message is 0, whatever `message` holds
        d_weight_ih = d_joint.t() @ message
        d_weight_hh = torch.cat([d_weight_ih[:gates, :dim], d_hidden_n.t() @ memory])
        d_weight_hh[:gates] += d_alone.t() @ memory.index_select(0, without)
        d_memory = d_partner = d_features = d_frequency = d_phase = None
        if any((*needs[:3], *needs[5:7])):
            d_self, d_partner, d_features, d_time = (d_joint @ weight).split(ctx.widths, 1)
            d_memory = d_self + d_hidden_n @ weight_hh[gates:] + d_own
            d_memory.index_add_(0, without, d_alone @ weight_hh[:gates])
            if ctx.keep:
                d_memory.index_copy_(0, without, grads[0].index_select(0, without))
            if needs[5] or needs[6]:
                d_frequency, d_phase = encode_time_backward(d_time, deltas.to(d_time.dtype), frequency, phase)
        return (
            d_memory, d_partner, d_features, None, None, d_frequency, d_phase,
            d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh, None,
        )  # fmt: skip
