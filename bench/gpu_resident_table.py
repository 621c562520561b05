"""What the resident report says of its figures: rates, shares of the floor and targets, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.gpu_timings import with_rates
from bench.roofline import Roofline

Report = dict[str, Any]


def finished(report: Report) -> Report:
    """The report with rates, what of the machine's ceilings they are, and the targets beside what was measured."""
    found = {**report, "measured": dict(report["measured"])}
    if "roofline" in found["measured"]:
        ceilings = Roofline(**found["measured"]["roofline"])
        found["measured"]["steps"] = [with_rates(row, ceilings) for row in found["measured"].get("steps", [])]
    found["targets"] = targets(found["measured"])
    return found


def targets(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The aims of a GPU of the H100's kind, what was measured (None: nothing was), and whether that meets them."""
    steps = {
        row["batch_size"]: row
        for row in measured.get("steps", [])
        if (row["stream"], row["model"], row["precision"]) == ("WIKI", "tgn", "tf32")
    }
    nodes = [row for row in measured.get("profiles", []) if (row["model"], row["batch_size"]) == ("tgn", 600)]
    ratios = [row["ratio"] for row in measured.get("pyg", []) if row["batch_size"] == 600]
    found = {
        "milliseconds an iteration, TGN on WIKI, B 600": (
            "at most", 0.20, 1e3 * steps[600]["seconds"]["p50"] if 600 in steps else None
        ),
        "events/s, TGN on WIKI, B 4000": ("at least", 8e6, steps.get(4000, {}).get("events_per_s")),
        "times PyG's TGN, B 600": ("at least", 50, ratios[0] if ratios else None),
        "graph nodes an iteration, TGN": ("at most", 40, nodes[0]["nodes"] if nodes else None),
    }  # fmt: skip
    return [
        {
            "target": name, "bound": bound, "value": value, "measured": was,
            "met": None if was is None else was <= value if bound == "at most" else was >= value,
        }
        for name, (bound, value, was) in found.items()
    ]  # fmt: skip


def show(report: Report) -> None:
    """What failed, a table with a line a stream, model, size and precision, and a line for all else."""
    measured = report["measured"]
    for check in report["correctness"]:
        if not check["passed"]:
            print("FAILED", {key: value for key, value in check.items() if key not in ("passed", "bytes_by_epoch")})
    for row in measured.get("failed", []):
        print(f"not measured: {row['part']} {row['case']}: {row['message']}")
    print(
        f"{'stream':<8}{'model':<7}{'B':>5}  {'products':<9}{'ms':>8}{'events/s':>13}{'floor':>7}{'MiB':>9}"
        f"{'distinct':>10}{'repeated':>10}"
    )
    for row in measured.get("steps", []):
        events, share = row.get("events_per_s", 0.0), row.get("share_of_floor", 0.0)
        print(
            f"{row['stream']:<8}{row['model']:<7}{row['batch_size']:>5}  {row['precision']:<9}"
            f"{1e3 * row['seconds']['p50']:8.3f}{events:13,.0f}{share:7.0%}{row['mib'].get('peak', 0):9,.0f}"
            f"{row['repeats']['distinct_nodes']:10,.0f}{row['repeats']['repeated_pairs']:10.0%}"
            f"{'' if row['captured'] else '  no graph'}{'  overflowed' if row['overflowed'] else ''}"
        )
    for row in measured.get("profiles", []):
        longest = [f"{name[:30]} {each['microseconds']:.1f}" for name, each in list(row["kernels"].items())[:4]]
        print(f"graph of {row['model']}, B {row['batch_size']}: {row['nodes']} nodes; µs: {', '.join(longest)}")
    for row in measured.get("stages", []):
        print(f"stages of {row['model']}, B {row['batch_size']}, device ms: {_listed(row['device_ms'])}")
    for row in measured.get("pyg", []):
        rates = _listed(row["events_per_s"])
        print(f"PyG, B {row['batch_size']}: ours is {row['ratio']:.1f} times as fast; events/s {rates}")
    for row in measured.get("compiled", []):
        print(f"rows in host memory, serial, ms: {_listed(row['ms'])}; failed: {row['failed'] or 'none'}")
    for row in measured.get("schedules", []):
        print(f"schedules of {row['model']}, ms: {_listed(row['ms'])}")
    for row in report["targets"]:
        was = {None: "not measured", True: "met", False: "MISSED"}[row["met"]]
        figure = "" if row["measured"] is None else f", {row['measured']:,.4g}"
        print(f"target: {row['target']}, {row['bound']} {row['value']:g}: {was}{figure}")
    for row in report["correctness"]:
        if row["check"] == "AP" and "mean" in row:
            wide = 2 * row["standard_error"]
            print(f"AP in {row['precision']}: {row['mean']:+.2f} points, two standard errors {wide:.2f}")
    failed = sum(not check["passed"] for check in report["correctness"])
    print(f"{len(report['correctness']) - failed} checks passed, {failed} failed, {len(report['skipped'])} skipped")


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure:,.4g}" for name, figure in figures.items())
