"""The rest of a quarter of an hour on a GPU: rows in host memory, the other models, precisions, tuning of TGN."""

from __future__ import annotations

from itertools import product

from bench.gpu.measures import resident_checks, resident_times, schedules, tuned
from bench.gpu.setup import ALL_MODELS, TINY, Setup
from bench.gpu.units import Phase, Unit

TUNING_SECONDS = 60.0


def phases(setup: Setup) -> list[Phase]:
    """List the phases: checks in parallel, figures one after the other, pairs of AP runs in parallel, tuning."""
    case = (TINY.name, TINY.batch) if setup.quick else ("WIKI", 600)
    checks = [
        *(
            Unit("schedules", schedules.losses, (kind, name), checks=True)
            for kind, name in product(ALL_MODELS, schedules.CHECKS)
        ),
        *(
            Unit("settings", tuned.checks, ("tgn", *choice), checks=True)
            for choice in product(("serial", "exact"), ("host", "device"), ("copy", "kernel"))
        ),
    ]
    figures = [
        *(Unit("host", schedules.speeds, (kind,), seconds=40) for kind in ALL_MODELS[: 1 if setup.quick else None]),
        *(Unit("steps", resident_times.steps, (*case, kind), seconds=40) for kind in ALL_MODELS[1:]),
    ]
    precisions = [
        Unit("precision", resident_checks.precision, (name,), checks=True, seconds=90) for name in ("tf32", "bf16")
    ]
    tuning = [Unit("tuning", tuned.tuning, ("tgn", TUNING_SECONDS), seconds=2 * TUNING_SECONDS)]
    return [
        Phase("correctness", tuple(checks), 80, workers=0),
        Phase("figures", tuple(figures), 100),
        Phase("precisions", tuple(precisions), 90, workers=2),
        Phase("tuning", tuple(tuning), 90),
    ]
