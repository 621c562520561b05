"""The backward pass of `memory_gru`: gradients of weights, biases, fetched rows and time encoder."""

from __future__ import annotations

import torch

from mspipe_triton.kernels.checks import refuse_second_derivative
from mspipe_triton.kernels.fusion import fused
from mspipe_triton.kernels.launch import Config, arithmetic, cdiv, input_precision, kernel, on_triton, pow2, tl
from mspipe_triton.kernels.memory_gru_split import tanh
from mspipe_triton.kernels.time_encoding import encode_time_backward, launch_encode_time_backward


def memory_gru_backward_reference(
    grad: torch.Tensor, message: torch.Tensor, joint: torch.Tensor, hidden_n: torch.Tensor, deltas: torch.Tensor,
    has_mail: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor,
    weight_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """`memory_gru_backward` in torch."""
    dim = hidden_n.shape[1]
    gates, memory = 2 * dim, message[:, :dim]
    without = (~has_mail).nonzero().squeeze(1)
    if count is not None:
        valid = torch.arange(grad.shape[0], device=grad.device) < count
        grad, deltas = torch.where(valid.unsqueeze(1), grad, 0.0), torch.where(valid, deltas, 0.0)
    d_joint, d_hidden_n, d_own = _gates_backward(
        grad.index_fill(0, without, 0.0) if keep else grad, joint, hidden_n, memory
    )
    d_bias_ih = d_joint.sum(0)
    d_bias_hh = torch.cat([d_bias_ih[:gates], d_hidden_n.sum(0)])
    d_alone = d_joint[:, :gates].index_select(0, without)
    d_joint.index_fill_(0, without, 0.0)  # their message is 0, whatever `message` holds
    d_weight_ih = d_joint.t() @ message
    d_weight_hh = torch.cat([d_weight_ih[:gates, :dim], d_hidden_n.t() @ memory])
    d_weight_hh[:gates] += d_alone.t() @ memory.index_select(0, without)
    d_rows, d_frequency, d_phase = (grad.new_empty(0) for _ in range(3))
    if needs_rows:
        d_rows = d_joint @ weight_ih
        d_rows[:, :dim] += torch.cat([d_joint[:, :gates], d_hidden_n], 1) @ weight_hh + d_own
        d_rows[:, :dim].index_add_(0, without, d_alone @ weight_hh[:gates])
        if keep:
            d_rows[:, :dim].index_copy_(0, without, grad.index_select(0, without))
    if needs_time:
        d_time = d_joint @ weight_ih[:, -frequency.numel() :]
        d_frequency, d_phase = encode_time_backward(d_time, deltas.to(d_time.dtype), frequency, phase)
    return [d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh, d_rows, d_frequency, d_phase]


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


@kernel(
    Config({"BLOCK_U": 8}, num_warps=4),
    Config({"BLOCK_U": 4}, num_warps=2),
    Config({"BLOCK_U": 16}, num_warps=8),
)
def gates_backward_kernel(
    p_grad, p_message, p_joint, p_hidden_n, p_has_mail, p_count, p_gates, p_own, num_rows, grad_stride,
    DIM: tl.constexpr, WIDTH: tl.constexpr, KEEP: tl.constexpr, OWN: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_U: tl.constexpr,
):  # fmt: skip
    """Gradients [U, 4D] of the four gates' sums, and ∂h/∂m along the direct path [U, D]; 0 from the count on.

    d_n = g (1 − z)(1 − n²)   d_z = g (m − n) z (1 − z)   d_r = d_n (W_hn m + b_hn) r (1 − r)   d_hn = d_n r
    """
    i_u, i_d = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U), tl.arange(0, BLOCK_D)
    m_u = i_u < num_rows
    m_valid = m_u
    if p_count is not None:
        m_valid = m_u & (i_u < tl.load(p_count))
    m_d = (i_d < DIM)[None, :]
    m_row, m_out = m_valid[:, None] & m_d, m_u[:, None] & m_d
    o_u = i_u.to(tl.int64)[:, None]
    b_g = tl.load(p_grad + o_u * grad_stride + i_d[None, :], mask=m_row, other=0.0)
    b_direct = b_g
    if KEEP:
        has_mail = (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)[:, None]
        b_g = tl.where(has_mail, b_g, 0.0)
    b_m = tl.load(p_message + o_u * WIDTH + i_d[None, :], mask=m_row, other=0.0)
    p_gate = p_joint + o_u * (3 * DIM) + i_d[None, :]
    b_hidden = tl.load(p_hidden_n + o_u * DIM + i_d[None, :], mask=m_row, other=0.0)
    b_r = tl.sigmoid(tl.load(p_gate, mask=m_row, other=0.0))
    b_z = tl.sigmoid(tl.load(p_gate + DIM, mask=m_row, other=0.0))
    b_n = tanh(tl.load(p_gate + 2 * DIM, mask=m_row, other=0.0) + b_r * b_hidden)
    b_dn = b_g * (1 - b_z) * (1 - b_n * b_n)
    p_out = p_gates + o_u * (4 * DIM) + i_d[None, :]
    tl.store(p_out, b_dn * b_hidden * b_r * (1 - b_r), mask=m_out)
    tl.store(p_out + DIM, b_g * (b_m - b_n) * b_z * (1 - b_z), mask=m_out)
    tl.store(p_out + 2 * DIM, b_dn, mask=m_out)
    tl.store(p_out + 3 * DIM, b_dn * b_r, mask=m_out)
    if OWN:
        b_own = b_g * b_z
        if KEEP:
            b_own = tl.where(has_mail, b_own, b_direct)
        tl.store(p_own + o_u * DIM + i_d[None, :], b_own, mask=m_out)


@kernel(
    Config({"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_U": 32, "PART": 512}, num_warps=4, num_stages=3),
    Config({"BLOCK_N": 32, "BLOCK_K": 64, "BLOCK_U": 32, "PART": 512}, num_warps=4, num_stages=3),
    ieee=[Config({"BLOCK_N": 32, "BLOCK_K": 64, "BLOCK_U": 16, "PART": 512}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_N": 32, "BLOCK_K": 32, "BLOCK_U": 16, "PART": 512}, num_warps=4, num_stages=2)],
)
def weights_backward_kernel(
    p_gates, p_message, p_has_mail, p_count, p_partial, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_U: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Part s of dW_ih = Σ_u d_u ⊗ x_u (nodes with mail) and dW_hh = Σ_u d'_u ⊗ m_u, and of both biases' gradients.

    d = (d_r, d_z, d_n), d' = (d_r, d_z, d_hn). A part is 3D rows of [WIDTH ‖ D ‖ 2]: dW_ih ‖ dW_hh ‖ db_ih, db_hh.
    """
    TILES: tl.constexpr = tl.cdiv(WIDTH, BLOCK_K)
    ACROSS: tl.constexpr = WIDTH + DIM + 2
    i_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    hidden = tl.where(tl.program_id(1) >= TILES, 1, 0)  # whether this tile is of dW_hh
    tile = tl.program_id(1) - hidden * TILES
    i_k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    m_n, m_k = i_n < 3 * DIM, i_k < tl.where(hidden > 0, DIM, WIDTH)
    o_gate = tl.where(i_n >= 2 * DIM, i_n + hidden * DIM, i_n)
    begin = tl.program_id(2) * PART
    stop = tl.minimum(begin + PART, num_rows)
    if p_count is not None:
        stop = tl.minimum(stop, tl.load(p_count).to(tl.int32))
        if begin >= stop:
            return
    b_weight = tl.zeros([BLOCK_N, BLOCK_K], p_partial.dtype.element_ty)
    b_bias = tl.zeros([BLOCK_N], p_partial.dtype.element_ty)
    for u in range(begin, stop, BLOCK_U):
        i_u = u + tl.arange(0, BLOCK_U)
        m_u = i_u < stop
        m_mail = m_u & (tl.load(p_has_mail + i_u, mask=m_u, other=0).to(tl.int32) + hidden > 0)
        p_d = p_gates + i_u.to(tl.int64)[None, :] * (4 * DIM) + o_gate[:, None]
        b_d = tl.load(p_d, mask=m_n[:, None] & m_u[None, :], other=0.0)
        b_bias += tl.sum(b_d, 1)
        p_x = p_message + i_u.to(tl.int64)[:, None] * WIDTH + i_k[None, :]
        b_x = tl.load(p_x, mask=m_mail[:, None] & m_k[None, :], other=0.0)
        b_weight = tl.dot(b_d, b_x, b_weight, input_precision=PRECISION)
    p_row = p_partial + (tl.program_id(2) * (3 * DIM) + i_n).to(tl.int64) * ACROSS
    o_k = hidden * WIDTH + i_k
    tl.store(p_row[:, None] + o_k[None, :], b_weight, mask=m_n[:, None] & m_k[None, :])
    if tile == 0:
        tl.store(p_row + WIDTH + DIM + hidden, b_bias, mask=m_n)


@kernel(Config({"BLOCK": 256}, num_warps=4), Config({"BLOCK": 512}, num_warps=4))
def sum_parts_kernel(
    p_partial, p_count, p_weight_ih, p_weight_hh, p_bias_ih, p_bias_hh, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The parts summed in their order, and each gradient written to its own tensor."""
    ACROSS: tl.constexpr = WIDTH + DIM + 2
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = i < 3 * DIM * ACROSS
    b_sum = tl.zeros([BLOCK], p_partial.dtype.element_ty)
    stop = num_rows
    if p_count is not None:
        stop = tl.minimum(stop, tl.load(p_count).to(tl.int32))
    p_part = p_partial + i
    for _ in range(0, stop, PART):
        b_sum += tl.load(p_part, mask=m, other=0.0)
        p_part += 3 * DIM * ACROSS
    row, column = i // ACROSS, i % ACROSS
    tl.store(p_weight_ih + row * WIDTH + column, b_sum, mask=m & (column < WIDTH))
    m_hidden = m & (column >= WIDTH) & (column < WIDTH + DIM)
    tl.store(p_weight_hh + row * DIM + column - WIDTH, b_sum, mask=m_hidden)
    tl.store(p_bias_ih + row, b_sum, mask=m & (column == WIDTH + DIM))
    tl.store(p_bias_hh + row, b_sum, mask=m & (column == WIDTH + DIM + 1))


@kernel(
    Config({"BLOCK_U": 64, "BLOCK_K": 64, "BLOCK_N": 32}, num_warps=4, num_stages=3),
    Config({"BLOCK_U": 32, "BLOCK_K": 64, "BLOCK_N": 32}, num_warps=4, num_stages=3),
    ieee=[Config({"BLOCK_U": 32, "BLOCK_K": 64, "BLOCK_N": 16}, num_warps=4, num_stages=2)],
    float64=[Config({"BLOCK_U": 32, "BLOCK_K": 32, "BLOCK_N": 16}, num_warps=4, num_stages=2)],
)
def rows_backward_kernel(
    p_gates, p_own, p_has_mail, p_weight_ih, p_weight_hh, p_rows, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, FIRST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Columns from FIRST of d_x = d W_ih (0 without mail); those of memory also get d' W_hh and the direct path."""
    i_u = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    i_k = FIRST + tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    m_u, m_k = i_u < num_rows, i_k < WIDTH
    m_mail = m_u & (tl.load(p_has_mail + i_u, mask=m_u, other=0) != 0)
    o_u = i_u.to(tl.int64)[:, None]
    b_x = tl.zeros([BLOCK_U, BLOCK_K], p_rows.dtype.element_ty)
    for n in range(0, 3 * DIM, BLOCK_N):
        i_n = n + tl.arange(0, BLOCK_N)
        m_n = i_n < 3 * DIM
        b_d = tl.load(p_gates + o_u * (4 * DIM) + i_n[None, :], mask=m_mail[:, None] & m_n[None, :], other=0.0)
        p_w = p_weight_ih + i_n[:, None] * WIDTH + i_k[None, :]
        b_w = tl.load(p_w, mask=m_n[:, None] & m_k[None, :], other=0.0)
        b_x = tl.dot(b_d, b_w, b_x, input_precision=PRECISION)
    if FIRST + tl.program_id(1) * BLOCK_K < DIM:
        m_own = i_k < DIM
        for n in range(0, 3 * DIM, BLOCK_N):
            i_n = n + tl.arange(0, BLOCK_N)
            m_n = i_n < 3 * DIM
            o_gate = tl.where(i_n >= 2 * DIM, i_n + DIM, i_n)
            b_d = tl.load(p_gates + o_u * (4 * DIM) + o_gate[None, :], mask=m_u[:, None] & m_n[None, :], other=0.0)
            p_w = p_weight_hh + i_n[:, None] * DIM + i_k[None, :]
            b_w = tl.load(p_w, mask=m_n[:, None] & m_own[None, :], other=0.0)
            b_x = tl.dot(b_d, b_w, b_x, input_precision=PRECISION)
        b_x += tl.load(p_own + o_u * DIM + i_k[None, :], mask=m_u[:, None] & m_own[None, :], other=0.0)
    tl.store(p_rows + o_u * (WIDTH - FIRST) + (i_k - FIRST)[None, :], b_x, mask=m_u[:, None] & m_k[None, :])


def launch_memory_gru_backward(
    grad: torch.Tensor, message: torch.Tensor, joint: torch.Tensor, hidden_n: torch.Tensor, deltas: torch.Tensor,
    has_mail: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor,
    weight_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """`memory_gru_backward` by kernels: the gates, the weights in parts, their sum, and the rows where they are needed.

    The sums over nodes are cut into parts of fixed size, so that they come out the same in every run.
    """
    grad = grad if grad.stride(1) == 1 else grad.contiguous()
    rows, dim, width = grad.shape[0], hidden_n.shape[1], message.shape[1]
    kind, precision = arithmetic(grad.dtype), input_precision(grad.dtype)
    sizes = {"DIM": dim, "WIDTH": width}
    gates, own = grad.new_empty(rows, 4 * dim), grad.new_empty(rows if needs_rows else 0, dim)
    config = gates_backward_kernel.config()
    gates_backward_kernel.launch(
        (cdiv(rows, config["BLOCK_U"]),), config, grad, message, joint, hidden_n, has_mail, count, gates, own, rows,
        grad.stride(0), KEEP=keep, OWN=needs_rows, BLOCK_D=pow2(dim), **sizes,
    )  # fmt: skip
    config = weights_backward_kernel.config(kind)
    parts, part = cdiv(rows, config["PART"]), config["PART"]
    partial = grad.new_empty(parts, 3 * dim, width + dim + 2)
    tiles = cdiv(width, config["BLOCK_K"]) + cdiv(dim, config["BLOCK_K"])
    weights_backward_kernel.launch(
        (cdiv(3 * dim, config["BLOCK_N"]), tiles, parts), config,
        gates, message, has_mail, count, partial, rows, PRECISION=precision, **sizes,
    )  # fmt: skip
    d_weights = [torch.empty_like(weight_ih), torch.empty_like(weight_hh)]
    d_biases = [grad.new_empty(3 * dim), grad.new_empty(3 * dim)]
    config = sum_parts_kernel.config()
    sum_parts_kernel.launch(
        (cdiv(3 * dim * (width + dim + 2), config["BLOCK"]),), config,
        partial, count, *d_weights, *d_biases, rows, PART=part, **sizes,
    )  # fmt: skip
    d_rows, d_frequency, d_phase = (grad.new_empty(0) for _ in range(3))
    if needs_rows or needs_time:
        first = 0 if needs_rows else width - frequency.numel()
        d_message = grad.new_empty(rows, width - first)
        config = rows_backward_kernel.config(kind)
        rows_backward_kernel.launch(
            (cdiv(rows, config["BLOCK_U"]), cdiv(width - first, config["BLOCK_K"])), config,
            gates, own, has_mail, weight_ih, weight_hh, d_message, rows, FIRST=first, PRECISION=precision, **sizes,
        )  # fmt: skip
        if needs_time:
            d_time = d_message[:, d_message.shape[1] - frequency.numel() :]
            d_frequency, d_phase = launch_encode_time_backward(d_time, deltas, frequency, phase, count)
        if needs_rows:
            d_rows = d_message
    return [*d_weights, *d_biases, d_rows, d_frequency, d_phase]


@torch.library.custom_op("mspipe_triton::memory_gru_backward", mutates_args=())
def memory_gru_backward(
    grad: torch.Tensor, message: torch.Tensor, joint: torch.Tensor, hidden_n: torch.Tensor, deltas: torch.Tensor,
    has_mail: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor,
    weight_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    """Gradients of weight_ih, weight_hh, bias_ih, bias_hh, and if needed of the fetched rows [U, X], frequency, phase.

    Args:
        grad: of h [U, D]. message, joint, hidden_n: as the forward pass saved them.
        others: as `memory_gru` has them.
        needs_rows, needs_time: what is not needed comes back empty.
    """
    run = launch_memory_gru_backward if on_triton(grad) else memory_gru_backward_reference
    return run(
        grad, message, joint, hidden_n, deltas, has_mail, frequency, phase, weight_ih, weight_hh, count, keep,
        needs_rows, needs_time,
    )  # fmt: skip


@memory_gru_backward.register_fake
def _(
    grad: torch.Tensor, message: torch.Tensor, joint: torch.Tensor, hidden_n: torch.Tensor, deltas: torch.Tensor,
    has_mail: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, weight_ih: torch.Tensor,
    weight_hh: torch.Tensor, count: torch.Tensor | None, keep: bool, needs_rows: bool, needs_time: bool,
) -> list[torch.Tensor]:  # fmt: skip
    time = frequency.numel() if needs_time else 0
    biases = [grad.new_empty(weight_ih.shape[0]) for _ in range(2)]
    rows = torch.empty_like(message) if needs_rows else grad.new_empty(0)
    gradients = [torch.empty_like(weight_ih), torch.empty_like(weight_hh), *biases]
    return [*gradients, rows, grad.new_empty(time), grad.new_empty(time)]


refuse_second_derivative(memory_gru_backward)
