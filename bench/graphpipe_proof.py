"""Tables of pipelined runs beside the unpipelined module, and of runs in which a process dies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.tables import markdown

Facts = Mapping[str, Any]
DTYPES = ("float32", "float64")
QUANTITIES = ("gradients", "losses", "state")
SIGNS = {"killed": "is killed", "stopped": "stops answering"}


def equal(report: Facts) -> str:
    """Two tables: errors against the unpipelined module, and what stages hold beside their plans, in float64."""
    head = ("model", "processes", "stages", "depth", *(f"{dtype}, {each}" for dtype in DTYPES for each in QUANTITIES))
    errors, memory = [], []
    for name, rows in report["models"].items():
        for count, facts in rows.items():
            stages = ", ".join(f"{each['devices']} × {each['micro_batch']}" for each in facts["stages"])
            plan = (name, count, stages)
            errors.append((*plan, f"{facts['depth']}", *_errors({dtype: facts[dtype]["errors"] for dtype in DTYPES})))
            measures = (_both(facts["float64"][each]) for each in ("in_flight", "activations"))
            memory.append((*plan, *(text for pair in measures for text in pair)))
    errors.append(("largest", "", "", "", *_errors(report["largest_error"])))
    allowed = {dtype: dict.fromkeys(QUANTITIES, report["tolerance"][dtype]) for dtype in DTYPES}
    errors.append(("limit of the tests", "", "", "", *_errors(allowed)))
    columns = ("model", "processes", "stages", "in flight, planned", "measured", "activations, planned", "measured")
    return "\n\n".join(
        (
            "Largest errors:",
            markdown(head, errors),
            "Micro-batches in flight and bytes of activations per device, at most, by stage, in float64:",
            markdown(columns, memory),
        )
    )


def deaths(report: Facts) -> str:
    """Seconds from a signal to the end of the command, by signal and way to start."""
    head = ("a process", "started by", "runs", "median, s", "least", "largest", "named", "left over")
    lines = [
        (
            SIGNS[sign], way if way == "torchrun" else "the command",
            f"{row['runs']}", *(f"{row[key]:.1f}" for key in ("median", "least", "largest")),
            f"{row['named']}", f"{row['left_over']}",
        )
        for sign, ways in report["summary"].items()
        for way, row in ways.items()
    ]  # fmt: skip
    return markdown(head, lines)


def _errors(facts: Facts) -> tuple[str, ...]:
    errors = (facts[dtype][each] for dtype in DTYPES for each in QUANTITIES)
    return tuple(f"{error:.1e}" if error else "0" for error in errors)


def _both(facts: Facts) -> tuple[str, str]:
    """A quantity of all stages, as planned and as measured."""
    planned, measured = (" · ".join(f"{each:,.0f}" for each in facts[kind]) for kind in ("planned", "measured"))
    return planned, measured
