"""The launches of both scripts, made by a stub so that their kernels are compiled; nothing is timed or judged."""

from __future__ import annotations

from dataclasses import replace

from bench.gpu.scripts import first, second
from bench.gpu.setup import Setup
from bench.gpu.units import NEVER, Phase

WITHOUT = ("roofline", "pyg", "tuning")  # of our kernels they launch one, none, and what tuning comes upon


def phases(setup: Setup) -> list[Phase]:
    """All units side by side, as long as they take."""
    phases = [*first.phases(setup), *second.phases(setup)]
    units = [unit for phase in phases for unit in phase.units if unit.part not in WITHOUT]
    return [Phase("prewarm", tuple(replace(unit, seconds=NEVER) for unit in units), NEVER, workers=0)]
