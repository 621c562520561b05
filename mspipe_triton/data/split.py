"""Splits of a stream at fractions, times or dates; no split cuts a tie, so that "earlier" means earlier in time."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.moments import decimal, in_unit, number_or_date, rounded, time_text, value_text
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import ConfigError, DataError

TGB = "tgb"  # names `tgb_split`
_FORM = "two fractions of the events, times or dates, as in 0.7,0.85 or 2023-10-01,2023-11-01"


def default_split(stream: EventStream) -> Split:
    """Split a stream's events 70/15/15 by number, each border moved back to the first event of its tie.

    Raises:
        DataError: a part would be empty.
    """
    events = len(stream)
    split, fault = _at_events(stream, (events * 70 // 100, events * 85 // 100), "a 70/15/15 split")
    if fault:
        raise DataError(f"{stream.name}: {fault}; {_advice(stream, borders=stream.source is None)}")
    return split


def split_if_possible(stream: EventStream) -> Split | None:
    """Return a stream's split, or None if its events cannot be split."""
    try:
        return stream.split()
    except DataError:
        return None


def checked_borders(stream: EventStream, borders: Any) -> Split:
    """Return a stream's borders as a `Split`.

    Raises:
        DataError: they are no pair of numbers in ascending order, a part is empty, or they cut a tie.
    """
    try:
        start, stop = (operator.index(each) for each in borders)
    except (TypeError, ValueError):
        start, stop = 0, 0
    if not 0 < start < stop < len(stream):
        raise DataError(
            f"{stream.name}: borders are {shown(borders)}, not two ascending numbers of events above 0 and below "
            f"{len(stream)}; {_advice(stream, borders=True)}"
        )
    split = Split(start, stop)
    for event in split:
        start, stop = _tie(stream.t, event)
        if start < event:
            raise DataError(
                f"{stream.name}: the border {event} cuts a tie, since events {start} to {stop - 1} have the time "
                f"{_time_text(stream, event)}; {_advice(stream, borders=True)}"
            )
    return split


def tgb_split(t: torch.Tensor) -> Split:
    """Split events in time as TGB does: training up to the 70 % quantile of their times, validation up to that of 85 %.

    A quantile interpolates linearly between two times. An event at a quantile is in the earlier part.

    Args:
        t: [E] int64 or float64, never decreasing.

    Raises:
        DataError: a part would be empty.
    """
    times = t.numpy()
    borders = np.quantile(times, [1 - 0.15 - 0.15, 1 - 0.15]) if times.size else ()  # 0.7 and 0.85 as TGB rounds them
    split = tuple(int((times <= border).sum()) for border in borders)
    nodes = torch.zeros_like(t, dtype=torch.int64)
    return checked_borders(EventStream(nodes, nodes, t, name="TGB's split"), split)


def split_stream(stream: EventStream, text: str, form: str = "") -> EventStream:
    """Return a stream with the borders that `--split-at` names; the same stream for "".

    Args:
        text: the start of validation and that of test: two fractions of the events, whose borders move back to the
            first event of their tie; or two times or dates, from which on the first events are taken; or TGB.
        form: the form of dates that the user names, beside which usual ones are read.

    Raises:
        ConfigError: the values cannot be read, are not in order, or leave a part empty.
    """
    if not text:
        return stream
    if text == TGB:
        return replace(stream, borders=tgb_split(stream.t))
    values, flag = text.split(","), _flag(stream)
    half = len(values) // 2  # dates may have a comma each
    first, second = (",".join(part).strip() for part in (values[:half], values[half:]))
    if len(values) % 2 or not first or not second:
        raise ConfigError(f"{flag} {text!r} is no pair of values, the starts of validation and test; give {_FORM}")
    numbers = [number for number in (decimal(first), decimal(second)) if number is not None and 0 < number < 1]
    if len(numbers) == 1 and not stream.t.is_floating_point():
        raise ConfigError(
            f"{flag} {text!r}: {numbers[0]} is a fraction of the events, and the other value is a time; give {_FORM}"
        )
    if len(numbers) == 2:
        late = numbers[0] >= numbers[1]
        events = [min(int(len(stream) * number), len(stream) - 1) for number in numbers]
        split, fault = _at_events(stream, events, "these fractions")
    else:
        moments = [_moment(stream, value, form, text) for value in (first, second)]
        late = moments[0] >= moments[1]
        split, fault = _at_times(stream, moments, (first, second))
    if late:
        raise ConfigError(f"{flag} {text!r}: {first} is not before {second}; name the start of validation first")
    if fault:
        raise ConfigError(f"{flag} {text!r}: {fault}; {_advice(stream)}")
    return replace(stream, borders=split)


def split_text(stream: EventStream, split: Split) -> str:
    """Return the value of `--split-at` for a split: times, or fractions of the events if times would look like them."""
    numbers = [stream.t[event].item() for event in split]
    if not all(0 < number < 1 for number in numbers):
        return ",".join(_time_text(stream, event) for event in split)
    digits = len(str(len(stream)))  # of a fraction that differs from event to event
    return ",".join(f"0.{-(-event * 10**digits // len(stream)):0{digits}d}" for event in split)


def split_setting(stream: EventStream, split: Split, borders: bool = False) -> str:
    """Return the setting that splits a stream so, as a flag or in Python; with `borders` that of `EventStream`."""
    if borders:
        return f"borders={tuple(split)}"
    flag, text = _flag(stream), split_text(stream, split)
    return f"{flag} {text}" if flag.startswith("-") else f'{flag}="{text}"'


def pair_text(value: Any) -> str:
    """Return a pair of numbers, dates or strings from Python as the value of `--split-at`.

    Text is returned as it is, and "" for None.

    Raises:
        ConfigError: it is something else.
    """
    if value is None or isinstance(value, str):
        return value or ""
    texts = [value_text(each) for each in value] if isinstance(value, Iterable) else []
    if len(texts) != 2 or not all(texts):
        raise ConfigError(f"split_at is {shown(value)}; give {_FORM}, or a pair such as (0.7, 0.85)")
    return ",".join(texts)


def _at_events(stream: EventStream, events: Sequence[int], name: str) -> tuple[Split, str]:
    """Return the split at two events, moved back to the first of their ties, and the fault of an empty part or ""."""
    count = len(stream)
    if not count:
        return Split(0, 0), f"0 events are too few for {name}"
    ties = [_tie(stream.t, event) for event in events]
    split = Split(ties[0][0], ties[1][0])
    empty = "training" if split.train_end == 0 else "validation" if split.val_end == split.train_end else ""
    start, stop = ties[empty == "validation"]
    if not empty:
        return split, ""
    if stop - start == 1:
        return split, f"{count:,} events are too few for {name}"
    time = _time_text(stream, start)
    return split, f"events {start:,} to {stop - 1:,} of {count:,} share the time {time}, so {empty} would be empty"


def _at_times(stream: EventStream, moments: Sequence[float], texts: tuple[str, str]) -> tuple[Split, str]:
    """Return the split at the first events at or after two times, and the fault of an empty part or ""."""
    first, second = texts
    split = Split(*torch.searchsorted(stream.t.contiguous(), torch.tensor(moments, dtype=stream.t.dtype)).tolist())
    if split.train_end == 0:
        return split, f"no event is before {first}, so training would be empty"
    if split.val_end == len(stream):
        return split, f"no event is at or after {second}, so test would be empty"
    empty = split.train_end >= split.val_end
    return split, f"no event is from {first} up to {second}, so validation would be empty" if empty else ""


def _moment(stream: EventStream, value: str, form: str, text: str) -> float:
    """Return a time or date in the unit of a stream's times, rounded up to a whole number if these are whole.

    Raises:
        ConfigError: it is neither, or it is a date and the times have no date that is known.
    """
    meaning = "" if stream.source is None else stream.source.time
    number, nanoseconds = number_or_date(value, meaning, form)
    exact = number if nanoseconds is None else in_unit(nanoseconds, meaning)
    if exact is not None:
        return rounded(exact, not stream.t.is_floating_point(), math.ceil)
    if nanoseconds is None:
        raise ConfigError(f"{_flag(stream)} {text!r}: {value!r} is neither a number nor a date; give {_FORM}")
    fault = f"{value} is a date, and the times of {stream.name} are numbers whose dates are unknown"
    raise ConfigError(f"{_flag(stream)} {text!r}: {fault}; {_advice(stream)}")


def _tie(t: torch.Tensor, event: int) -> tuple[int, int]:
    """Return the first event at the time of an event, and the end of these events."""
    t, time = t.contiguous(), t[event : event + 1]  # `searchsorted` warns of others
    return int(torch.searchsorted(t, time)), int(torch.searchsorted(t, time, right=True))


def _time_text(stream: EventStream, event: int) -> str:
    """Return an event's time as `--split-at` reads it, as a date if the times are from dates."""
    return time_text(stream.t[event].item(), "" if stream.source is None else stream.source.time)


def _advice(stream: EventStream, borders: bool = False) -> str:
    """Return the fix of an empty part: a setting whose split is near 70/15/15."""
    starts = torch.unique_consecutive(stream.t, return_counts=True)[1].cumsum(0)[:-1]
    if starts.numel() < 2:
        return "a split needs events at three different times or more, so give finer times if there are any"
    distance = 100 * starts - 70 * len(stream)
    first = int(distance[:-1].abs().argmin())
    later = 100 * starts - 85 * len(stream)
    split = Split(int(starts[first]), int(starts[first + 1 + int(later[first + 1 :].abs().argmin())]))
    return f"use {split_setting(stream, split, borders)}"


def _flag(stream: EventStream) -> str:
    """Return the name of the setting: that of the flag, or that of the argument for a stream from Python."""
    data = None if stream.source is None else stream.source.data
    return "split_at" if data is None or not data.path else "--split-at"
