"""Gradients of `mailbox_attention`, as an operation of its own."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.attention import (
    attend_backward,
    attended_backward,
    scattered,
    write_time_gradients,
)
from mspipe_triton.kernels.checks import refuse_second_derivative
from mspipe_triton.kernels.fusion import fusion_enabled
from mspipe_triton.kernels.launch import Config, device_function, kernel, on_triton, pow2, tl
from mspipe_triton.kernels.neighbour_rows import (
    Slots,
    filled_rows,
    filled_slots,
    gathered,
    held_blocks,
    inner_contiguous,
    slots_of,
)
from mspipe_triton.kernels.philox import keep_scale
from mspipe_triton.kernels.time_encoding import encode_time_backward

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def mail_slots(
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    counts: torch.Tensor, encoded: torch.Tensor,
) -> Slots:  # fmt: skip
    """Where torch reads the mails' x_j from; φ is `encoded` [U, S, T].

    Without fusion both tables are gathered once. Compiled loops read mailboxes in place faster, but not single rows.
    """
    if rows is not None:
        rows = torch.where(counts > 0, rows, 0)
    if not fusion_enabled():
        mails, rows = gathered(mails, rows).to(encoded.dtype), None
    if features.shape[1] == 0:
        return Slots(mails, rows, None, encoded)
    if feature_rows is None:
        edges = features.view(*encoded.shape[:2], features.shape[1])
    else:
        edges = gathered(features, filled_rows(feature_rows, counts).clamp_(min=0))
    return Slots(mails, rows, edges.to(encoded.dtype), encoded)


def mailbox_attention_backward_reference(
    d_context: torch.Tensor, d_total: torch.Tensor,
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor, encoded: torch.Tensor,
    dropout: float, needs_time: bool,
) -> Gradients:  # fmt: skip
    """Gradients in frequency, phase (both empty where not needed), query and bias; mails and edge rows are read again,
    φ is `encoded`."""
    slots = mail_slots(mails, rows, features, feature_rows, counts, encoded)
    d_logits, dropped, d_query, d_bias = attended_backward(d_context, d_total, slots, weights, slope, dropout)
    if not needs_time:
        return frequency.new_empty(0), phase.new_empty(0), d_query, d_bias
    times = slice(query.shape[2] - frequency.numel(), None)
    d_time = scattered(d_logits, dropped, query[..., times], d_context[..., times])
    return *encode_time_backward(d_time, deltas.contiguous().to(d_time.dtype), frequency, phase), d_query, d_bias


@kernel(
    Config({"BLOCK": 128, "HELD": 10240}, num_warps=4), Config({"BLOCK": 64, "HELD": 20480}, num_warps=8),
    float64=[Config({"BLOCK": 128, "HELD": 1280}, num_warps=8)],
)  # fmt: skip
def mailbox_backward_kernel(
    p_d_context, p_d_total, p_mails, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase,
    p_query, p_weights, p_slope, p_d_frequency, p_d_phase, p_d_query, p_d_bias,
    stride_context, stride_context_head, stride_query, stride_query_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_MAILS: tl.constexpr, STRIDE_FEATURES: tl.constexpr, MAILS: tl.constexpr, SLOTS: tl.constexpr,
    DROPOUT: tl.constexpr, SCALE: tl.constexpr, TIMES: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """`attend_backward`'s equations for a node, and with the columns of φ in query and dcontext

        dφ_j = Σ_k dl_kj query_k + m_kj a_kj dcontext_k
        dw = −Σ_j sin(w Δt_j + b) Δt_j dφ_j          db = −Σ_j sin(w Δt_j + b) dφ_j

    A node has a row of dquery and dbias of its own; dw and db are one partial sum a node.
    """
    node = tl.program_id(0).to(tl.int64)
    m_slot = filled_slots(p_counts, node, MAILS, SLOTS)
    source = slots_of(
        mail_pointers(p_mails, p_rows, node, STRIDE_MAILS, DIM, SLOTS), m_slot,
        p_features, p_feature_rows, p_deltas, p_frequency, p_phase, node, STRIDE_FEATURES, MAILS, SLOTS,
    )  # fmt: skip
    b_held = held_blocks(source, DIM, EDGE, TIME, SLOTS, BLOCK, HELD)
    p_context, p_query = p_d_context + node * stride_context, p_query + node * stride_query
    b_d_logits, b_droppeds = attend_backward(
        source, b_held, p_context, stride_context_head, p_d_total, p_weights, p_slope, p_d_query, p_d_bias, node, node,
        False, HEADS, DIM, EDGE, TIME, MAILS, SLOTS, DROPOUT, SCALE, BLOCK,
    )  # fmt: skip
    if TIMES:
        write_time_gradients(
            source, b_d_logits, b_droppeds, p_query + DIM + EDGE, stride_query_head,
            p_context + DIM + EDGE, stride_context_head, p_d_frequency, p_d_phase, node, TIME, SLOTS, BLOCK,
        )  # fmt: skip


@device_function
def mail_pointers(p_mails, p_rows, node, STRIDE_MAILS: tl.constexpr, DIM: tl.constexpr, SLOTS: tl.constexpr):
    """Pointers [SLOTS, 1] to the mails of a node, which lie one behind the other."""
    row = node
    if p_rows is not None:
        row = tl.load(p_rows + node).to(tl.int64)
    return p_mails + row * STRIDE_MAILS + tl.arange(0, SLOTS)[:, None] * DIM


def mail_shapes(mails: torch.Tensor, features: torch.Tensor, frequency: torch.Tensor) -> dict[str, int]:
    """Both kernels' widths, distances between nodes and between edge rows, slots and their block."""
    _, slots, width = mails.shape
    return {
        "DIM": width, "EDGE": features.shape[1], "TIME": frequency.numel(),
        "STRIDE_MAILS": mails.stride(0), "STRIDE_FEATURES": features.stride(0), "MAILS": slots, "SLOTS": pow2(slots, 1),
    }  # fmt: skip


def launch_mailbox_attention_backward(
    d_context: torch.Tensor, d_total: torch.Tensor,
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor, encoded: torch.Tensor,
    dropout: float, needs_time: bool,
) -> Gradients:  # fmt: skip
    """`mailbox_attention_backward` by its kernel: a program takes a node. The same bits in every run."""
    nodes, heads, width = query.shape
    d_context, query = inner_contiguous(d_context), inner_contiguous(query)
    d_frequency = query.new_empty((nodes if needs_time else 0, frequency.numel()))
    d_phase = torch.empty_like(d_frequency)
    d_query, d_bias = query.new_empty((nodes, heads, width)), query.new_empty((nodes, heads))
    mailbox_backward_kernel.launch(
        (nodes,), mailbox_backward_kernel.config("float64" if query.dtype == torch.float64 else "float32"),
        d_context, d_total.contiguous(), mails, rows, features,
        None if feature_rows is None else feature_rows.contiguous(), deltas.contiguous(), counts,
        frequency, phase, query, weights, slope, d_frequency, d_phase, d_query, d_bias,
        d_context.stride(0), d_context.stride(1), query.stride(0), query.stride(1),
        HEADS=heads, **mail_shapes(mails, features, frequency),
        DROPOUT=dropout > 0, SCALE=keep_scale(dropout, query.dtype), TIMES=needs_time,
    )  # fmt: skip
    if not needs_time:
        return frequency.new_empty(0), phase.new_empty(0), d_query, d_bias
    return d_frequency.sum(0), d_phase.sum(0), d_query, d_bias


@torch.library.custom_op("mspipe_triton::mailbox_attention_backward", mutates_args=())
def mailbox_attention_backward(
    d_context: torch.Tensor, d_total: torch.Tensor,
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor, encoded: torch.Tensor,
    dropout: float, needs_time: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of `mailbox_attention` in frequency, phase, query and bias; the first two empty where not needed."""
    run = launch_mailbox_attention_backward if on_triton(query) else mailbox_attention_backward_reference
    return run(
        d_context, d_total, mails, rows, features, feature_rows, deltas, counts, frequency, phase, query,
        weights, slope, encoded, dropout, needs_time,
    )  # fmt: skip


@mailbox_attention_backward.register_fake
def _(
    d_context: torch.Tensor, d_total: torch.Tensor,
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor, encoded: torch.Tensor,
    dropout: float, needs_time: bool,
) -> Gradients:  # fmt: skip
    return (
        frequency.new_empty(frequency.shape if needs_time else 0),
        phase.new_empty(phase.shape if needs_time else 0),
        query.new_empty(query.shape),
        query.new_empty(query.shape[:2]),
    )


refuse_second_derivative(mailbox_attention_backward)
