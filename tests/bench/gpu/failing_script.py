"""A script for the supervisor's tests: units that pass, raise, hang, end their process, or never let it exit."""

from __future__ import annotations

import os
import time

from bench.gpu.setup import Rows, Setup
from bench.gpu.units import Phase, Unit


def passes(setup: Setup, name: str) -> Rows:
    yield "correctness", {"check": "fine", "case": name, "passed": True}


def breaks(setup: Setup) -> Rows:
    yield "figures", {"before": "it raises"}
    raise RuntimeError("no such luck")


def hangs(setup: Setup) -> Rows:
    yield "figures", {"before": "it hangs"}
    time.sleep(600)


def ends(setup: Setup) -> Rows:
    yield "figures", {"before": "it ends"}
    os.write(2, b"where it was\n")
    os._exit(3)


def lingers(setup: Setup) -> Rows:
    yield "figures", {"before": "it lingers"}
    os.closerange(3, 256)
    time.sleep(600)


def phases(setup: Setup) -> list[Phase]:
    """List a phase with every way to end, a phase with parallel units, and a phase that is already over."""
    fine = tuple(Unit("fine", passes, (name,)) for name in "abc")
    mixed = (Unit("figure", breaks), Unit("check", breaks, checks=True), Unit("ends", ends, checks=True), fine[0])
    return [
        Phase("mixed", (*mixed, Unit("hangs", hangs, seconds=1.0), Unit("lingers", lingers), *fine[1:]), 300),
        Phase("several", fine, 300, workers=2),
        Phase("late", fine, -1.0),
    ]
