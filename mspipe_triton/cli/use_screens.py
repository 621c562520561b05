"""Output of the commands that use a trained model."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from mspipe_triton.serving.predictor import Predictor


def ranking_table(ranked: list[tuple[Any, float]], predictor: Predictor) -> Table:
    """Table of `rank`."""
    _, name = predictor.kinds or ("source", "destination")
    table = Table()
    table.add_column("", justify="right")
    table.add_column(name)
    table.add_column("score", justify="right")
    for place, (destination, score) in enumerate(ranked, 1):
        table.add_row(str(place), str(destination), f"{score:.3f}")
    return table


def ranking_lines(src: Any, time: Any, predictor: Predictor) -> str:
    """Lines on a ranking: its source and time (None is just after the last event), candidates and state."""
    moment = f"just after {predictor.time}" if time is None else f"at {predictor.time_of(time)}"
    return (
        f"{src} {moment}, among {counted(predictor.destinations, 'destination')}\n"
        f"state after {counted(len(predictor), 'event')}, until {predictor.time}\n"
        "a higher score means a likelier event"
    )


def counted(number: int, noun: str) -> str:
    """Say a number of things, as in "1 event" and "2 events"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
