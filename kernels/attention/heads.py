"""Products that the attention layer's kernels share, between rows of the model's width and one head's columns."""

from __future__ import annotations

from mspipe_triton.kernels.runtime.device import add_product
from mspipe_triton.kernels.runtime.launch import Config, device_function, tl


@device_function
def rows_product(
    b_sum, p_rows, m_rows, p_weight, m_out, WIDTH: tl.constexpr, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """b_sum + x Wᵀ for rows x [BLOCK_R, WIDTH] at [BLOCK_R, 1] pointers and W [N, WIDTH] at [1, N] pointers."""
    i_k = tl.arange(0, BLOCK_K)
    for k in range(0, WIDTH, BLOCK_K):
        m_k = k + i_k < WIDTH
        b_x = tl.load(p_rows + (k + i_k)[None, :], mask=m_rows[:, None] & m_k[None, :], other=0.0).to(b_sum.dtype)
        b_w = tl.load(p_weight + (k + i_k)[:, None], mask=m_k[:, None] & m_out[None, :], other=0.0)
        b_sum = add_product(b_sum, b_x, b_w, PRECISION)
    return b_sum


@device_function
def write_head(
    b_head, p_weight, p_bias, m_head, p_rows, p_total, m_rows,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write x W [BLOCK_R, WIDTH] and x · b [BLOCK_R] for a head's x [BLOCK_R, N], its weight W [N, WIDTH] and bias.

    It projects a query by the keys' weight, and a gradient back through the values' projection.
    """
    b_bias = tl.load(p_bias, mask=m_head, other=0.0)
    tl.store(p_total, tl.sum(b_head * b_bias[None, :], 1), mask=m_rows)
    i_k = tl.arange(0, BLOCK_K)
    for k in range(0, WIDTH, BLOCK_K):
        m_k = k + i_k < WIDTH
        b_w = tl.load(p_weight[:, None] + (k + i_k)[None, :], mask=m_head[:, None] & m_k[None, :], other=0.0)
        b_row = add_product(tl.zeros([BLOCK_R, BLOCK_K], b_head.dtype), b_head, b_w, PRECISION)
        tl.store(p_rows[:, None] + (k + i_k)[None, :], b_row, mask=m_rows[:, None] & m_k[None, :])


@device_function
def heads_product(
    b_sum, p_rows, p_total, p_weight, p_bias, p_heads, p_mix, i_r, m_r, m_sum,
    HEADS: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, STRIDE_MIX: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """b_sum + Σ_k y_k M_k with y_k = W_k x_k + t_k b_k, for rows i_r of x [·, HEADS, WIDTH] and t [·, HEADS].

    Head k has its rows of W [HEADS·HEAD, WIDTH] and b. M's rows have stride STRIDE_MIX, and `p_mix` points to the
    columns of the first. With SAVE, y is written to `p_heads` [·, HEADS·HEAD]. It projects a context by the values'
    weight, and a gradient back through the keys' projection.
    """
    o_r = i_r.to(tl.int64)
    for head in range(0, HEADS):
        b_total = tl.load(p_total + o_r * HEADS + head, mask=m_r, other=0.0)
        p_head = p_rows + (o_r * HEADS + head)[:, None] * WIDTH
        for first in range(0, HEAD, BLOCK_W):
            i_w = first + tl.arange(0, BLOCK_W)
            m_w, i_n = i_w < HEAD, head * HEAD + i_w
            b_y = b_total[:, None] * tl.load(p_bias + i_n, mask=m_w, other=0.0)[None, :]
            b_y = rows_product(b_y, p_head, m_r, p_weight + i_n[None, :] * WIDTH, m_w, WIDTH, PRECISION, BLOCK_K)
            if SAVE:
                p_y = p_heads + o_r[:, None] * (HEADS * HEAD) + i_n[None, :]
                tl.store(p_y, b_y, mask=m_r[:, None] & m_w[None, :])
            b_mix = tl.load(p_mix[None, :] + i_n[:, None] * STRIDE_MIX, mask=m_w[:, None] & m_sum[None, :], other=0.0)
            b_sum = add_product(b_sum, b_y, b_mix, PRECISION)
    return b_sum


def fit_config(config: Config, dim: int) -> Config:
    """Return the configuration, or the smallest blocks for rows of more than 256 numbers, which are loaded whole."""
    if dim <= 256:
        return config
    return Config(dict.fromkeys(config.blocks, 16), num_warps=8, num_stages=1, base=config)
