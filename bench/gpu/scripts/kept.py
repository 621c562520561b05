"""The CPU's results that a bundle takes along, so that a machine with a GPU need not compute them."""

from __future__ import annotations

from bench.gpu.measures import resident_checks, schedules
from bench.gpu.setup import EVERY, Rows, Setup
from bench.gpu.units import NEVER, Phase, Unit


def phases(setup: Setup) -> list[Phase]:
    """A unit a result, as long as it takes; they write to the set-up's folder."""
    units = [
        *(Unit("losses", serial, (name,), seconds=NEVER) for name in resident_checks.VARIANTS),
        *(Unit("iteration", one, (kind,), seconds=NEVER) for kind in EVERY),
        *(Unit("schedule", schedule, (kind, name), seconds=NEVER) for kind in EVERY for name in ("serial", "fixed 2")),
    ]
    return [Phase("references", tuple(units), NEVER, workers=0)]


def serial(setup: Setup, name: str) -> Rows:
    """Losses and scores of a serial run."""
    yield "kept", {"name": name, "losses": len(resident_checks.serial(setup, name)["losses"])}


def one(setup: Setup, kind: str) -> Rows:
    """One iteration."""
    yield "kept", {"name": kind, "results": len(resident_checks.one(setup, kind)["truth"])}


def schedule(setup: Setup, kind: str, name: str) -> Rows:
    """Losses of a schedule with rows in host memory."""
    yield "kept", {"name": f"{kind} {name}", "losses": len(schedules.on_cpu(setup, kind, name)["losses"])}
