"""The backward pass of `link_loss`: gradients of embeddings, weights and biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mspipe_triton.kernels.link.candidates import Scored, candidate_row, real_part, sizes
from mspipe_triton.kernels.runtime import spaces
from mspipe_triton.kernels.runtime.device import add_product, real_rows
from mspipe_triton.kernels.runtime.launch import Config, arithmetic, cdiv, device_function, input_precision, kernel, tl
from mspipe_triton.kernels.runtime.operation import Backward, Gradients

if TYPE_CHECKING:
    from mspipe_triton.kernels.link.loss import LinkLoss

LEAVES = ("embedded", "weight_src", "bias_src", "weight_dst", "bias_dst", "weight_out", "bias_out", "weight_pair")


def _reference(args: LinkLoss, out: Scored, grad: Scored, needs: frozenset[str]) -> Gradients:
    (events, dim, features), negatives = sizes(args), args.negatives
    hidden, embedded, pairs = out.hidden, args.embedded, args.pairs
    valid, number = real_part(args.count, events)
    d_scores = out.slopes * (grad.loss / number)
    if valid is not None:  # padding may hold NaN, and 0 times NaN is not 0
        ends = torch.cat([valid, valid.repeat_interleave(negatives)])
        d_scores, hidden = torch.where(ends, d_scores, 0.0), torch.where(ends.unsqueeze(1), hidden, 0.0)
        embedded = torch.where(torch.cat([valid, ends]).unsqueeze(1), embedded, 0.0)
        pairs = None if pairs is None else torch.where(valid.view(-1, 1, 1), pairs, 0.0)
    d_ends = torch.outer(d_scores, args.weight_out[0])
    torch.ops.aten.threshold_backward.grad_input(d_ends, hidden, 0.0, grad_input=d_ends)
    d_dst, d_others = d_ends[:events], d_ends[events:]
    d_src = d_dst + (d_others if negatives == 1 else d_others.view(events, negatives, dim).sum(1))
    d_embedded = embedded.new_empty(embedded.shape)
    torch.mm(d_src, args.weight_src, out=d_embedded[:events])
    torch.mm(d_ends, args.weight_dst, out=d_embedded[events:])
    d_bias = d_src.sum(0)
    gradients = [
        d_embedded, d_src.t() @ embedded[:events], d_bias, d_ends.t() @ embedded[events:], d_bias.clone(),
        torch.mv(hidden.t(), d_scores).unsqueeze(0), d_scores.sum().view(1),
    ]  # fmt: skip
    if pairs is not None:
        d_pair = d_dst.t() @ pairs[:, 0]
        gradients.append(d_pair.addmm_(d_others.t(), pairs[:, 1:].reshape(events * negatives, features)))
    return dict(zip(LEAVES, gradients, strict=False))  # without pairs, W_pair has no gradient


@device_function
def _score_gradients(p_slopes, o_row, m_row, scale):
    """g = dloss / ds of hidden rows; 0 for rows that are not real."""
    return tl.where(m_row, tl.load(p_slopes + o_row, mask=m_row, other=0.0) * scale, 0.0)


@device_function
def _hidden_gradients(p_hidden, mask, b_w, b_g):
    """d = g w_out 1[h > 0] and g h for a block of rows by hidden numbers, or transposed."""
    b_hidden = tl.load(p_hidden, mask=mask, other=0.0)
    return tl.where(b_hidden > 0, b_g, 0.0) * b_w, b_hidden * b_g


@device_function
def _write_part(
    p_x, p_weight_out, p_slopes, p_hidden, p_partial, scale, events, stop, part, first_n, first_k, column,
    ROLE: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr, NEGATIVES: tl.constexpr,
    DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PART: tl.constexpr,
):  # fmt: skip
    """Write one part's Σ d ⊗ x of a role (0 source, 1 candidate, 2 pair) from `column` on, with the sources also db,
    and with the candidates dw_out and db_out: all in one role would need too many registers."""
    COMPUTE: tl.constexpr = p_partial.dtype.element_ty
    i_n, i_k = first_n + tl.arange(0, BLOCK_N), first_k + tl.arange(0, BLOCK_K)
    m_n, m_k = i_n < DIM, i_k < WIDTH
    b_weight = tl.zeros([BLOCK_N, BLOCK_K], COMPUTE)
    b_bias, b_out = tl.zeros([BLOCK_N, BLOCK_U], COMPUTE), tl.zeros([BLOCK_N, BLOCK_U], COMPUTE)
    b_last = tl.zeros([BLOCK_U], COMPUTE)
    b_w = tl.load(p_weight_out + i_n, mask=m_n, other=0.0)[:, None]
    begin = part * PART
    end = tl.minimum(begin + PART, stop)
    for u in range(begin, end, BLOCK_U):
        i_u = u + tl.arange(0, BLOCK_U)
        m_u = i_u < end
        m_d, m_x = m_n[:, None] & m_u[None, :], m_u[:, None] & m_k[None, :]
        b_source = tl.zeros([BLOCK_N, BLOCK_U], COMPUTE)
        for c in range(1 + NEGATIVES):
            o_row = i_u + c * tl.cast(events, tl.int64)
            b_g = _score_gradients(p_slopes, o_row, m_u, scale)
            p_rows = p_hidden + o_row[None, :] * DIM + i_n[:, None]
            b_d, b_share = _hidden_gradients(p_rows, m_d, b_w, b_g[None, :])
            if ROLE == 0:
                b_source += b_d
            else:
                b_last += b_g
                b_out += b_share
                i_x = i_u * (1 + NEGATIVES) + c
                if ROLE == 1:
                    i_x = candidate_row(i_u, c, events, NEGATIVES)
                b_x = tl.load(p_x + i_x.to(tl.int64)[:, None] * STRIDE + i_k[None, :], mask=m_x, other=0.0)
                b_weight = add_product(b_weight, b_d, b_x, PRECISION)
        if ROLE == 0:
            b_x = tl.load(p_x + i_u.to(tl.int64)[:, None] * STRIDE + i_k[None, :], mask=m_x, other=0.0)
            b_weight = add_product(b_weight, b_source, b_x, PRECISION)
            b_bias += b_source
    p_row = p_partial + (part * DIM + i_n).to(tl.int64) * COLUMNS
    tl.store(p_row[:, None] + column + i_k[None, :], b_weight, mask=m_n[:, None] & m_k[None, :])
    m_n = i_n < tl.where(tl.program_id(1) == 0, DIM, 0)
    if ROLE == 0:
        tl.store(p_row + COLUMNS - 3, tl.sum(b_bias, 1), mask=m_n)
    if ROLE == 1:
        tl.store(p_row + COLUMNS - 2, tl.sum(b_out, 1), mask=m_n)
        tl.store(p_row + COLUMNS - 1, tl.zeros([BLOCK_N], COMPUTE) + tl.sum(b_last, 0), mask=m_n)


@device_function
def _write_rows(
    p_weight, p_weight_out, p_slopes, p_hidden, p_rows, scale, events, stop, first_u, first_k, ROLE: tl.constexpr,
    NEGATIVES: tl.constexpr, DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write d W for a block of sources (role 0) or of candidates (role 1); 0 for events that are not real."""
    i_u, i_k = first_u + tl.arange(0, BLOCK_U), first_k + tl.arange(0, BLOCK_K)
    rows, candidates, m_u, m_k, i_out = events, 1 + NEGATIVES, i_u < stop, i_k < DIM, i_u
    if ROLE == 1:
        rows, candidates = events * (1 + NEGATIVES), 1
        m_u = (i_u < rows) & (i_u % events < stop)
        i_out = candidate_row(i_u % events, i_u // events, events, NEGATIVES)
    b_rows = tl.zeros([BLOCK_U, BLOCK_K], p_rows.dtype.element_ty)
    for n in range(0, DIM, BLOCK_N):
        i_n = n + tl.arange(0, BLOCK_N)
        m_n = i_n < DIM
        b_w = tl.load(p_weight_out + i_n, mask=m_n, other=0.0)[None, :]
        b_d = tl.zeros([BLOCK_U, BLOCK_N], p_rows.dtype.element_ty)
        for c in range(candidates):
            o_row = i_u + c * tl.cast(events, tl.int64)
            b_g = _score_gradients(p_slopes, o_row, m_u, scale)
            p_end = p_hidden + o_row[:, None] * DIM + i_n[None, :]
            b_end, _ = _hidden_gradients(p_end, m_u[:, None] & m_n[None, :], b_w, b_g[:, None])
            b_d += b_end
        p_w = p_weight + i_n[:, None] * DIM + i_k[None, :]
        b_weight = tl.load(p_w, mask=m_n[:, None] & m_k[None, :], other=0.0)
        b_rows = add_product(b_rows, b_d, b_weight, PRECISION)
    p_row = p_rows + i_out.to(tl.int64)[:, None] * DIM
    tl.store(p_row + i_k[None, :], b_rows, mask=(i_u < rows)[:, None] & m_k[None, :])


@kernel(
    Config({"BLOCK_U": 16, "BLOCK_N": 32, "BLOCK_K": 64, "PART": 128}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_N": 32, "BLOCK_K": 64, "PART": 128}, num_warps=8, num_stages=3),
    space={**spaces.BACKWARD, "PART": (64, 128, 256, 512, 1024)},
    ieee=[Config({"BLOCK_U": 16, "BLOCK_N": 16, "BLOCK_K": 32, "PART": 128}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 16, "BLOCK_N": 16, "BLOCK_K": 16, "PART": 128}, num_warps=4, num_stages=2)],
)
def link_backward_kernel(
    p_grad, p_embedded, p_pairs, p_count, p_weight_src, p_weight_dst, p_weight_out, p_slopes, p_hidden, p_d_embedded,
    p_partial, events, NEGATIVES: tl.constexpr, DIM: tl.constexpr, STRIDE: tl.constexpr, FEATURES: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Gradients of the rows, and of weights and biases in parts of PART events. With the gradients of the hidden rows

        d_ic = g_ic w_out 1[h_ic > 0]    g_ic = dloss / ds_ic

    the rows are dsrc_i = Σ_c d_ic W_src and dz_ic = d_ic W_dst. A part is D rows of [2D + F ‖ 3], sums over its events
    and their candidates: dW_src = Σ d_ic ⊗ src_i, dW_dst = Σ d_ic ⊗ z_ic, dW_pair = Σ d_ic ⊗ f_ic ‖ db = Σ d_ic,
    dw_out = Σ g_ic h_ic, db_out = Σ g_ic.

    Rows and parts need the same d and do not depend on each other, so one launch computes both; along the first axis,
    the programs of the parts come first, since they run longer.
    """
    TILES: tl.constexpr = tl.cdiv(DIM, BLOCK_N)
    COLUMNS: tl.constexpr = 2 * DIM + FEATURES + 3
    ROLES: tl.constexpr = 2 if p_pairs is None else 3
    stop, ahead = real_rows(p_count, events), tl.cast(events, tl.int64)
    scale, k = tl.load(p_grad) / tl.maximum(stop, 1), tl.program_id(1) * BLOCK_K
    tile, tiles = tl.program_id(0), tl.cdiv(events, PART) * TILES
    if tile < ROLES * tiles:
        role, part, n = tile // tiles, tile % tiles // TILES, tile % TILES * BLOCK_N
        if k < tl.where(role == 2, FEATURES, DIM):
            if role == 0:
                _write_part(
                    p_embedded, p_weight_out, p_slopes, p_hidden, p_partial, scale, events, stop, part, n, k, 0, 0, DIM,
                    STRIDE, COLUMNS, NEGATIVES, DIM, PRECISION, BLOCK_U, BLOCK_N, BLOCK_K, PART,
                )  # fmt: skip
            elif role == 1:
                _write_part(
                    p_embedded + ahead * STRIDE, p_weight_out, p_slopes, p_hidden, p_partial, scale, events, stop, part,
                    n, k, DIM, 1, DIM, STRIDE, COLUMNS, NEGATIVES, DIM, PRECISION, BLOCK_U, BLOCK_N, BLOCK_K, PART,
                )  # fmt: skip
            elif p_pairs is not None:
                _write_part(
                    p_pairs, p_weight_out, p_slopes, p_hidden, p_partial, scale, events, stop, part, n, k, 2 * DIM, 2,
                    FEATURES, FEATURES, COLUMNS, NEGATIVES, DIM, PRECISION, BLOCK_U, BLOCK_N, BLOCK_K, PART,
                )  # fmt: skip
    elif k < DIM:
        block, sources = tile - ROLES * tiles, tl.cdiv(events, BLOCK_U)
        if block < sources:
            _write_rows(
                p_weight_src, p_weight_out, p_slopes, p_hidden, p_d_embedded, scale, events, stop, block * BLOCK_U, k,
                0, NEGATIVES, DIM, PRECISION, BLOCK_U, BLOCK_N, BLOCK_K,
            )  # fmt: skip
        else:
            _write_rows(
                p_weight_dst, p_weight_out, p_slopes, p_hidden, p_d_embedded + ahead * DIM, scale, events, stop,
                (block - sources) * BLOCK_U, k, 1, NEGATIVES, DIM, PRECISION, BLOCK_U, BLOCK_N, BLOCK_K,
            )  # fmt: skip


@kernel(
    Config({"BLOCK": 256}, num_warps=4),
    Config({"BLOCK": 512}, num_warps=4),
    space=spaces.FLAT,
)
def link_sum_kernel(
    p_partial, p_count, p_weight_src, p_bias_src, p_weight_dst, p_bias_dst, p_weight_out, p_bias_out, p_weight_pair,
    events, DIM: tl.constexpr, FEATURES: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the parts in order and write each gradient to its own tensor."""
    COLUMNS: tl.constexpr = 2 * DIM + FEATURES + 3
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = i // COLUMNS, i % COLUMNS
    m = row < DIM
    b_sum = tl.zeros([BLOCK], p_partial.dtype.element_ty)
    p_part = p_partial + i
    for _ in range(0, real_rows(p_count, events), PART):
        b_sum += tl.load(p_part, mask=m, other=0.0)
        p_part += DIM * COLUMNS
    tl.store(p_weight_src + row * DIM + column, b_sum, mask=m & (column < DIM))
    tl.store(p_weight_dst + row * DIM + column - DIM, b_sum, mask=m & (column >= DIM) & (column < 2 * DIM))
    if p_weight_pair is not None:
        m_pair = m & (column >= 2 * DIM) & (column < 2 * DIM + FEATURES)
        tl.store(p_weight_pair + row * FEATURES + column - 2 * DIM, b_sum, mask=m_pair)
    tl.store(p_bias_src + row, b_sum, mask=m & (column == COLUMNS - 3))
    tl.store(p_bias_dst + row, b_sum, mask=m & (column == COLUMNS - 3))
    tl.store(p_weight_out + row, b_sum, mask=m & (column == COLUMNS - 2))
    tl.store(p_bias_out + row, b_sum, mask=(row == 0) & (column == COLUMNS - 1))


def _launch(args: LinkLoss, out: Scored, grad: Scored, needs: frozenset[str]) -> Gradients:
    """Launch two kernels: all products, then the sums of their parts. Bitwise the same in every run."""
    (events, dim, features), hidden, embedded, pairs = sizes(args), out.hidden, args.embedded, args.pairs
    config = link_backward_kernel.config(arithmetic(hidden.dtype))
    parts, columns = cdiv(events, config["PART"]), 2 * dim + features + 3
    partial = hidden.new_empty(parts, dim, columns)
    gradients = {name: hidden.new_empty(leaf.shape) for name in LEAVES if (leaf := getattr(args, name)) is not None}
    d_embedded, *d_weights = gradients.values()
    programs = (2 if pairs is None else 3) * parts * cdiv(dim, config["BLOCK_N"])
    programs += cdiv(events, config["BLOCK_U"]) + cdiv((1 + args.negatives) * events, config["BLOCK_U"])
    link_backward_kernel.launch(
        (programs, cdiv(max(dim, features), config["BLOCK_K"])), config,
        grad.loss, embedded, pairs, args.count, args.weight_src.contiguous(), args.weight_dst.contiguous(),
        args.weight_out, out.slopes, hidden, d_embedded, partial, events,
        NEGATIVES=args.negatives, DIM=dim, STRIDE=embedded.stride(0), FEATURES=features,
        PRECISION=input_precision(hidden.dtype),
    )  # fmt: skip
    part, config = config["PART"], link_sum_kernel.config()
    link_sum_kernel.launch(
        (cdiv(dim * columns, config["BLOCK"]),), config,
        partial, args.count, *d_weights, *([None] if pairs is None else []), events,
        DIM=dim, FEATURES=features, PART=part,
    )  # fmt: skip
    return gradients


BACKWARD = Backward(_reference, _launch, leaves=LEAVES, forgets=("loss", "scores"))
