"""Forms of numbers and lists of numbers in text: marks of decimals and thousands, currency, percent, brackets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mspipe_triton.data.origin import Origin

MISSING = r"^\s*(?:NA|N/A|NaN|nan|null|NULL|None|\\N)\s*$"
_MOST = 0.9  # of the values must be lists of one width, if they have no brackets; then the others are faults

_BLANK = "[ \u00a0\u202f\u2009]"
_CURRENCY = "[$€£¥]"
_PLAIN = r"(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity))"
_ELEMENT = r"[+-]?(?:(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|(?i:inf|infinity))"  # no 0170, a phone number
_WHOLE = r"[+-]?(?:0|[1-9]\d*)"
_SEPARATORS = (r"\s*,\s*", r"\s*;\s*", r"\s+")
_CORRECT = "correct it, or remove the row"


@dataclass(frozen=True)
class NumberForm:
    """Form of numbers in text.

    Args:
        pattern: matches a whole value.
        thousands: matches the marks between thousands. decimal: the mark before the fraction.
    """

    pattern: str
    thousands: str = ""
    decimal: str = "."

    @staticmethod
    def of(core: str, thousands: str, decimal: str, percent: str) -> NumberForm:
        """Return a form whose digits match `core`, perhaps with a sign, a currency, or brackets for a negative."""
        money = rf"(?:{_CURRENCY}{_BLANK}?)?{core}(?:{_BLANK}?{_CURRENCY})?{percent}"
        return NumberForm(rf"^\s*(?:[+-]?{money}|{_CURRENCY}[+-]{core}|\({money}\))\s*$", thousands, decimal)

    def floats(self, text: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Convert values of this form to float64; a percentage such as "10%" is 10."""
        text = pc.replace_substring_regex(text, r"^\s*\(", "-")
        text = pc.replace_substring_regex(text, rf"[$€£¥%)+\s]|{_BLANK}{self.thousands}", "")
        text = pc.replace_substring(text, self.decimal, ".") if self.decimal != "." else text
        return np.asarray(pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class ListForm:
    """Form of lists of numbers in text, with brackets, or without them and with one separator."""

    pattern: str
    separator: str

    def lists(self, text: pa.ChunkedArray) -> pa.Array:
        """Split values of this form to lists of text."""
        return pc.split_pattern_regex(pc.utf8_trim(text, " \t\r\n[]"), self.separator).combine_chunks()


def _number_forms() -> tuple[NumberForm, ...]:
    group = r"[1-9]\d{0,2}"
    cores = (
        (_PLAIN, "", "."),
        (rf"(?:{group}(?:,\d{{3}})+(?:\.\d+)?|{_PLAIN})", "|,", "."),  # 1,234.50
        (rf"(?:{group}(?:\.\d{{3}})+(?:,\d+)?|\d+(?:,\d+)?)", r"|\.", ","),  # 1.234,50
        (rf"(?:{group}(?:{_BLANK}\d{{3}})+(?:,\d+)?|\d+(?:,\d+)?)", "", ","),  # 1 234,50
        (rf"(?:{group}(?:{_BLANK}\d{{3}})+(?:\.\d+)?|{_PLAIN})", "", "."),  # 1 234.50
        (rf"(?:{group}(?:['’]\d{{3}})+(?:\.\d+)?|{_PLAIN})", "|['’]", "."),  # 1'234.50
        (rf"(?:{group}(?:['’]\d{{3}})+(?:,\d+)?|\d+(?:,\d+)?)", "|['’]", ","),  # 1'234,50
    )
    return tuple(NumberForm.of(*core, percent) for percent in ("", rf"{_BLANK}?%") for core in cores)


_NUMBERS = _number_forms()
PLAIN = _NUMBERS[0]
_BRACKETS = ListForm(rf"^\s*\[\s*[+-]?{_PLAIN}(?:(?:\s*[,;]\s*|\s+)[+-]?{_PLAIN})*\s*\]\s*$", r"\s*[,;]\s*|\s+")
_LISTS = tuple(ListForm(rf"^\s*{_ELEMENT}(?:{mark}{_ELEMENT})+\s*$", mark) for mark in _SEPARATORS)


def form_of(name: str, text: pa.ChunkedArray, origin: Origin) -> NumberForm | ListForm | None:
    """Recognise the form of the numbers, or lists of numbers, that a text column [E] holds; None for other text.

    Empty values and words for a missing one do not count. Values are lists if they have brackets, or if all have the
    same separator and the same width and are no numbers with marks of decimals or thousands. Otherwise a column is of
    numbers if more than half of its values are, of lists if nine tenths are of one width; the others are faults.

    Raises:
        DataError: all values may be numbers, as in "12,5", and lists.
    """
    counts = pc.value_counts(text)
    values, weights = counts.field("values"), counts.field("counts").to_numpy()
    filled = pc.invert(pc.match_substring_regex(values, rf"{MISSING}|^\s*$"))
    values, weights = values.filter(filled), weights[filled.to_numpy(zero_copy_only=False)]
    total = int(weights.sum())
    if total < 2:
        return None

    def fits(form: NumberForm | ListForm) -> np.ndarray:
        return np.asarray(pc.match_substring_regex(values, form.pattern).to_numpy(zero_copy_only=False))

    if fits(PLAIN).all():
        return PLAIN
    if weights[fits(_BRACKETS)].sum() > total / 2:
        return _BRACKETS
    masks = [fits(form) for form in _NUMBERS]
    shares = [int(weights[mask].sum()) for mask in masks]
    best = int(np.argmax(shares))
    widths = [_commonest_width(values, weights, form) for form in _LISTS]
    place = max(range(len(_LISTS)), key=lambda each: widths[each])
    if widths[place] == total:
        whole = _WHOLE + f"(?:{_LISTS[place].separator}{_WHOLE})+"
        if shares[best] == total and pc.all(pc.match_substring_regex(values, rf"^\s*{whole}\s*$")).as_py():
            fitting = [form for form, share in zip(_NUMBERS, shares, strict=True) if share == total]
            _refuse_ambiguous(name, text, _LISTS[place], fitting, origin)
        if shares[best] < total:
            return _LISTS[place]
    if weights[np.logical_or.reduce(masks)].sum() > total / 2:
        return _NUMBERS[best]
    return _LISTS[place] if widths[place] >= _MOST * total else None


def checked(name: str, text: pa.ChunkedArray, form: NumberForm | ListForm, origin: Origin) -> pa.ChunkedArray:
    """Return the values of a text column, all of which must have a form.

    Raises:
        DataError: a value is empty, a word for a missing one, or has another form.
    """
    wrong = pc.invert(pc.match_substring_regex(text, form.pattern)).to_numpy()
    if not wrong.any():
        return text
    row = int(np.flatnonzero(wrong)[0])
    value = text[row].as_py()
    if re.match(MISSING, value) or not value.strip():
        origin.fail(row, name, value.strip(), "a word for a missing value", "fill it in, or remove the row")
    if isinstance(form, ListForm):
        origin.fail(row, name, value, "not a list of numbers", _CORRECT)
    example = next((text[int(place)].as_py() for place in np.flatnonzero(~wrong)[:1]), "")
    alike = any(re.match(each.pattern, value) for each in _NUMBERS)
    fault = f"not written as the others, such as {example!r}" if alike else "not a number"
    return origin.fail(row, name, value, fault, _CORRECT)


def _commonest_width(values: pa.Array, weights: np.ndarray, form: ListForm) -> int:
    """Return the number of values that are lists of a form and of their commonest width."""
    mask = pc.match_substring_regex(values, form.pattern)
    lists = pc.utf8_trim_whitespace(values.filter(mask))
    if not len(lists):
        return 0
    widths = pc.count_substring_regex(lists, form.separator).to_numpy(zero_copy_only=False)
    return int(np.bincount(widths, weights[mask.to_numpy(zero_copy_only=False)]).max())


def _refuse_ambiguous(
    name: str, text: pa.ChunkedArray, lists: ListForm, forms: list[NumberForm], origin: Origin
) -> NoReturn:
    """Refuse the first value of a column whose values may be numbers and lists."""
    row = int(pc.index(pc.match_substring_regex(text, lists.pattern), True).as_py())
    value = text[row].as_py().strip()
    numbers = dict.fromkeys(np.format_float_positional(form.floats(pa.array([value]))[0], trim="-") for form in forms)
    width = len(lists.lists(pa.chunked_array([[value]]))[0])
    fault = f"a number or a list of {'two' if width == 2 else width}"
    origin.fail(row, name, value, fault, f"write {', '.join(numbers)} or [{value}]")
