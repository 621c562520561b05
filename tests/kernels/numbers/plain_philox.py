"""Philox 4x32-10 on Python integers, as an oracle: it imports nothing of the package."""

from __future__ import annotations


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """Compute Philox 4x32-10 on Python integers, as in the paper's figure."""
    (x0, x1, x2, x3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * x2, 2**32)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]


def expected_at(draws: list[int], position: int) -> list[int]:
    """Return the words [4] at a position, keyed by (seed, purpose, epoch, iteration)."""
    seed, purpose, epoch, iteration = draws
    return scalar_philox([position % 2**32, position >> 32, epoch, iteration], [seed, purpose])
