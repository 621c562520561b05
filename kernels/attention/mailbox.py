"""Attention of each node over the mails in its mailbox: `temporal_attention` over a table of mailboxes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from mspipe_triton.kernels.attention.temporal import (
    Attention,
    attend,
    check_attention,
    fake_attention,
    launch_attention,
)
from mspipe_triton.kernels.attention.temporal_backward import attend_backward, launch_attention_backward
from mspipe_triton.kernels.runtime import checks
from mspipe_triton.kernels.runtime.operation import Backward, differentiable

R = TypeVar("R")


class Mailboxes(NamedTuple):
    """Attention of U nodes over their mails x_j = [mail_j ‖ e_j ‖ φ(Δ_j)], by a query that already carries the key
    projection, as in APAN's memory updater (Wang et al., SIGMOD 2021).

    For node u, head k, and its slots j < counts[u]:

        l_ukj = LeakyReLU₀.₂(query_uk · x_uj + bias_uk)          (unscaled, as in TGL)
        a_uk  = dropout(softmax_j(l_uk))
        context_uk = Σ_j a_ukj x_uj          total_uk = Σ_j a_ukj          (both 0 where counts[u] = 0)

    With query = W_kᵀ q and bias = q · b_k per head, W_v·context + b_v·total is the projected attention exactly. A
    mailbox is a ring: the order of its filled slots only affects which of them dropout drops.

    Args:
        mails: mailboxes [N, S, M] of S slots each; rows [U] integer, the nodes' mailboxes (ignored if empty), or None
            if N = U. Each mailbox is contiguous; mailboxes may have any stride.
        features: edge rows [·, E], E may be 0; feature_rows [U, S] integer, or None if `features` has one row per
            slot, [U·S, E] (ignored in empty slots; a negative row in a filled slot is read as row 0). Both tables may
            be bfloat16, and may be in pinned host memory.
        deltas: [U, S] floating, the mails' ages.
        counts: [U] integer, filled slots, which come first.
        frequency, phase: [T], of the time encoder, float32 or float64, as are query and bias.
        query: [U, K, M + E + T] for K heads; bias [U, K].
        dropout: probability of dropping an attention weight; `draws` [4] int64 are the Philox words (seed, purpose,
            epoch, iteration), needed if `dropout` is above 0.

    Returns:
        context [U, K, M + E + T] and total [U, K]. Nothing is mutated. Differentiable once in frequency, phase,
        query and bias; mails and edge features get no gradient. Bitwise the same in every run.

    Raises:
        ValueError: a wrong dtype, layout or device, mismatched shapes, `dropout` out of range, or above 0 without
            `draws`.
    """

    mails: torch.Tensor
    rows: torch.Tensor | None
    features: torch.Tensor
    feature_rows: torch.Tensor | None
    deltas: torch.Tensor
    counts: torch.Tensor
    frequency: torch.Tensor
    phase: torch.Tensor
    query: torch.Tensor
    bias: torch.Tensor
    dropout: float = 0.0
    draws: torch.Tensor | None = None


def _attention(args: Mailboxes) -> Attention:
    """The same inputs for `temporal_attention`."""
    return Attention(*args[:9], None, *args[9:])  # type: ignore[arg-type]  # with mailboxes, rows may be None


def _adapt(run: Callable[..., R]) -> Callable[..., R]:
    """Adapt an implementation of `temporal_attention` or its backward pass to mailboxes."""

    @functools.wraps(run)
    def call(args: Mailboxes, *rest: Any) -> R:
        return run(_attention(args), *rest)

    return call


def _check(args: Mailboxes) -> None:
    name, mails, rows = "mailbox_attention", args.mails, args.rows
    device, nodes = args.query.device, args.query.shape[0]
    checks.dims(name, 3, mails=mails, query=args.query)
    check_attention(name, (nodes, mails.shape[1]), "mails", _attention(args))
    checks.shape(name, rows=(rows, (nodes,)))
    if rows is None and mails.shape[0] != nodes:
        raise ValueError(f"{name}: mails has {mails.shape[0]} mailboxes for {nodes} nodes; give rows")
    checks.dtype(name, checks.FLOATS, mails=mails)
    checks.dtype(name, checks.INTEGERS, rows=rows)
    checks.layout(name, rows=rows)
    if mails.shape[0] and not mails[0].is_contiguous():
        raise ValueError(
            f"{name}: mails {tuple(mails.shape)} has strides {mails.stride()}; "
            "a mailbox must be contiguous, as with mails.contiguous()"
        )
    checks.device(name, device, ("mails",), mails=mails, rows=rows)
    if rows is not None and checks.debugging():
        checks.within(name, "rows", rows[args.counts > 0], mails.shape[0])


mailbox_attention = differentiable(
    "mailbox_attention", Mailboxes, reference=_adapt(attend), launch=_adapt(launch_attention),
    fake=_adapt(fake_attention), check=_check, on="query", returns=lambda out: (out.context, out.total),
    backward=Backward(
        _adapt(attend_backward), _adapt(launch_attention_backward), leaves=("frequency", "phase", "query", "bias"),
        forgets=("draws", "context", "total"), outputs=2,
    ),
)  # fmt: skip
