"""Attention of each node over the mails in its mailbox, with the key and value projections absorbed into the query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mspipe_triton.kernels.attention import (
    NEGATIVE_SLOPE,
    Attended,
    attend,
    attended,
    check_attention,
    empty_attended,
    setup_attended,
    whole_gradients,
)
from mspipe_triton.kernels.checks import (
    FLOATS,
    INTEGERS,
    check_device,
    check_dims,
    check_dtype,
    check_layout,
    check_range,
    check_shape,
    debugging,
)
from mspipe_triton.kernels.eager import differentiable, eager, eager_backward
from mspipe_triton.kernels.launch import Config, kernel, on_triton, tl
from mspipe_triton.kernels.mailbox_attention_backward import (
    mail_pointers,
    mail_shapes,
    mail_slots,
    mailbox_attention_backward,
    mailbox_attention_backward_reference,
)
from mspipe_triton.kernels.neighbour_rows import check_slots, filled_slots, held_blocks, inner_contiguous, slots_of
from mspipe_triton.kernels.philox import keep_scale
from mspipe_triton.kernels.time_encoding import fused_encode_time

_NAME = "mailbox_attention"


def mailbox_attention_reference(
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, bias: torch.Tensor, dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    """`mailbox_attention` in torch, and what its backward reads, which is empty unless `save`:

    the weights a before dropout and LeakyReLU's slope, negated where dropout drops the weight, both [U, K, S]; φ
    [U, S, T], which the kernels leave empty, for they encode again.
    """
    encoded = fused_encode_time(deltas.contiguous().to(query.dtype), frequency, phase)
    slots = mail_slots(mails, rows, features, feature_rows, counts, encoded)
    return attended(query, bias, slots, counts, dropout, draws, save)


@kernel(
    Config({"BLOCK": 64, "HELD": 10240}, num_warps=4), Config({"BLOCK": 128, "HELD": 20480}, num_warps=8),
    Config({"BLOCK": 128, "HELD": 10240}, num_warps=4), float64=[Config({"BLOCK": 64, "HELD": 10240}, num_warps=8)],
)  # fmt: skip
def mailbox_kernel(
    p_mails, p_rows, p_features, p_feature_rows, p_deltas, p_counts, p_frequency, p_phase,
    p_query, p_bias, p_draws, p_context, p_total, p_weights, p_slope, stride_query, stride_query_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, EDGE: tl.constexpr, TIME: tl.constexpr,
    STRIDE_MAILS: tl.constexpr, STRIDE_FEATURES: tl.constexpr, MAILS: tl.constexpr, SLOTS: tl.constexpr,
    DROPOUT: tl.constexpr, KEEP_FROM: tl.constexpr, SCALE: tl.constexpr, SLOPE: tl.constexpr, SAVE: tl.constexpr,
    BLOCK: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """`attend`'s equations for a node, whose slots' h_j are its mails, one block of memory.

    x_j is walked in blocks of BLOCK columns, which are read once, into registers, where they are at most HELD numbers.
    """
    node = tl.program_id(0).to(tl.int64)
    m_slot = filled_slots(p_counts, node, MAILS, SLOTS)
    source = slots_of(
        mail_pointers(p_mails, p_rows, node, STRIDE_MAILS, DIM, SLOTS), m_slot,
        p_features, p_feature_rows, p_deltas, p_frequency, p_phase, node, STRIDE_FEATURES, MAILS, SLOTS,
    )  # fmt: skip
    b_held = held_blocks(source, DIM, EDGE, TIME, SLOTS, BLOCK, HELD)
    attend(
        source, b_held, p_query + node * stride_query, stride_query_head, p_bias + node * HEADS, p_draws,
        p_context, p_total, p_weights, p_slope, node,
        HEADS, DIM, EDGE, TIME, MAILS, SLOTS, DROPOUT, KEEP_FROM, SCALE, SLOPE, SAVE, BLOCK,
    )  # fmt: skip


def launch_mailbox_attention(
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, bias: torch.Tensor, dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    """`mailbox_attention` by its kernel: a program takes a node."""
    out = empty_attended(deltas.shape, query, save, 0)
    query = inner_contiguous(query)
    mailbox_kernel.launch(
        (query.shape[0],), mailbox_kernel.config("float64" if query.dtype == torch.float64 else "float32"),
        mails, rows, features, None if feature_rows is None else feature_rows.contiguous(),
        deltas.contiguous(), counts, frequency, phase, query, bias.contiguous(),
        draws if dropout > 0 else None, *out[:4], query.stride(0), query.stride(1),
        HEADS=query.shape[1], **mail_shapes(mails, features, frequency),
        DROPOUT=dropout > 0, KEEP_FROM=int(dropout * 2**32), SCALE=keep_scale(dropout, query.dtype),
        SLOPE=NEGATIVE_SLOPE, SAVE=save,
    )  # fmt: skip
    return out


@torch.library.custom_op("mspipe_triton::mailbox_attention", mutates_args=())
def _operation(
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, bias: torch.Tensor, dropout: float, draws: torch.Tensor | None, save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    run = launch_mailbox_attention if on_triton(query) else mailbox_attention_reference
    return run(mails, rows, features, feature_rows, deltas, counts, frequency, phase, query, bias, dropout, draws, save)


@_operation.register_fake
def _(
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, bias: torch.Tensor, dropout: float, draws: torch.Tensor | None, save: bool,
) -> Attended:  # fmt: skip
    return empty_attended(deltas.shape, query, save, 0 if on_triton(query) else frequency.numel())


def _backward(ctx: Any, d_context: torch.Tensor | None, d_total: torch.Tensor | None, *_: None) -> tuple[Any, ...]:
    saved, needs = ctx.saved_tensors, ctx.needs_input_grad
    query = saved[8]
    run: Callable[..., Any] = (
        mailbox_attention_backward_reference if eager_backward(query) else mailbox_attention_backward
    )
    d_frequency, d_phase, d_query, d_bias = run(
        *whole_gradients(d_context, d_total, query, query.shape[0]), *saved, ctx.dropout, needs[6] or needs[7]
    )
    return (
        None, None, None, None, None, None, d_frequency if needs[6] else None, d_phase if needs[7] else None,
        d_query, d_bias, None, None, None,
    )  # fmt: skip


_operation.register_autograd(_backward, setup_context=setup_attended)
_direct = differentiable(mailbox_attention_reference, setup_attended, _backward)


def _check(
    mails: torch.Tensor, rows: torch.Tensor | None, features: torch.Tensor, feature_rows: torch.Tensor | None,
    deltas: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor,
    query: torch.Tensor, bias: torch.Tensor, dropout: float, draws: torch.Tensor | None,
) -> None:  # fmt: skip
    """Refuse what the operation cannot take."""
    check_dims(_NAME, 3, mails=mails, query=query)
    nodes, shape = query.shape[0], (query.shape[0], mails.shape[1])
    check_slots(_NAME, query.device, shape, features, feature_rows, deltas, counts, frequency, phase)
    width = mails.shape[2] + features.shape[1] + frequency.numel()
    check_attention(_NAME, "mails", width, query, bias, frequency, phase, dropout, draws)
    check_shape(_NAME, rows=(rows, (nodes,)))
    if rows is None and mails.shape[0] != nodes:
        raise ValueError(f"{_NAME}: mails has {mails.shape[0]} mailboxes for {nodes} nodes; give rows")
    check_dtype(_NAME, FLOATS, mails=mails)
    check_dtype(_NAME, INTEGERS, rows=rows)
    check_layout(_NAME, rows=rows)
    if mails.shape[0] and not mails[0].is_contiguous():
        raise ValueError(
            f"{_NAME}: mails {tuple(mails.shape)} has strides {mails.stride()}; "
            "a mailbox must be contiguous, as with mails.contiguous()"
        )
    check_device(_NAME, query.device, ("mails",), mails=mails, rows=rows)
    if rows is not None and debugging():
        check_range(_NAME, "rows", rows[counts > 0], mails.shape[0])


def mailbox_attention(
    mails: torch.Tensor,
    rows: torch.Tensor | None,
    features: torch.Tensor,
    feature_rows: torch.Tensor | None,
    deltas: torch.Tensor,
    counts: torch.Tensor,
    frequency: torch.Tensor,
    phase: torch.Tensor,
    query: torch.Tensor,
    bias: torch.Tensor,
    dropout: float = 0.0,
    draws: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the mails x_j = [mail_j ‖ e_j ‖ φ(Δ_j)] of U nodes, of APAN's memory updater (Wang et al., SIGMOD
    2021), by a query that already carries the key projection.

    For node u, head k, and its slots j < counts[u]:

        l_ukj = LeakyReLU₀.₂(query_uk · x_uj + bias_uk)          (unscaled, as in TGL)
        a_uk  = dropout(softmax_j(l_uk))
        context_uk = Σ_j a_ukj x_uj          total_uk = Σ_j a_ukj          (both 0 where counts[u] = 0)

    With query = W_kᵀ q and bias = q · b_k per head, W_v·context + b_v·total is the projected attention exactly. A
    mailbox is a ring: the order of its filled slots changes nothing but which of them dropout drops.

    Args:
        mails: mailboxes [N, S, M] of S slots each; rows [U] integer, a node's mailbox (ignored where it is empty), or
            None where N = U. A mailbox is contiguous; mailboxes may lie apart.
        features: edge rows [·, E], E may be 0; feature_rows [U, S] integer, or None where `features` is one row a
            slot, [U·S, E] (ignored in empty slots; a row below 0 in a filled one is read as row 0). Both tables may be
            bfloat16, and may lie in pinned host memory.
        deltas: [U, S] floating, the mails' ages.
        counts: [U] integer, filled slots; they come first.
        frequency, phase: [T], of the time encoder, float32 or float64, as are query and bias.
        query: [U, K, M + E + T] for K heads; bias [U, K].
        dropout: probability of dropping an attention weight; `draws` [4] int64 keys the draws (Philox seed, purpose,
            epoch, iteration) and is needed when it is above 0.

    Returns:
        context [U, K, M + E + T] and total [U, K]. Nothing is mutated. Differentiable, once, in frequency, phase,
        query and bias; mails and edge features are data. The same bits in every run.

    Raises:
        ValueError: a wrong dtype, layout or device, shapes that do not go together, or `dropout` out of range or above
            0 without `draws`.
    """
    _check(mails, rows, features, feature_rows, deltas, counts, frequency, phase, query, bias, dropout, draws)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (frequency, phase, query, bias))
    run = _direct if eager(query) else _operation
    context, total, *_ = run(
        mails, rows, features, feature_rows, deltas, counts, frequency, phase, query, bias, float(dropout), draws, save
    )
    return context, total
