"""Text of the GPU reports: one line per figure, rates, shares of the floor, targets and a summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.gpu.measures.kernel_timings import with_rates
from bench.roofline import Roofline
from bench.variants import failures

Report = dict[str, Any]
MAX_FAILURES = 12  # failed checks that get a line


def complete(report: Report) -> Report:
    """Return the report with rates, shares of the machine's ceilings, and targets beside the measured values."""
    measured = dict(report["measured"])
    if report.get("device") == "stub":  # nothing was computed, so no time means anything
        return {**report, "targets": targets({})}
    if "roofline" in measured:
        ceilings = Roofline(**measured["roofline"])
        for section in ("steps", "timings"):
            measured[section] = [with_rates(row, ceilings) for row in measured.get(section, [])]
    return {**report, "measured": measured, "targets": targets(measured)}


def targets(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the targets for an H100-class GPU, with the measured values (or None) and whether these meet them."""
    steps = {
        row["batch_size"]: row
        for row in measured.get("steps", [])
        if (row["stream"], row["model"], row["precision"]) == ("WIKI", "tgn", "tf32")
    }
    nodes = [row for row in measured.get("profiles", []) if (row["model"], row["batch_size"]) == ("tgn", 600)]
    ratios = [row["ratio"] for row in measured.get("pyg", []) if row["batch_size"] == 600]
    figures = {
        "milliseconds per iteration, TGN on WIKI, B 600": (
            "at most", 0.20, 1e3 * steps[600]["seconds"]["p50"] if 600 in steps else None
        ),
        "events/s, TGN on WIKI, B 4000": ("at least", 8e6, rate(steps[4000]) if 4000 in steps else None),
        "speedup over PyG's TGN, B 600": ("at least", 50, ratios[0] if ratios else None),
        "graph nodes per iteration, TGN": ("at most", 40, nodes[0]["nodes"] if nodes else None),
    }  # fmt: skip
    return [
        {
            "target": name, "bound": bound, "aim": aim, "measured": value,
            "met": None if value is None else value <= aim if bound == "at most" else value >= aim,
        }
        for name, (bound, aim, value) in figures.items()
    ]  # fmt: skip


def rate(row: Mapping[str, Any]) -> float:
    """Events per second."""
    return float(row["events"] / row["seconds"]["p50"])


def line(section: str, row: Mapping[str, Any], report: Report) -> str | None:
    """Describe a row in one line for the screen: a figure, one of the first failed checks, or a missing figure."""
    if section == "correctness":
        count = sum(check["passed"] is False for check in report["correctness"])
        return _failure(row) if row["passed"] is False and count <= MAX_FAILURES else None
    if section == "failed":
        return f"not measured: {row['case']}: {row['message'][:300]}"
    return _LINES[section](row) if section in _LINES else None


def _failure(row: Mapping[str, Any]) -> str:
    keys = ("operation", "check", "model", "way", "schedule", "shape", "settings", "case", "precision")
    title = ", ".join(str(row[key]) for key in keys if row.get(key))
    cause = row.get("message") or (failures(row["results"]) if "results" in row else None)
    cause = cause or {key: row[key] for key in ("relative_error", "reason", "why", "notes", "mean") if key in row}
    return f"FAILED {title}: {cause}"[:400]


def _step(row: Mapping[str, Any]) -> str:
    suffix = ", no graph" * (not row["captured"]) + ", overflowed" * row["overflowed"]
    return (
        f"{row['stream']:<7}{row['model']:<6}B {row['batch_size']:<5}{row['precision']:<8}"
        f"{1e3 * row['seconds']['p50']:8.3f} ms{rate(row):13,.0f} events/s{suffix}"
    )


def _profile(row: Mapping[str, Any]) -> str:
    longest = [f"{name[:30]} {kernel['microseconds']:.1f}" for name, kernel in list(row["kernels"].items())[:8]]
    return (
        f"graph of {row['model']}, B {row['batch_size']}: {row['nodes']} nodes, "
        f"{1e6 * row['device_seconds']:.0f} µs of kernels: {', '.join(longest)}"
    )


def _roofline(row: Mapping[str, Any]) -> str:
    rates = ", ".join(f"{name} {value / 1e12:.0f}" for name, value in row["flops_per_s"].items())
    return (
        f"{row['device']}: copies {row['bytes_per_s'] / 1e12:.2f} TB/s, TFLOP/s {rates}, "
        f"{1e6 * row['launch_seconds']:.1f} µs per launch in a graph"
    )


def _timing(row: Mapping[str, Any]) -> str | None:
    if "seconds" not in row:
        title = " ".join(str(row[key]) for key in ("operation", "case", "variant", "direction") if key in row)
        return f"not timed: {title}: {row['skipped'][:200]}"
    if row["variant"] == "eager" or row["precision"] not in ("tf32", "float32"):
        return None
    return (
        f"{row['operation']:<20}{row['case']:<12}{row['variant']:<13}{row['direction']:<8}{row['precision']:<8}"
        f"{1e6 * row['seconds']['p50']:9.1f} µs"
    )


def _ap(row: Mapping[str, Any]) -> str:
    return f"AP in {row['precision']}: {row['mean']:+.2f} points, two standard errors {2 * row['standard_error']:.2f}"


def _host(row: Mapping[str, Any]) -> str:
    names = [name for name in ("serial", "prefetch", "mspipe", "exact") if name in row]
    speeds = [f"{name} {1e3 * row[name]['seconds_per_iteration']:.2f}" for name in names]
    return f"rows in host memory, {row['model']}, B {row['batch_size']}, ms: {', '.join(speeds)}"


def _tuned(row: Mapping[str, Any]) -> str:
    facts = row["profile"]["search"]
    gain = "none" if facts["gain"] is None else f"{facts['gain']:+.1%}, noise {facts['noise']:.1%}"
    return (
        f"tuned {row['model']}: gain {gain}, {facts['trials']} trials, shipped settings kept: {facts['shipped_kept']}"
    )


_LINES: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "roofline": _roofline, "steps": _step, "profiles": _profile, "timings": _timing, "host": _host, "tuned": _tuned,
    "precision": _ap,
    "pyg": lambda row: (
        f"PyG's TGN, B {row['batch_size']}: ours is {row['ratio']:.1f} times as fast; events/s "
        f"{_join(row['events_per_s'])}"
    ),
    "stages": lambda row: f"stages of {row['model']}, B {row['batch_size']}, device ms: {_join(row['device_ms'])}",
    "compiled": lambda row: f"rows in host memory, serial, ms: {_join(row['ms'])}; failed: {row['failed'] or 'none'}",
    "schedules": lambda row: f"schedules of {row['model']}, ms: {_join(row['ms'])}",
}  # fmt: skip


def _join(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure:,.4g}" for name, figure in figures.items())


def show(report: Report) -> None:
    """Print the targets that were measured, and the numbers of passed and failed checks."""
    for row in complete(report)["targets"]:
        if row["met"] is not None:
            result = "met" if row["met"] else "MISSED"
            print(f"target: {row['target']}, {row['bound']} {row['aim']:g}: {result}, {row['measured']:,.4g}")
    checks = [check["passed"] for check in report["correctness"]]
    counts = {
        "passed": checks.count(True),
        "failed": checks.count(False),
        "launched but not judged": checks.count(None),
    }
    counts |= {"skipped": len(report["skipped"]), "figures missing": len(report["failed"])}
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count or name in ("passed", "failed")))
