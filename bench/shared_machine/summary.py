"""Summary of training on a shared machine: limits, and the table of docs/measured/shared-machine.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.tables import markdown

Facts = Mapping[str, Any]
COST, SHARE = 0.03, 0.4  # limits: of the time of an idle machine; of a run's speed alone
SLOWER = {1: 1.5, 2: 3.0}  # by busy processes, limits of the time per iteration over that of an idle machine
_WORDS = {1: "one busy process", 2: "two"}


def summary(
    idle: Sequence[tuple[Facts, Facts]], beside: Mapping[int, tuple[Sequence[Facts], Sequence[Facts], Sequence[Facts]]],
    together: tuple[Sequence[Facts], Sequence[Facts]], alone: Sequence[Facts], onset: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Summarise blocks, each without and with adapting.

    Args:
        idle: pairs of blocks, one after the other.
        beside: blocks by the number of busy processes, and in turn with them blocks on the idle machine.
        together: blocks of runs at the same time; alone: those of the same runs one after the other, with adapting.
        onset: seconds from the start of a busy process to the use of fewer threads.
    """
    without, adapting = (_ms(blocks) for blocks in zip(*idle, strict=True))
    rows = [
        {
            "processes": count, "idle_ms": _ms(free), "without_ms": _ms(fixed), "with_ms": _ms(blocks),
            "ratio_without": _ms(fixed) / _ms(free), "ratio": _ms(blocks) / _ms(free),
            "threads": [each["threads"] for each in blocks],
        }
        for count, (fixed, blocks, free) in beside.items()
    ]  # fmt: skip
    runs = [
        {
            "alone_ms": one["ms"], "without_ms": fixed["ms"], "with_ms": each["ms"],
            "share_without": one["ms"] / fixed["ms"], "share": one["ms"] / each["ms"],
        }
        for one, fixed, each in zip(alone, *together, strict=True)
    ]  # fmt: skip
    cost = statistics.median(after["ms"] / before["ms"] for before, after in idle) - 1
    holds = cost <= COST and all(row["ratio"] <= SLOWER[row["processes"]] for row in rows)
    return {
        "idle": {"without_ms": without, "with_ms": adapting, "cost": cost}, "beside": rows, "together": runs,
        "onset_seconds": onset, "holds": holds and all(run["share"] >= SHARE for run in runs),
    }  # fmt: skip


def table(report: Facts) -> str:
    """Time per iteration on an idle and on a shared machine, without and with adapting the number of threads."""
    idle = report["idle"]
    lines = [("nothing", *_numbers(idle), "1", f"{1 + idle['cost']:.2f}", f"{1 + COST:g}")]
    for row in report["beside"]:
        ratios = (f"{row[key]:.2f}" for key in ("ratio_without", "ratio"))
        lines.append((_WORDS[row["processes"]], *_numbers(row), *ratios, f"{SLOWER[row['processes']]:g}"))
    for number, run in enumerate(report["together"], 1):
        ratios = (f"{1 / run[key]:.2f}" for key in ("share_without", "share"))
        lines.append((f"another training: run {number}", *_numbers(run), *ratios, f"{1 / SHARE:g}"))
    return markdown(("beside", "fixed, ms", "adapting, ms", "fixed / idle", "adapting / idle", "limit"), lines)


def _numbers(row: Facts) -> list[str]:
    return [f"{row[key]:.1f}" for key in ("without_ms", "with_ms")]


def _ms(blocks: Sequence[Facts]) -> float:
    return statistics.median(block["ms"] for block in blocks)
