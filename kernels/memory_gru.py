"""TGN's memory update in one operation: row fetch, message build from a compact mailbox, time encoding, GRU cell."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import VARIANTS_CHOSEN
from mspipe_triton.kernels.memory_gru_backward import BACKWARD
from mspipe_triton.kernels.memory_gru_fused import launch_fused
from mspipe_triton.kernels.memory_gru_split import Updated, empty_updated, launch_split
from mspipe_triton.kernels.operation import differentiable
from mspipe_triton.kernels.time_encoding import fused_encode_time
from mspipe_triton.kernels.updater_inputs import check_updater, read_rows

VARIANTS = {"fused": launch_fused, "split": launch_split}


class MemoryGRU(NamedTuple):
    """h(u) = GRU(mail(u), memory(u)) for U nodes, the memory update of TGN (Rossi et al., 2020).

    With m, p, e the rows of memory, partner and feature tables, x = [m ‖ p ‖ e ‖ φ(Δt)] where the node has mail and 0
    where it has none, and σ the logistic function:

        r = σ(W_ir x + b_ir + W_hr m + b_hr)        n = tanh(W_in x + b_in + r ⊙ (W_hn m + b_hn))
        z = σ(W_iz x + b_iz + W_hz m + b_hz)        h = n + z ⊙ (m − n)

    The mail's self part is the node's own memory row (the compact mailbox), so in r and z the self block of W_i and
    W_h act on one row: their sum is taken once a call and one product does for both.

    Args:
        memory: table [·, D]; partner: table [·, D]; features: table [·, E], E may be 0. Any row stride; float32,
            float64 or bfloat16 each; on the device of the weights or in pinned host memory.
        memory_rows, partner_rows, feature_rows: [U] integer rows to read, or None where the table is already one
            row a node. A row below 0 is read as row 0; `has_mail` must then be false, or the node beyond `count`.
        deltas: [U] floating, mail time − memory time, subtracted by the caller before it was rounded.
        has_mail: [U] bool.
        frequency, phase: [T], of the time encoder.
        weight_ih [3D, 2D + E + T], weight_hh [3D, D], bias_ih [3D], bias_hh [3D]: torch.nn.GRUCell's, gates r, z, n;
            float32 or float64, which is also what is computed in.
        empty: "update" runs the cell on the zero message for a node without mail, "keep" returns its memory row.
        count: [1] integer on the device, how many of the U nodes are real; None for all. h is 0 from there on.
        variant: of the kernels, "fused" (one kernel fetches, builds, multiplies and gates) or "split" (a gather, the
            library's products, a gates kernel). The same function; which is faster depends on device and shapes. None
            takes what is chosen for the process: "fused", or what tuning found.

    Returns:
        h [U, D]. Nothing is mutated. Differentiable in the weights, the biases, frequency, phase and the three tables;
        the backward pass reads rows that the forward pass saved, so the tables may be written in between.

    Raises:
        ValueError: `empty` or `variant` is neither of the two, widths do not add up, a wrong dtype, layout or device;
            with debugging on, a row outside its table.
    """

    memory: torch.Tensor
    memory_rows: torch.Tensor | None
    partner: torch.Tensor
    partner_rows: torch.Tensor | None
    features: torch.Tensor
    feature_rows: torch.Tensor | None
    deltas: torch.Tensor
    has_mail: torch.Tensor
    frequency: torch.Tensor
    phase: torch.Tensor
    weight_ih: torch.Tensor
    weight_hh: torch.Tensor
    bias_ih: torch.Tensor
    bias_hh: torch.Tensor
    empty: str = "update"
    count: torch.Tensor | None = None  # type: ignore[assignment]  # of the nodes, not a tuple's method
    variant: str | None = None


def _reference(of: MemoryGRU, save: bool) -> Updated:
    dim, dtype, has_mail = of.memory.shape[1], of.weight_ih.dtype, of.has_mail
    gates = 2 * dim  # rows of r and z
    memory = read_rows(of.memory, of.memory_rows).to(dtype)
    encoded = fused_encode_time(of.deltas.to(dtype), of.frequency, of.phase)
    partner, features = read_rows(of.partner, of.partner_rows), read_rows(of.features, of.feature_rows)
    message = torch.cat([memory, partner.to(dtype), features.to(dtype), encoded], 1)
    if of.count is not None:
        valid = (torch.arange(has_mail.numel(), device=has_mail.device) < of.count).unsqueeze(1)
        message = torch.where(valid, message, 0.0)
        memory = message[:, :dim]
    without = (~has_mail).nonzero().squeeze(1)
    weight, bias = of.weight_ih.clone(), of.bias_ih.clone()
    weight[:gates, :dim] += of.weight_hh[:gates]
    bias[:gates] += of.bias_hh[:gates]
    joint = torch.addmm(bias, message, weight.t())
    if without.numel():
        alone = bias.repeat(without.numel(), 1)
        alone[:, :gates] += memory.index_select(0, without) @ of.weight_hh[:gates].t()
        joint.index_copy_(0, without, alone)
    hidden_n = torch.addmm(of.bias_hh[gates:], memory, of.weight_hh[gates:].t())
    h = _gates(joint, hidden_n, memory)
    if of.empty == "keep":
        h.index_copy_(0, without, memory.index_select(0, without))
    if of.count is not None:
        h = torch.where(valid, h, 0.0)
    return Updated(h, message, joint, hidden_n) if save else Updated(h, *(h.new_empty(0) for _ in range(3)))


@fused()
def _gates(joint: torch.Tensor, hidden_n: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """h [U, D] from the joint products [U, 3D], W_hn m + b_hn [U, D] and the memory rows [U, D]."""
    reset, update, new = joint.chunk(3, 1)
    n = torch.tanh(new + torch.sigmoid(reset) * hidden_n)
    return n + torch.sigmoid(update) * (memory - n)


def _launch(of: MemoryGRU, save: bool) -> Updated:
    return VARIANTS[VARIANTS_CHOSEN["memory_gru"] if of.variant is None else of.variant](of, save)


def _check(of: MemoryGRU) -> None:
    check_updater("memory_gru", 3, of)
    if of.variant is not None and of.variant not in VARIANTS:
        raise ValueError(f"memory_gru: variant must be 'fused' or 'split', not {of.variant!r}")


memory_gru = differentiable(
    "memory_gru", MemoryGRU, reference=_reference, launch=_launch, fake=empty_updated, check=_check, on="weight_ih",
    returns=lambda updated: updated.h, backward=BACKWARD,
)  # fmt: skip
