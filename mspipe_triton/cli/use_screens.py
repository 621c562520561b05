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


def ranking_line(src: Any, time: Any, predictor: Predictor) -> str:
    """Line on a ranking: its source and time, the candidates, and the state that it was computed from."""
    state = f"state after {len(predictor):,} events, until {predictor.time}"
    return f"{src} at {time}, among {predictor.destinations:,} destinations; {state}"
