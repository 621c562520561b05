"""Counter-based dropout multipliers, drawn in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mspipe_triton.kernels.numbers.philox import dropout_scale as _scale
from mspipe_triton.kernels.numbers.philox import keep_scale, philox_block
from mspipe_triton.kernels.runtime import checks, spaces
from mspipe_triton.kernels.runtime.launch import Config, cdiv, kernel, tl
from mspipe_triton.kernels.runtime.operation import operation

_NAME = "dropout_scale"


class Dropout(NamedTuple):
    """Dropout multipliers: 0 with probability `probability`, 1 / (1 − probability) otherwise.

    Element e, in row-major order, is kept where word e mod 4 of Philox's position ⌊e / 4⌋ (Salmon et al., SC 2011) is
    at least ⌊probability · 2³²⌋. It depends only on `draws` and e, so every device drops the same elements.

    Args:
        draws: [4] int64, the Philox words (seed, purpose, epoch, iteration).
        shape: shape of the multipliers.
        probability: at least 0 and below 1.
        dtype: dtype of the multipliers, float32, float64 or bfloat16.

    Returns:
        The multipliers, on the device of `draws`. Nothing is mutated or differentiable.

    Raises:
        ValueError: a wrong dtype, shape or layout, a probability outside [0, 1).
    """

    draws: torch.Tensor
    shape: Sequence[int]
    probability: float
    dtype: torch.dtype


def _reference(args: Dropout) -> torch.Tensor:
    return _scale(*args)


@kernel(
    Config({"BLOCK": 128}, num_warps=4),
    Config({"BLOCK": 64}, num_warps=2),
    Config({"BLOCK": 256}, num_warps=4),
    space=spaces.FLAT,
)
def dropout_kernel(p_draws, p_out, num_elements, KEEP_FROM: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    """out_e = SCALE where philox(⌊e / 4⌋)_(e mod 4) ≥ KEEP_FROM, else 0; a program draws 4·BLOCK words."""
    i_program = tl.program_id(0).to(tl.int64)
    w0, w1, w2, w3 = philox_block(p_draws, i_program * BLOCK + tl.arange(0, BLOCK))
    b_word = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    o_element = i_program * (4 * BLOCK) + tl.arange(0, 4 * BLOCK)
    # The block has the output's dtype from the start, since a bare constant is a float32.
    b_scale = tl.full([4 * BLOCK], SCALE, p_out.dtype.element_ty)
    tl.store(p_out + o_element, tl.where(b_word.to(tl.int64) >= KEEP_FROM, b_scale, 0), mask=o_element < num_elements)


def _launch(args: Dropout) -> torch.Tensor:
    out, config = _empty(args), dropout_kernel.config()
    dropout_kernel.launch(
        (cdiv(out.numel(), 4 * config["BLOCK"]),), config, args.draws, out, out.numel(),
        KEEP_FROM=int(args.probability * 2**32), SCALE=keep_scale(args.probability, args.dtype),
    )  # fmt: skip
    return out


def _empty(args: Dropout) -> torch.Tensor:
    """Allocate the output."""
    return args.draws.new_empty(args.shape, dtype=args.dtype)


def _check(args: Dropout) -> None:
    checks.dtype(_NAME, (torch.int64,), draws=args.draws)
    checks.shape(_NAME, draws=(args.draws, (4,)))
    checks.layout(_NAME, draws=args.draws)
    if any(size < 0 for size in args.shape):
        raise ValueError(f"{_NAME}: shape is {tuple(args.shape)}; give sizes of at least 0")
    if not 0 <= args.probability < 1:
        raise ValueError(f"{_NAME}: probability must be at least 0 and below 1, not {args.probability}")
    if args.dtype not in checks.FLOATS:
        raise ValueError(f"{_NAME}: dtype must be a floating type, not {args.dtype}; give the input's dtype")


dropout_scale = operation(_NAME, Dropout, reference=_reference, launch=_launch, fake=_empty, check=_check, on="draws")
