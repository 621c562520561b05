"""Launches of both scripts through a stub, which compiles their kernels; nothing is timed or checked."""

from __future__ import annotations

from dataclasses import replace

from bench.gpu.scripts import first, second
from bench.gpu.setup import Setup
from bench.gpu.units import NO_LIMIT, Phase

# Parts that would add one kernel, none, and whichever ones tuning tries.
EXCLUSIONS = ("roofline", "pyg", "tuning")


def phases(setup: Setup) -> list[Phase]:
    """List all units in one parallel phase, without a time limit."""
    phases = [*first.phases(setup), *second.phases(setup)]
    units = [unit for phase in phases for unit in phase.units if unit.part not in EXCLUSIONS]
    return [Phase("prewarm", tuple(replace(unit, seconds=NO_LIMIT) for unit in units), NO_LIMIT, workers=0)]
