"""Numbers in scientific notation whose last digits were lost, such as 1.70E+09 for a Unix time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_EXPONENT = r"^\s*[+-]?0*(?P<whole>\d*)\.?(?P<fraction>\d*)(?P<mark>[eE])(?P<exponent>[+-]?\d+)\s*$"
_SIX = 6  # significant digits that C's %g writes


def lost_digits(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a mask [E] of the numbers, as text, whose digits do not reach the ones.

    With a lower-case "e" they have at least six digits, since R writes 1e+05 for 100000 and C's %g six digits of any
    number. With an upper-case one, as spreadsheets write, any number of them.
    """
    parts = pc.extract_regex(values, _EXPONENT)
    parts = parts.combine_chunks() if isinstance(parts, pa.ChunkedArray) else parts
    rows = np.flatnonzero(parts.is_valid().to_numpy(zero_copy_only=False))
    lost = np.zeros(len(parts), dtype=bool)
    if rows.size:
        whole, fraction, mark, exponent = (parts.take(pa.array(rows)).field(place) for place in range(4))
        before = pc.utf8_length(whole).to_numpy(zero_copy_only=False)
        digits = before + pc.utf8_length(fraction).to_numpy(zero_copy_only=False)
        power = pc.cast(pc.replace_substring_regex(exponent, r"^\+", ""), pa.int64()).to_numpy(zero_copy_only=False)
        spreadsheet = pc.equal(mark, "E").to_numpy(zero_copy_only=False)
        lost[rows] = (digits <= power + np.maximum(before, 1) - 1) & (spreadsheet | (digits >= _SIX))
    return lost
