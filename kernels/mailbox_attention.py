"""Attention of each node over the mails in its mailbox: `temporal_attention` over a table of mailboxes."""

from __future__ import annotations

import torch

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
from mspipe_triton.kernels.temporal_attention import check_attention, checked_attention

_NAME = "mailbox_attention"


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
    check_dims(_NAME, 3, mails=mails, query=query)
    nodes = query.shape[0]
    check_attention(
        _NAME, "mails", mails, (nodes, mails.shape[1]), features, feature_rows, deltas, counts, frequency, phase,
        query, bias, dropout, draws,
    )  # fmt: skip
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
    return checked_attention(
        mails, rows, features, feature_rows, deltas, counts, frequency, phase, query, None, bias, dropout, draws
    )
