"""Output of the commands that use a trained model."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from mspipe_triton.serving.predictor import Predictor


def ranking_table(src: Any, time: Any, ranked: list[tuple[Any, float]], predictor: Predictor) -> Table:
    """Table of `rank`."""
    _, name = predictor.kinds or ("source", "destination")
    table = Table(title=f"{src} at {time}", title_justify="left")
    table.add_column("", justify="right")
    table.add_column(name)
    table.add_column("score", justify="right")
    for place, (destination, score) in enumerate(ranked, 1):
        table.add_row(str(place), str(destination), f"{score:.3f}")
    return table


def state_line(predictor: Predictor) -> str:
    """Line on the state that a ranking was computed from."""
    nodes = f"{predictor.destinations:,} nodes that have received events"
    return f"Ranked {nodes}, as of {len(predictor):,} events until {predictor.time}"
