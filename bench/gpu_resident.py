"""Resident training on a GPU: what it computes is checked, then its speed is measured; writes gpu-resident.json.

`--device cpu --quick` tries the script itself; its figures then mean nothing. The report is made unit by unit, in a
process of its own, and written after each. A unit that raises is recorded and the others go on; after one that leaves
the GPU unusable, hangs or ends its process, a new process goes on.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import gpu_resident_checks as checks
from bench import gpu_resident_peers as peers
from bench import gpu_resident_times as times
from bench.gpu import ROOT, commit, gpu, versions
from bench.gpu_resident_setup import MODELS, SIZES, STREAMS, TINY, WAYS, Rows, Setup
from bench.gpu_resident_table import finished, show
from bench.machine import machine

FILE = "gpu-resident.json"
UNIT_SECONDS = 240.0  # after which a unit is taken to hang
RENEW = 77  # exit code of a process that another one should go on for


@dataclass(frozen=True)
class Unit:
    """A piece of the report that fails alone.

    Args:
        part: what `--only` names. function: called with the set-up and the case, gives the rows.
        checks: whether what it raises is a failed check, and not only a figure that is missing.
        traced: whether it may use the profiler, which can leave launches slower, so that a new process follows.
    """

    part: str
    function: Callable[..., Rows]
    case: tuple[Any, ...]
    checks: bool = False
    traced: bool = False

    @property
    def of(self) -> str:
        """The case in words."""
        return ", ".join(map(str, self.case))


def units(device: str, quick: bool) -> list[Unit]:
    """All, in their order: checks, what the targets are about, and then the rest."""
    ways = [way for way, settings in WAYS.items() if device == "cuda" or settings.captured]  # a CPU captures nothing
    beside = [way for way in ways if WAYS[way].branch]
    name, sizes, middle, others = "WIKI", SIZES, 600, [(name, size) for name in STREAMS for size in SIZES][len(SIZES) :]
    if quick:
        name, sizes, middle, others = TINY.name, (TINY.batch,), TINY.batch, []
    plan: list[tuple[str, Callable[..., Rows], list[tuple[Any, ...]]]] = [
        ("losses", checks.losses, [(variant, way) for variant in checks.VARIANTS for way in ways]),
        ("iteration", checks.iteration, [(kind,) for kind in MODELS]),
        ("waits", checks.waits, [(kind, way) for kind in MODELS for way in beside]),
        ("precision", checks.precision, [("tf32",), ("bf16",)]),
        ("roofline", times.roofline, [()]),
        ("steps", times.steps, [(name, size, "tgn") for size in sizes]),
        ("pyg", peers.pyg, [(size,) for size in ((middle,) if quick else (600, 200))]),
        ("stages", times.stages, [(name, middle, kind) for kind in MODELS]),
        ("steps", times.steps, [(name, size, kind) for kind in MODELS[1:] for size in sizes]),
        ("profile", times.profile, [(name, size, kind) for kind in MODELS for size in sizes]),
        ("compiled", peers.compiled, [()]),
        ("schedules", peers.schedules, [(kind,) for kind in MODELS[: 1 if quick else None]]),
        ("steps", times.steps, [(*at, kind) for kind in MODELS for at in others]),
    ]
    return [
        Unit(part, function, case, part in ("losses", "iteration", "waits", "precision"), part in ("waits", "profile"))
        for part, function, cases in plan
        for case in cases
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.gpu_resident", description=__doc__)
    parser.add_argument("out", type=Path, help=f"folder for {FILE}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny streams and no figure that means anything")
    parser.add_argument("--data", default="synthetic", help="the stream on which precisions are compared")
    parser.add_argument("--only", default="", help="parts, with commas between; all where left out")
    parser.add_argument("--seconds", type=float, default=480, help="begin nothing later")
    parser.add_argument("--commit", default=None, help="what is measured, where git cannot say")
    parser.add_argument("--from-unit", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.units = units(given.device, given.quick)
    parts = list(dict.fromkeys(unit.part for unit in given.units))
    unknown = set(filter(None, given.only.split(","))) - set(parts)
    if unknown:
        parser.error(f"--only names {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; `--device cpu --quick` tries the script on the CPU")
    given.units = [unit for unit in given.units if not given.only or unit.part in given.only.split(",")]
    return given


def main() -> int:
    """Start processes until every unit is done; 1 where a check failed or a process ended by itself."""
    given = arguments()
    if given.from_unit is not None:
        return work(given)
    given.out.mkdir(parents=True, exist_ok=True)
    given.until = time.time() + given.seconds
    report: dict[str, Any] = {
        "command": " ".join(["python -m bench.gpu_resident", *sys.argv[1:]]),
        "commit": given.commit or commit(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": given.quick, "machine": machine(), "versions": versions(), "correctness": [], "measured": {},
        "skipped": [], "next": 0,
    }  # fmt: skip
    write(given.out, report)
    while report["next"] < len(given.units):
        first = report["next"]
        why = supervise(given, first)
        report = json.loads((given.out / FILE).read_text(encoding="utf-8"))
        if why is None:
            continue
        ended = report.pop("running", None)
        if ended is None and report["next"] == first:  # it does not get as far as a unit
            report["next"] = len(given.units)
        report["correctness"].append({"check": "the process", "case": ended, "passed": False, "message": why})
        print(f"  {ended or 'a process'}: {why.splitlines()[0]}", flush=True)
        write(given.out, report)
    del report["next"]
    write(given.out, report)
    show(report)
    return 0 if all(check["passed"] for check in report["correctness"]) else 1


def supervise(given: argparse.Namespace, first: int) -> str | None:
    """Have a process do units from the first one on; why it ended before it should have, or None."""
    file, limit = given.out / FILE, UNIT_SECONDS
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
    if given.device == "cuda":
        environment["TRITON_INTERPRET"] = "0"
    own = ["--from-unit", str(first), "--until", str(given.until)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu_resident", *sys.argv[1:], *own], env=environment, stderr=errors
        )
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if time.time() - file.stat().st_mtime > limit:
                    break
        finally:
            hangs = process.poll() is None
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read()
    if process.returncode in (0, RENEW):
        return None
    return f"{f'cut off after {limit:.0f} s' if hangs else f'exit code {process.returncode}'}\n{said[-2000:]}"


def work(given: argparse.Namespace) -> int:
    """In a process of its own: units from the one asked for on, as far as it is good for."""
    setup = Setup(given.device, given.quick, given.data)
    report = json.loads((given.out / FILE).read_text(encoding="utf-8"))
    if setup.gpu:
        report["machine"] |= gpu()
    for number in range(given.from_unit, len(given.units)):
        unit, traced = given.units[number], number > given.from_unit and given.units[number - 1].traced
        if setup.gpu and traced and not unit.traced:
            return RENEW
        report |= {"next": number + 1, "running": f"{unit.part} {unit.of}".strip()}
        write(given.out, report)
        start = time.time()
        if start > given.until:
            report["skipped"].append({"part": unit.part, "case": unit.of, "why": "no time was left"})
            message = None
        else:
            message = add(unit, setup, report)
            print(f"{time.time() - start:5.1f} s  {report['running']}{f': {message}' if message else ''}", flush=True)
        del report["running"]
        write(given.out, report)
        if message is not None and setup.gpu and unusable():
            return RENEW
    return 0


def add(unit: Unit, setup: Setup, report: dict[str, Any]) -> str | None:
    """Add a unit's rows to the report; what it raised, in a line, or None."""
    message = None
    try:
        for section, row in unit.function(setup, *unit.case):
            rows = report if section in ("correctness", "skipped") else report["measured"]
            if section == "roofline":
                rows[section] = row
            else:
                rows.setdefault(section, []).append(row)
    except Exception as error:  # recorded; the other units go on
        message = f"{type(error).__name__}: {error}"[:600]
        row = {"case": unit.of, "message": message}
        if unit.checks:
            report["correctness"].append({"check": unit.part, **row, "passed": False})
        else:
            report["measured"].setdefault("failed", []).append({"part": unit.part, **row})
    if setup.gpu:
        gc.collect()  # a session's passes refer to themselves, and hold the device's memory
        torch.cuda.empty_cache()
    return message


def unusable() -> bool:
    """Whether an error has left the GPU's context broken."""
    try:
        torch.ones(1, device="cuda").sum().item()
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def write(out: Path, report: dict[str, Any]) -> None:
    """Put the report in the place of what was there, whole."""
    part = out / f"{FILE}.part"
    part.write_text(json.dumps(finished(report), indent=1) + "\n", encoding="utf-8")
    os.replace(part, out / FILE)


if __name__ == "__main__":
    raise SystemExit(main())
