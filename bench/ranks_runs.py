"""Tables of runs on several ranks: beside their simulation and one rank, their speed, and the end of a rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.tables import markdown

Facts = Mapping[str, Any]
WAYS = {
    "launcher": "`--nproc`", "torchrun": "torchrun", "torchrun, restarts": "torchrun `--max-restarts 1`",
}  # fmt: skip
STAGES = ("sample", "train", "forward", "backward", "exchange", "update")


def sleeping(report: Facts) -> str:
    """Three tables of ranks that sleep: periods beside the plan, those on a slow link, and the exchanges' times."""
    head = ("schedule", "ranks", "s", "planned", "measured", "ratio", "speed, planned", "speed, measured")
    lines = [
        (schedule, count, *_period(case))
        for schedule, cases in report["cases"].items()
        for count, case in cases.items()
    ]  # fmt: skip
    gain = report["gain"]
    slow = [(schedule, f"{report['slow_ranks']}", *_period(case)) for schedule, case in report["slow_link"].items()]
    costs = [
        (count, *(f"{times[name]:.2f}" for name in ("start", "gather", "reduce")))
        for count, times in report["costs_ms"].items()
        if int(count) > 1
    ]
    return "\n\n".join(
        (
            "Milliseconds per iteration, and the speed relative to one rank:",
            markdown(head, lines),
            f"The same if the exchange takes {report['link_ms']:g} ms longer, and the speed relative to `exact`:",
            markdown(head, slow),
            f"Of staleness, the planner promises {gain['planner']:.2f} times the speed of `exact`, and it gained "
            f"{gain['measured']:.2f}.",
            "The exchanges alone, in ms:",
            markdown(("ranks", "start of the all-gather", "all-gather", "all-reduce"), costs),
        )
    )


def equal(report: Facts) -> str:
    """Two tables of ranks beside one rank: the largest relative differences, and bytes per iteration."""
    errors, traffic = [], []
    for row in report["runs"]:
        if row["ranks"] > 1:
            key = (row["stream"], row["model"], row["schedule"], f"{row['ranks']}")
            errors.append((*key, f"{row['iterations']}", *_errors(row)))
            if row["schedule"] == "serial":
                bytes_ = (f"{row[name]:,.0f}" for name in ("gathered", "formula", "reduced"))
                traffic.append((row["stream"], row["model"], f"{row['ranks']}", *bytes_))
    errors.append(("largest", "", "", "", "", *_errors(report["largest"])))
    errors.append(("limit", "", "", "", "", *[f"{report['tolerance']:.0e}"] * 3))
    head = ("stream", "model", "schedule", "ranks", "iterations", "losses", "weights", "node state")
    columns = ("stream", "model", "ranks", "gathered", "formula", "gradients")
    return "\n\n".join(
        (
            "Largest differences from one rank:",
            markdown(head, errors),
            "Bytes that a rank receives per iteration, its own included; `exact` exchanges the same:",
            markdown(columns, traffic),
        )
    )


def speed(report: Facts) -> str:
    """Speed of runs on this machine, and the stages' milliseconds per iteration."""
    head = (
        "batch size", "schedule", "ranks × threads", "events/s", "ratio", "ms per iteration", *STAGES,
        "all-reduce, in backward", "share of exchanges",
    )  # fmt: skip
    lines = []
    for row in report["runs"]:
        stages = (f"{row['stage_seconds'][name] * 1e3:.1f}" if name in row["stage_seconds"] else "" for name in STAGES)
        several = row["ranks"] > 1
        lines.append((
            f"{row['batch_size']:,}", row["schedule"], f"{row['ranks']} × {row['threads']}",
            f"{row['events_per_s']:,.0f}", f"{row['ratio']:.2f}", f"{row['seconds'] * 1e3:.1f}", *stages,
            f"{row['reduce_seconds'] * 1e3:.1f}" if several else "", f"{row['exchange_share']:.0%}" if several else "",
        ))  # fmt: skip
    return markdown(head, lines)


def deaths(report: Facts) -> str:
    """Runs whose rank is killed, by the way in which they start."""
    head = ("started by", "rank", "last survivor ended after, s", "named", "resumed by", "largest difference", "s lost")
    lines = [
        (
            WAYS[row["way"]], f"{row['rank']}", f"{row['seconds']:.1f}", "yes" if row["named"] else "no",
            "`--resume`" if row["seconds_lost"] is None else "itself", _error(row["difference"]),
            "" if row["seconds_lost"] is None else f"{row['seconds_lost']:.1f}",
        )
        for row in report["runs"]
    ]  # fmt: skip
    return markdown(head, lines)


def _period(case: Facts) -> tuple[str, ...]:
    periods = (f"{case[key]:.1f}" for key in ("planned_ms", "measured_ms"))
    speeds = (f"{case[key]:.2f}" for key in ("measured_over_planned", "planned_speed", "speed"))
    return (f"{case['staleness']}", *periods, *speeds)


def _errors(row: Facts) -> tuple[str, ...]:
    return tuple(_error(row[key]) for key in ("losses", "weights", "state"))


def _error(value: float) -> str:
    return f"{value:.1e}" if value else "0"
