"""CPU results for a bundle, so that the machine with a GPU need not compute them."""

from __future__ import annotations

from bench.gpu.measures import resident_checks, schedules
from bench.gpu.setup import ALL_MODELS, Rows, Setup
from bench.gpu.units import NO_LIMIT, Phase, Unit


def phases(setup: Setup) -> list[Phase]:
    """List one unit per result, without a time limit; each writes to the folder `setup.references`."""
    units = [
        *(Unit("losses", serial_run, (name,), seconds=NO_LIMIT) for name in resident_checks.VARIANTS),
        *(Unit("iteration", iteration, (kind,), seconds=NO_LIMIT) for kind in ALL_MODELS),
        *(
            Unit("schedule", schedule, (kind, name), seconds=NO_LIMIT)
            for kind in ALL_MODELS
            for name in ("serial", "fixed 2")
        ),
    ]
    return [Phase("references", tuple(units), NO_LIMIT, workers=0)]


def serial_run(setup: Setup, name: str) -> Rows:
    """Compute losses and scores of a serial run."""
    yield "kept", {"name": name, "losses": len(resident_checks.serial_run(setup, name)["losses"])}


def iteration(setup: Setup, kind: str) -> Rows:
    """Compute the results of one iteration."""
    yield "kept", {"name": kind, "results": len(resident_checks.reference_iteration(setup, kind)["truth"])}


def schedule(setup: Setup, kind: str, name: str) -> Rows:
    """Compute the losses of a schedule with rows in host memory."""
    yield "kept", {"name": f"{kind} {name}", "losses": len(schedules.on_cpu(setup, kind, name)["losses"])}
