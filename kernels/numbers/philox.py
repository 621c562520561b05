"""Counter-based random numbers (Philox 4x32-10): a draw depends only on its key and counter, not on earlier draws."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

from mspipe_triton.kernels.runtime.launch import device_function, tl

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox_words(draws: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Philox 4x32-10 (Salmon et al., SC 2011): four 32-bit words for each position.

    Args:
        draws: [4, ...] int64, the words (seed, purpose, epoch, iteration); trailing dimensions broadcast with
            `positions`. Seed and purpose are the key; position (64 bits), epoch and iteration are the counter.
        positions: [...] int64.

    Returns:
        Four int64 tensors with values in [0, 2³²).
    """
    k0, k1, epoch, iteration = (word & _MASK for word in draws)
    c0, c1, c2, c3 = torch.broadcast_tensors(positions & _MASK, (positions >> 32) & _MASK, epoch, iteration)
    for _ in range(_ROUNDS):
        # The 64-bit products wrap in int64, which keeps every bit. The mask undoes the sign of the shift, and clears
        # the upper halves of the other words.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, p1, ((p0 >> 32) ^ c3 ^ k1) & _MASK, p0
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return c0, c1 & _MASK, c2, c3 & _MASK


def philox_integers(draws: torch.Tensor, positions: torch.Tensor, bound: int | torch.Tensor) -> torch.Tensor:
    """Integers in [0, bound) at `positions` [...], 0 where the bound is 0; a bound is at most 2³¹."""
    return (philox_words(draws, positions)[0] * bound) >> 32


def dropout_scale(draws: torch.Tensor, shape: Sequence[int], probability: float, dtype: torch.dtype) -> torch.Tensor:
    """Dropout multipliers of `shape`: 0 with probability `probability`, 1 / (1 − probability) otherwise.

    Element e uses word e mod 4 of position ⌊e / 4⌋.
    """
    count = math.prod(shape)
    positions = torch.arange((count + 3) // 4, device=draws.device)
    words = torch.stack(philox_words(draws, positions), 1).view(-1)[:count]
    return ((words >= int(probability * 2**32)).to(dtype) / (1.0 - probability)).view(shape)


@functools.cache
def keep_scale(dropout: float, dtype: torch.dtype) -> float:
    """Multiplier 1 / (1 − dropout) of a kept weight, rounded in this dtype as in `dropout_scale`."""
    return (torch.ones((), dtype=dtype, device="cpu") / (1.0 - dropout)).item()


@device_function
def philox_block(p_draws, position):
    """Four uint32 words for each of a block of int64 positions, equal to those of `philox_words`; for kernels.

    `p_draws` points to [4] int64: seed and purpose are the key, position, epoch and iteration the counter.
    """
    k0, k1 = tl.load(p_draws).to(tl.uint32), tl.load(p_draws + 1).to(tl.uint32)
    c0, c1 = position.to(tl.uint32), (position >> 32).to(tl.uint32)
    c2 = tl.zeros_like(c0) + tl.load(p_draws + 2).to(tl.uint32)
    c3 = tl.zeros_like(c0) + tl.load(p_draws + 3).to(tl.uint32)
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, 0xD2511F53), tl.umulhi(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, c2 * 0xCD9E8D57, high0 ^ c3 ^ k1, c0 * 0xD2511F53
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@device_function
def philox_below(words, bound):
    """Integers in [0, bound), int64, from a block of words, equal to those of `philox_integers`; for kernels."""
    return ((words.to(tl.uint64) * bound.to(tl.uint64)) >> 32).to(tl.int64)


@device_function
def philox_kept(p_draws, element, FROM: tl.constexpr):
    """Mask of the elements (a block of int64) that dropout keeps, as `dropout_scale` with probability FROM / 2³²; for
    kernels."""
    w0, w1, w2, w3 = philox_block(p_draws, element >> 2)
    i_word = element & 3
    b_word = tl.where(i_word < 2, tl.where(i_word == 0, w0, w1), tl.where(i_word == 2, w2, w3))
    return b_word.to(tl.int64) >= FROM
