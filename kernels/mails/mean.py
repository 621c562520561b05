"""Mode "mean" of `deliver_mails`: the mean of all mails that a batch delivers to a node."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.launch import Config, device_function, kernel, on_triton, pow2, tl

Means = tuple[torch.Tensor, torch.Tensor | None]


class Mails(NamedTuple):
    """Mails of a batch and their receivers.

    Args:
        hidden: h [U, D]; src_rows, dst_rows: [B], the ends' rows in it; features: [B, E] or None.
        owners, deliveries: [M], receivers' indices and the mails delivered to them; delivery −1 is padding.
        receivers: V, the number of receivers.
    """

    hidden: torch.Tensor
    src_rows: torch.Tensor
    dst_rows: torch.Tensor
    features: torch.Tensor | None
    owners: torch.Tensor
    deliveries: torch.Tensor
    receivers: int


def mean_mails(args: Mails) -> Means:
    """Mean rows [V, 2D] and mean feature rows [V, E] of V receivers' mails, both in the dtype of h.

    A receiver without deliveries gets zeros. The sums have a fixed order, on a GPU too.
    """
    return (launch_means if on_triton(args.hidden) else reference_means)(args)


def mail_rows(
    hidden: torch.Tensor, src_rows: torch.Tensor, dst_rows: torch.Tensor, deliveries: torch.Tensor
) -> torch.Tensor:
    """Rows [M, 2D] of mails 2·event + side [M]: h of the mail's end, then of the other end."""
    rows = torch.stack([src_rows, dst_rows], 1).view(-1)
    pair = torch.stack([rows.index_select(0, deliveries), rows.index_select(0, deliveries ^ 1)], 1)
    return hidden.index_select(0, pair.view(-1)).view(deliveries.numel(), 2 * hidden.shape[1])


def reference_means(args: Mails) -> Means:
    """`mean_mails` in torch."""
    real = (args.deliveries >= 0).nonzero().squeeze(1)
    owners, mails = args.owners.index_select(0, real).long(), args.deliveries.index_select(0, real).long()
    number = torch.bincount(owners, minlength=args.receivers).clamp(min=1).unsqueeze(1)

    def mean(rows: torch.Tensor) -> torch.Tensor:
        return rows.new_zeros(args.receivers, rows.shape[1]).index_add_(0, owners, rows) / number

    means = mean(mail_rows(args.hidden, args.src_rows, args.dst_rows, mails))
    if args.features is None:
        return means, None
    return means, mean(args.features.index_select(0, mails >> 1).to(args.hidden.dtype))


@device_function
def mean_row(
    p_to, p_from, stride_from, p_src_rows, p_dst_rows, p_deliveries, o_first, o_stop,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """to := mean of the rows of deliveries first to stop, in order: src_rows[event] for a mail from the source,
    dst_rows[event] for one from the destination, or row `event` without p_src_rows; 0 without deliveries."""
    SPAN: tl.constexpr = PADDED if PADDED < COLUMNS else COLUMNS
    SUM: tl.constexpr = p_to.dtype.element_ty
    count = tl.maximum(o_stop - o_first, 1)
    scale = tl.where(count > 1, 1.0 / count.to(SUM), 1.0)  # 1 / 1 may be off by one ulp
    for o_column in range(0, WIDTH, SPAN):
        i_column = o_column + tl.arange(0, SPAN)
        b_sum = tl.zeros([SPAN], SUM)
        o_at = o_first
        while o_at < o_stop:
            m_at = o_at + tl.arange(0, CHUNK) < o_stop
            b_mail = tl.load(p_deliveries + o_at + tl.arange(0, CHUNK), mask=m_at, other=0)
            b_row = (b_mail // 2).to(tl.int64)
            if p_src_rows is not None:
                b_src, b_dst = tl.load(p_src_rows + b_row, mask=m_at), tl.load(p_dst_rows + b_row, mask=m_at)
                b_row = tl.where(b_mail % 2 == 0, b_src, b_dst).to(tl.int64)
            p_cell = p_from + (b_row * stride_from)[:, None] + i_column[None, :]
            m_cell = m_at[:, None] & (i_column < WIDTH)[None, :]
            b_sum += tl.sum(tl.load(p_cell, mask=m_cell, other=0).to(SUM), 0)
            o_at += CHUNK
        tl.store(p_to + i_column, b_sum * scale, mask=i_column < WIDTH)


@kernel(
    Config({"CHUNK": 16, "COLUMNS": 128}, num_warps=4),
    Config({"CHUNK": 8, "COLUMNS": 128}, num_warps=2),
    Config({"CHUNK": 16, "COLUMNS": 64}, num_warps=4),
    space={"CHUNK": (4, 8, 16, 32), **spaces.COLUMNS, **spaces.PLAIN},
)
def mean_mails_kernel(
    p_means, p_kept, p_hidden, p_features, p_src_rows, p_dst_rows, p_starts, p_deliveries,
    stride_hidden, stride_features, DIM: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    COLUMNS: tl.constexpr, PADDED: tl.constexpr, PADDED_WIDTH: tl.constexpr,
):  # fmt: skip
    """For deliveries 2·event + side sorted by receiver, of which starts[v] to starts[v + 1] are the n of v:

        means[v] := Σ [h(that end) ‖ h(other end)] / n        kept[v] := Σ features[event] / n        0 where n = 0

    A program sums one receiver's rows, CHUNK at a time, in order of delivery, so results repeat in every run.
    """
    i_receiver = tl.program_id(0).to(tl.int64)
    o_first, o_stop = tl.load(p_starts + i_receiver), tl.load(p_starts + i_receiver + 1)
    p_own = p_means + i_receiver * 2 * DIM
    mean_row(
        p_own, p_hidden, stride_hidden, p_src_rows, p_dst_rows, p_deliveries, o_first, o_stop,
        DIM, PADDED, CHUNK, COLUMNS,
    )  # fmt: skip
    mean_row(
        p_own + DIM, p_hidden, stride_hidden, p_dst_rows, p_src_rows, p_deliveries, o_first, o_stop,
        DIM, PADDED, CHUNK, COLUMNS,
    )  # fmt: skip
    if p_kept is not None:
        mean_row(
            p_kept + i_receiver * WIDTH, p_features, stride_features, None, None, p_deliveries, o_first, o_stop,
            WIDTH, PADDED_WIDTH, CHUNK, COLUMNS,
        )  # fmt: skip


def launch_means(args: Mails) -> Means:
    """`mean_mails` by one kernel, after torch sorts the deliveries by receiver, padding last."""
    hidden, features, receivers, dim = args.hidden, args.features, args.receivers, args.hidden.shape[1]
    width, stride = (0, 0) if features is None else (features.shape[1], features.stride(0))
    means = hidden.new_empty(receivers, 2 * dim)
    feature_means = None if features is None else hidden.new_empty(receivers, width)
    owners, order = torch.sort(torch.where(args.deliveries >= 0, args.owners, receivers), stable=True)
    starts = torch.searchsorted(owners, torch.arange(receivers + 1, dtype=owners.dtype, device=owners.device))
    mean_mails_kernel.launch(
        (receivers,), mean_mails_kernel.config(),
        means, feature_means, hidden, features, args.src_rows, args.dst_rows, starts,
        args.deliveries.index_select(0, order), hidden.stride(0), stride, DIM=dim, WIDTH=width,
        PADDED=pow2(dim, 1), PADDED_WIDTH=pow2(width, 1),
    )  # fmt: skip
    return means, feature_means
