"""Run a GPU script: phases in turn, units in parallel processes, each row in the report as soon as it arrives."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

from bench.gpu.report import Report
from bench.gpu.setup import Setup
from bench.gpu.units import NO_LIMIT, Phase, Unit
from bench.gpu.worker import as_json
from bench.report import ROOT

EXIT_SECONDS = 10.0  # that a process has to exit


def run(script: str, phases: list[Phase], setup: Setup, report: Report, parts: Collection[str] = ()) -> int:
    """Run the phases in turn; return 1 if a check failed, else 0.

    Args:
        script: name of the module from which the processes import the phases.
        parts: kinds of units to run; empty: all.
    """
    for phase in phases:
        start = time.time()
        # A stub runs slower than a GPU, and every unit must be tried.
        phase_run = PhaseRun(script, phase, setup, report, start + (NO_LIMIT if setup.stub else phase.seconds))
        phase_run.run(parts)
        seconds, counts = time.time() - start, phase_run.counts
        limit = None if phase.seconds == NO_LIMIT else phase.seconds
        row = {"began_s": start - report.start, "seconds": seconds, "limit": limit, **counts}
        report.data["phases"][phase.name] = row
        report.write()
        skips = f", {counts['skipped']} units skipped" if counts["skipped"] else ""
        share = "" if limit is None else f" of {limit:.0f}"
        print(
            f"{seconds:5.0f} s{share}  {phase.name}: {counts['units']} units, "
            f"{counts['compiled']} kernels compiled, {counts['from_cache']} from the cache{skips}",
            flush=True,
        )
    return 1 if report.failures else 0


class PhaseRun:
    """The run of a phase.

    Args:
        until: time after which no unit starts.
    """

    def __init__(self, script: str, phase: Phase, setup: Setup, report: Report, until: float) -> None:
        self.script, self.phase, self.setup, self.report, self.until = script, phase, setup, report, until
        self.last = until + phase.seconds / 2  # time at which running units are cut off
        self.numbers: queue.SimpleQueue[int] = queue.SimpleQueue()  # of units that have not started
        self.counts = {"units": 0, "skipped": 0, "cut_off": 0, "compiled": 0, "from_cache": 0}
        self.lock = threading.Lock()

    def run(self, parts: Collection[str] = ()) -> None:
        """Run the units, or those of some parts, in the phase's processes."""
        for number, unit in enumerate(self.phase.units):
            if not parts or unit.part in parts:
                self.numbers.put(number)
        threads = [threading.Thread(target=self._serve) for _ in range(self.phase.processes())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        """Keep a process busy, and start another when it ends."""
        process: Process | None = None
        failures = 0  # processes in a row that ended before they could run a unit
        try:
            while True:
                try:
                    number = self.numbers.get_nowait()
                except queue.Empty:
                    return
                unit = self.phase.units[number]
                if time.time() > self.until or failures > 1:
                    reason = "no time left" if failures < 2 else "processes exit before they are ready"
                    self._count(skipped=1)
                    self.report.add("skipped", {"part": unit.part, "case": unit.title, "why": reason})
                    continue
                process = process or Process(self.script, self.phase, self.setup)
                reusable = self._unit(process, unit, number)
                failures = 0 if process.ready else failures + 1
                if not reusable:
                    process.close()
                    process = None
        finally:
            if process is not None:
                process.close()

    def _unit(self, process: Process, unit: Unit, number: int) -> bool:
        """Run a unit in a process; return True if the process can run another."""
        if process.wait_until_ready(self.last):
            seconds = NO_LIMIT if self.setup.stub else unit.seconds
            for section, row in process.do(number, min(time.time() + seconds, self.last)):
                if section == "end":
                    self._count(units=1, compiled=len(row["compiled"]), from_cache=row["from_cache"])
                    if row["compiled"]:
                        self.report.add("compiled_kernels", {"case": unit.title, "names": row["compiled"]})
                    return not row["renew"]
                self.report.add(section, row)
        reason = process.reason()
        self._count(cut_off=1)
        self.report.add(*unit.failure(reason))
        return False

    def _count(self, **increments: int) -> None:
        with self.lock:
            for name, count in increments.items():
                self.counts[name] += count


class Process:
    """A worker process and the pipe of its rows."""

    def __init__(self, script: str, phase: Phase, setup: Setup) -> None:
        read, write = os.pipe()
        threads = max(1, (os.cpu_count() or 1) // phase.processes())
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {
            **os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": str(threads),
            "TRITON_INTERPRET": "1" if setup.target == "cpu" else "0", **phase.environment,
        }  # fmt: skip
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 until `close`
        options = ["--phase", phase.name, "--threads", str(threads), "--pipe", str(write)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu.worker", script, as_json(setup), *options],
            stdin=subprocess.PIPE, stdout=self.errors, stderr=subprocess.STDOUT, env=environment, pass_fds=[write],
            cwd=ROOT, text=True,
        )  # fmt: skip
        os.close(write)
        self.read, self.buffer, self.cause, self.ready = read, b"", "", False

    def wait_until_ready(self, limit: float) -> bool:
        """Wait until the process can run units; return False if it ends first, or is not ready by the time `limit`."""
        self.ready = self.ready or any(self._rows(limit))
        return self.ready

    def do(self, number: int, limit: float) -> Iterator[tuple[str, Any]]:
        """Yield a unit's rows as they arrive, until the process ends or is cut off at the time `limit`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return
        yield from self._rows(limit)

    def _rows(self, limit: float) -> Iterator[tuple[str, Any]]:
        """Yield everything that the process writes until the time `limit`."""
        while True:
            wait = min(max(0.0, limit - time.time()), 3600.0)
            if not select.select([self.read], [], [], wait)[0]:
                self.cause = "cut off at its limit"
                return
            data = os.read(self.read, 1 << 16)
            if not data:
                return
            *lines, self.buffer = (self.buffer + data).split(b"\n")
            yield from (tuple(json.loads(line)) for line in lines)

    def reason(self) -> str:
        """Return the reason that the rows stopped, and the end of the process's output."""
        if not self.cause:
            try:
                self.cause = f"exit code {self.process.wait(EXIT_SECONDS)}"
            except subprocess.TimeoutExpired:  # a driver can hang at exit
                self.cause = "hangs at exit"
        self.errors.flush()
        self.errors.seek(0)
        return f"{self.cause}\n{self.errors.read()[-2000:]}".strip()

    def close(self) -> None:
        """Kill the process and close its files."""
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        self.errors.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
