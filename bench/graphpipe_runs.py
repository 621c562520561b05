"""Tables of pipelined runs: beside their simulation, beside the unpipelined module, and if a process dies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.tables import markdown

Facts = Mapping[str, Any]
DTYPES = ("float32", "float64")
QUANTITIES = ("gradients", "losses", "state")
SIGNS = {"killed": "is killed", "stopped": "stops answering"}


def run(report: Facts) -> str:
    """Times of runs that sleep, simulated and measured, and the speedup of the DAG over the chain."""
    head = (
        "plan", "depth", "micro-batch", "steady state, simulated", "measured", "ratio", "whole step, simulated",
        "measured", "ratio", "speedup, simulated", "measured",
    )  # fmt: skip
    lines = []
    for name, title in (("graph", "DAG"), ("sequential", "chain")):
        facts = report["plans"][name]
        times = [
            text
            for kind in ("period", "step")
            for text in (
                *(f"{facts[kind][key] * 1e3:.1f}" for key in ("simulated", "measured")), f"{facts[kind]['ratio']:.2f}",
            )
        ]  # fmt: skip
        speedups = [f"{report['speedup'][key]:.2f}" if name == "graph" else "1" for key in ("simulated", "measured")]
        lines.append((title, f"{facts['depth']}", f"{facts['micro_batch']}", *times, *speedups))
    return markdown(head, lines)


def typed(report: Facts) -> str:
    """Three tables of the example with several types of events: precision, plans, and a run beside the plain loop."""
    steps, late, run = report["steps"], report["late"], report["run"]
    precision = [
        (name, f"{row['mean']:.3f} ± {row['standard_error']:.3f}", f"{len(row['seeds'])}")
        for name, row in report["precision"].items()
    ]
    plans = []
    for facts in report["plans"].values():
        graph, chain = facts["graph"], facts["sequential"]
        times = (f"{each['seconds'] * 1e3:.2f}" for each in (graph, chain))
        depths = (f"{each['depth']}" for each in (graph, chain))
        plans.append((f"{graph['micro_batch']}", *depths, *times, f"{facts['speedup']:.2f}"))
    loss, following = run["last_loss"], run["following_precision"]
    compared = [
        (title, *(f"{row[way]:.4f}" for way in ("pipeline", "loop")), f"{difference:.2g}")
        for title, row, difference in (
            ("loss of the last mini-batch", loss, run["loss_difference"]),
            (
                f"average precision on the next {late} mini-batches",
                following,
                abs(following["pipeline"] - following["loop"]),
            ),
        )
    ]
    compared.append(("parameters and memory after the run", "", "", f"{run['state_difference']:.2g}"))
    return "\n\n".join(
        (
            f"Average precision on the last {late} of {steps} mini-batches, of models that have these branches:",
            markdown(("branches", "average precision", "seeds"), precision),
            "Plans for four simulated V100s with one device per stage, beside the best chain of the same micro-batch "
            "or, in the last row, of any:",
            markdown(("micro-batch", "depth", "of the chain", "ms per mini-batch", "of the chain", "speedup"), plans),
            f"{steps} mini-batches on {run['processes']} processes, in micro-batches of {report['micro_batch']}, "
            f"in {run['dtype']}:",
            markdown(("", "pipelined", "plain loop", "largest difference"), compared),
        )
    )


def again(report: Facts) -> str:
    """Plans of all rounds, their simulated and measured times, and the gain over the first round."""
    head = ("round", "stages", "micro-batch", "ms per mini-batch, simulated", "measured", "ratio", "gain")
    first = report["rounds"][0]["measured"]
    lines = []
    for number, row in enumerate(report["rounds"], 1):
        times = (f"{row[key] * 1e3:,.0f}" for key in ("simulated", "measured"))
        stages = "; ".join(" ".join(each.replace(".", "") for each in stage) for stage in row["stages"])
        gain = f"{first / row['measured']:.2f}"
        lines.append((f"{number}", stages, f"{row['micro_batch']}", *times, f"{row['ratio']:.2f}", gain))
    return markdown(head, lines)


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
