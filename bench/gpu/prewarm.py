"""The launches of the first script, made by a stub so that their kernels are compiled; nothing is timed or judged."""

from __future__ import annotations

from dataclasses import replace

from bench.gpu import first
from bench.gpu.setup import Setup
from bench.gpu.units import Phase

WITHOUT = ("roofline", "pyg")  # launch none of our kernels, but for one that is compiled in a moment
NEVER = float("inf")


def phases(setup: Setup) -> list[Phase]:
    """All units side by side, as long as they take."""
    units = [unit for phase in first.phases(setup) for unit in phase.units if unit.part not in WITHOUT]
    return [Phase("prewarm", tuple(replace(unit, seconds=NEVER) for unit in units), NEVER, workers=0)]
