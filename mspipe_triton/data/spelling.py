"""Spelling of ids: the known id that an unknown one may stand for."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.id_table import IdTable

_CLOSE = 20_000  # ids that are compared letter by letter


def same_but_for_form(table: IdTable, text: str) -> Any:
    """Return an id that differs from a text in case, in blanks or as a number ("007" and 7) only, or None."""
    ids = pc.cast(table.ids, pa.string())
    alike = np.flatnonzero(pc.equal(_loosely(ids), _loosely(pa.array([text]))[0]).to_numpy(False))
    return table.ids[int(alike[0])].as_py() if alike.size else None


def similar(table: IdTable, text: str) -> Any:
    """Return an id of text that has a few other letters, or None."""
    matches = get_close_matches(text, _candidates(table.ids, text), 1, 0.75) if table.text else []
    return matches[0] if matches else None


def _loosely(text: pa.Array) -> pa.Array:
    """Return text without case, blanks, and zeros that do not change a number."""
    text = pc.replace_substring_regex(pc.utf8_lower(text), r"\s+", "")
    return pc.replace_substring_regex(text, r"^\+?(-?)0*(\d+?)(\.0*)?$", r"\1\2")


def _candidates(ids: pa.Array, text: str) -> list[str]:
    """Return ids of nearly the length of a text that begin or end as it does, so that not all are compared with it."""
    near = pc.less_equal(pc.abs(pc.subtract(pc.utf8_length(ids), len(text))), 2)
    ends = pc.or_(pc.starts_with(ids, text[:1]), pc.ends_with(ids, text[-1:]))
    return list(ids.filter(pc.and_(near, ends)).slice(0, _CLOSE).to_pylist())
