"""TGN's memory update in one operation: row fetch, message build from a compact mailbox, time encoding, GRU cell."""

from __future__ import annotations

from typing import Any

import torch

from mspipe_triton.kernels.eager import differentiable, eager
from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import VARIANTS_CHOSEN, on_triton
from mspipe_triton.kernels.memory_gru_backward import memory_gru_backward, memory_gru_backward_reference
from mspipe_triton.kernels.memory_gru_fused import launch_memory_gru_fused
from mspipe_triton.kernels.memory_gru_split import empty_updated, launch_memory_gru_split
from mspipe_triton.kernels.time_encoding import fused_encode_time
from mspipe_triton.kernels.updater_backward import setup_updater, updater_backward
from mspipe_triton.kernels.updater_inputs import check_updater, read_rows

VARIANTS = {"fused": launch_memory_gru_fused, "split": launch_memory_gru_split}

Updated = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def memory_gru_reference(
    memory: torch.Tensor, memory_rows: torch.Tensor | None, partner: torch.Tensor, partner_rows: torch.Tensor | None,
    features: torch.Tensor, feature_rows: torch.Tensor | None, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    bias_ih: torch.Tensor, bias_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, save: bool,
) -> Updated:  # fmt: skip
    """`memory_gru` in torch: h, and for the backward pass the message rows and the gates' products."""
    dim, dtype = memory.shape[1], weight_ih.dtype
    gates = 2 * dim  # rows of r and z
    memory, encoded = read_rows(memory, memory_rows).to(dtype), fused_encode_time(deltas.to(dtype), frequency, phase)
    parts = [memory, read_rows(partner, partner_rows).to(dtype), read_rows(features, feature_rows).to(dtype), encoded]
    message = torch.cat(parts, 1)
    if count is not None:
        valid = (torch.arange(has_mail.numel(), device=has_mail.device) < count).unsqueeze(1)
        message = torch.where(valid, message, 0.0)
        memory = message[:, :dim]
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
    if keep:
        h.index_copy_(0, without, memory.index_select(0, without))
    if count is not None:
        h = torch.where(valid, h, 0.0)
    return (h, message, joint, hidden_n) if save else (h, h.new_empty(0), h.new_empty(0), h.new_empty(0))


@fused()
def _gates(joint: torch.Tensor, hidden_n: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """h [U, D] from the joint products [U, 3D], W_hn m + b_hn [U, D] and the memory rows [U, D]."""
    reset, update, new = joint.chunk(3, 1)
    n = torch.tanh(new + torch.sigmoid(reset) * hidden_n)
    return n + torch.sigmoid(update) * (memory - n)


@torch.library.custom_op("mspipe_triton::memory_gru", mutates_args=())
def _operation(
    memory: torch.Tensor, memory_rows: torch.Tensor | None, partner: torch.Tensor, partner_rows: torch.Tensor | None,
    features: torch.Tensor, feature_rows: torch.Tensor | None, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    bias_ih: torch.Tensor, bias_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, save: bool, variant: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    run = VARIANTS[variant] if on_triton(weight_ih) else memory_gru_reference
    return run(
        memory, memory_rows, partner, partner_rows, features, feature_rows, deltas, has_mail, frequency, phase,
        weight_ih, weight_hh, bias_ih, bias_hh, count, keep, save,
    )  # fmt: skip


@_operation.register_fake
def _(
    memory: torch.Tensor, memory_rows: torch.Tensor | None, partner: torch.Tensor, partner_rows: torch.Tensor | None,
    features: torch.Tensor, feature_rows: torch.Tensor | None, deltas: torch.Tensor, has_mail: torch.Tensor,
    frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor,
    bias_ih: torch.Tensor, bias_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, save: bool, variant: str,
) -> Updated:  # fmt: skip
    widths = (memory.shape[1], partner.shape[1], features.shape[1], frequency.numel())
    return empty_updated(has_mail.numel(), widths, weight_ih, save)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Updated) -> None:
    setup_updater(ctx, inputs, output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: torch.Tensor | None, *_: None) -> tuple[torch.Tensor | None, ...]:
    return updater_backward(ctx, grad, memory_gru_backward_reference, memory_gru_backward)


_operation.register_autograd(_backward, setup_context=_setup)
_direct = differentiable(lambda *inputs: memory_gru_reference(*inputs[:-1]), _setup, _backward)  # knows no variant


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
    count: torch.Tensor | None = None,
    variant: str | None = None,
) -> torch.Tensor:
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
    if empty not in ("update", "keep"):
        raise ValueError(f"memory_gru: empty must be 'update' or 'keep', not {empty!r}")
    variant = VARIANTS_CHOSEN["memory_gru"] if variant is None else variant
    if variant not in VARIANTS:
        raise ValueError(f"memory_gru: variant must be 'fused' or 'split', not {variant!r}")
    check_updater(
        "memory_gru", 3, memory, memory_rows, partner, partner_rows, features, feature_rows, deltas, has_mail,
        frequency, phase, weight_ih, weight_hh, bias_ih, bias_hh, count,
    )  # fmt: skip
    inputs = (memory, partner, features, frequency, phase, weight_ih, weight_hh, bias_ih, bias_hh)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    run = _direct if eager(weight_ih) else _operation
    h: torch.Tensor = run(
        memory, memory_rows, partner, partner_rows, features, feature_rows, deltas, has_mail, frequency, phase,
        weight_ih, weight_hh, bias_ih, bias_hh, count, empty == "keep", save, variant,
    )[0]  # fmt: skip
    return h
