"""Comparison of the engine with its plan: stages that only sleep, planned and measured periods side by side."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.report import command, header, show
from mspipe_triton.pipeline.engine import Engine, run_serial
from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.online import guarded
from mspipe_triton.pipeline.plan import Plan, make_plan
from mspipe_triton.pipeline.schedules import stage_names

console = Console(stderr=True, highlight=False)

# Milliseconds of sample, features, memory, train and update; named after the busiest resource.
VECTORS: dict[str, tuple[float, ...]] = {
    "compute": (2, 3, 2, 6, 3),
    "sampler": (8, 2, 2, 3, 2),
    "copy_in": (2, 4, 4, 5, 3),
    "copy_out": (2, 2, 2, 3, 8),
    "copies": (3, 2, 4, 5, 6),
    "all": (7, 2, 5, 7, 7),
}
# Every stage sleeps 2 to 10 ms, and the patch of `exact` 2 ms; as a patch gathers few rows, `exact_small` has 0.2 ms.
PATCHES = {"exact": 2.0, "exact_small": 0.2}
VARIANTS = ("serial", "prefetch", "mspipe", *PATCHES)
WITHIN = 0.08
# Variants that must be this much faster than serial; the plan allows a little more.
FASTER = {"mspipe": 2.45, "exact_small": 2.45}
FASTER_ON = "compute"


@dataclass
class Sleep:
    """A sleep of `seconds` on average.

    A machine wakes a sleeping thread late, by 0.1 to 0.6 ms here. Each sleep subtracts earlier delays.
    """

    seconds: float
    late: float = 0.0

    def __call__(self) -> None:
        """Sleep."""
        start = time.perf_counter()
        time.sleep(max(0.0, self.seconds - self.late))
        self.late += (time.perf_counter() - start - self.seconds) / 8


@dataclass
class StandIns:
    """Stages that sleep for fixed times, and count the updates that a memory fetch does not see."""

    milliseconds: Mapping[str, float]
    updated: int = 0
    missed: Counter[int] = field(default_factory=Counter)

    def functions(self) -> dict[str, Callable[[int], int]]:
        """Stages by name; they pass the iteration's number on."""
        return {name: self._stage(name, Sleep(milliseconds / 1e3)) for name, milliseconds in self.milliseconds.items()}

    def _stage(self, name: str, sleep: Sleep) -> Callable[[int], int]:
        def run(iteration: int) -> int:
            if name == "memory":
                self.missed[iteration - self.updated] += 1
            sleep()
            if name == "update":
                self.updated = iteration + 1
            return iteration

        return run


@dataclass(frozen=True)
class Measurement:
    """One run: seconds per iteration, mean seconds by which a stage overslept, updates missed, and all spans."""

    period: float
    oversleep: float
    missed: Counter[int]
    spans: list[Span]


def variant_plan(variant: str, vector: tuple[float, ...]) -> Plan:
    """Plan of a variant for a vector of stage times, in milliseconds."""
    schedule = variant.partition("_")[0]
    times = dict(zip(stage_names("mspipe"), vector, strict=True))
    return make_plan(schedule, {**times, "patch": PATCHES[variant]} if schedule == "exact" else times)


def run(plan: Plan, iterations: int, warmup: int) -> Measurement:
    """Run a plan's stages as stand-ins; the period is the mean over the iterations after `warmup`."""
    times = {name: float(milliseconds) for name, milliseconds in plan.graph.times.items()}
    stand_ins, spans = StandIns(times), list[Span]()
    if plan.schedule == "serial":
        results = run_serial(plan.graph, stand_ins.functions(), range(iterations), spans.extend)
    else:
        # The same plan in seconds, the unit of the engine's delay.
        timed = make_plan(plan.schedule, {name: ms / 1e3 for name, ms in times.items()}, plan.staleness)
        engine = Engine(timed.graph, stand_ins.functions(), guarded(timed), observe=spans.extend)
        results = engine.run(range(iterations))
    assert list(results) == list(range(iterations))
    ends = [span.end for span in spans if span.stage == "update"]
    oversleep = statistics.mean(span.seconds - times[span.stage] / 1e3 for span in spans)
    return Measurement((ends[-1] - ends[warmup]) / (iterations - 1 - warmup), oversleep, stand_ins.missed, spans)


def compare(vector: tuple[float, ...], iterations: int, warmup: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Run all variants on one vector in turn, `repeats` times, and take medians."""
    plans = {variant: variant_plan(variant, vector) for variant in VARIANTS}
    runs = {variant: list[Measurement]() for variant in VARIANTS}
    for _ in range(repeats):
        for variant, plan in plans.items():
            runs[variant].append(run(plan, iterations, warmup))
    cases = {}
    for variant, plan in plans.items():
        period = statistics.median(each.period for each in runs[variant]) * 1e3
        pairs = zip(runs["serial"], runs[variant], strict=True)
        missed = sum((each.missed for each in runs[variant]), Counter[int]())
        cases[variant] = {
            "stage_ms": {name: float(milliseconds) for name, milliseconds in plan.graph.times.items()},
            "staleness": plan.staleness,
            "planned_ms": float(plan.period),
            "measured_ms": period,
            "measured_over_planned": period / float(plan.period),
            "speed": statistics.median(serial.period / each.period for serial, each in pairs),
            "planned_speed": float(plans["serial"].period / plan.period),
            "updates_missed": {str(count): missed[count] for count in sorted(missed)},
            "oversleep_ms": statistics.median(each.oversleep for each in runs[variant]) * 1e3,
        }
    return cases


def failures(cases: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Expectations that the measurement does not meet, one line each."""
    lines = []
    for vector, variants in cases.items():
        for variant, case in variants.items():
            if abs(case["measured_over_planned"] - 1) > WITHIN:
                lines.append(f"{vector}, {variant}: {case['measured_over_planned']:.3f} of the planned period")
            if max(map(int, case["updates_missed"])) > case["staleness"]:
                lines.append(f"{vector}, {variant}: a fetch missed more updates than its bound of {case['staleness']}")
            if vector == FASTER_ON and case["speed"] < FASTER.get(variant, 0):
                lines.append(f"{vector}, {variant}: {case['speed']:.2f} times serial, not {FASTER[variant]}")
    return lines


def main(
    iterations: Annotated[int, typer.Option(help="Iterations per run.")] = 90,
    warmup: Annotated[int, typer.Option(help="First iterations, which are not timed.")] = 15,
    repeats: Annotated[int, typer.Option(help="Runs per variant, in turn with the others.")] = 5,
    vector: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(VECTORS)}; default all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Measure; the table goes to stderr, JSON to stdout. Exits with 1 if a period is off or a speed is too low."""
    cases = {name: compare(VECTORS[name], iterations, warmup, repeats) for name in vector or VECTORS}
    report = {
        **header(command("bench.studies.pipeline_period")),
        "iterations": iterations, "warmup": warmup, "repeats": repeats, "cases": cases,
    }  # fmt: skip
    console.print(_table(cases))
    show(report, out)
    missed = failures(cases)
    for line in missed:
        console.print(line)
    raise typer.Exit(1 if missed else 0)


def _table(cases: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    table = Table(
        title="stages that sleep: the engine against its plan",
        caption="milliseconds per iteration; missed: updates that a fetch does not see, mean ≤ bound;\n"
        "sleep +: milliseconds that a stage oversleeps, mean",
    )
    table.add_column("busiest")
    for name in ("planned", "measured", "ratio", "× serial", "missed", "sleep +"):
        table.add_column(name, justify="right")
    for vector, variants in cases.items():
        table.add_row(f"[bold]{vector}")
        for variant, case in variants.items():
            missed = case["updates_missed"]
            mean = sum(int(count) * number for count, number in missed.items()) / sum(missed.values())
            table.add_row(
                f" {variant}",
                f"{case['planned_ms']:.1f}",
                f"{case['measured_ms']:.2f}",
                f"{case['measured_over_planned']:.3f}",
                f"{case['speed']:.2f}",
                f"{mean:.2f} ≤ {case['staleness']}",
                f"{case['oversleep_ms']:.2f}",
            )
        table.add_section()
    return table


if __name__ == "__main__":
    typer.run(main)
