"""Runs a GPU script: its phases in turn, their units over processes, every row in the report as soon as it is there."""

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
from bench.gpu.units import NEVER, Phase, Unit
from bench.gpu.worker import as_json
from bench.report import ROOT

ENDING = 10.0  # seconds that a process has to end in


def run(script: str, phases: list[Phase], setup: Setup, report: Report, parts: Collection[str] = ()) -> int:
    """Run the phases in turn; 1 where a check failed.

    Args:
        script: module that the processes take the phases from, by name.
        parts: of the units, the kinds to run; all where there are none.
    """
    for phase in phases:
        start = time.time()
        # A stub takes longer for what it fakes, and all of it is to be tried.
        running = Running(script, phase, setup, report, start + (NEVER if setup.stub else phase.seconds))
        running.run(parts)
        taken = time.time() - start
        limit = None if phase.seconds == NEVER else phase.seconds
        row = {"began_s": start - report.began, "seconds": taken, "limit": limit, **running.counts}
        report.data["phases"][phase.name] = row
        report.write()
        late = f", {running.counts['skipped']} units skipped" if running.counts["skipped"] else ""
        within = "" if limit is None else f" of {limit:.0f}"
        print(
            f"{taken:5.0f} s{within}  {phase.name}: {running.counts['units']} units, "
            f"{running.counts['compiled']} kernels compiled, {running.counts['from_cache']} from the cache{late}",
            flush=True,
        )
    return 1 if report.failures else 0


class Running:
    """A phase under way.

    Args:
        until: nothing begins later.
    """

    def __init__(self, script: str, phase: Phase, setup: Setup, report: Report, until: float) -> None:
        self.script, self.phase, self.setup, self.report, self.until = script, phase, setup, report, until
        self.last = until + phase.seconds / 2  # when what still runs is cut off
        self.left: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.counts = {"units": 0, "skipped": 0, "cut_off": 0, "compiled": 0, "from_cache": 0}
        self.lock = threading.Lock()

    def run(self, parts: Collection[str] = ()) -> None:
        """Take the units, or those of some parts, through the processes."""
        for number, unit in enumerate(self.phase.units):
            if not parts or unit.part in parts:
                self.left.put(number)
        threads = [threading.Thread(target=self._serve) for _ in range(self.phase.processes())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        """Keep a process busy, and start another where it ended."""
        process: Process | None = None
        broken = 0  # processes in a row that ended before they could take a unit
        try:
            while True:
                try:
                    number = self.left.get_nowait()
                except queue.Empty:
                    return
                unit = self.phase.units[number]
                if time.time() > self.until or broken > 1:
                    why = "no time was left" if broken < 2 else "processes end as they start"
                    self._count(skipped=1)
                    self.report.add("skipped", {"part": unit.part, "case": unit.title, "why": why})
                    continue
                process = process or Process(self.script, self.phase, self.setup)
                goes_on = self._unit(process, unit, number)
                broken = 0 if process.started else broken + 1
                if not goes_on:
                    process.close()
                    process = None
        finally:
            if process is not None:
                process.close()

    def _unit(self, process: Process, unit: Unit, number: int) -> bool:
        """Have a process do a unit; True where it is good for another."""
        if process.starts(self.last):
            seconds = NEVER if self.setup.stub else unit.seconds
            for section, row in process.do(number, min(time.time() + seconds, self.last)):
                if section == "end":
                    self._count(units=1, compiled=len(row["compiled"]), from_cache=row["from_cache"])
                    if row["compiled"]:
                        self.report.add("compiled_kernels", {"case": unit.title, "names": row["compiled"]})
                    return not row["renew"]
                self.report.add(section, row)
        why = process.reason()
        self._count(cut_off=1)
        self.report.add(*unit.failure(why))
        return False

    def _count(self, **more: int) -> None:
        with self.lock:
            for name, count in more.items():
                self.counts[name] += count


class Process:
    """A worker and the pipe that its rows come through."""

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
        self.read, self.buffer, self.why, self.started = read, b"", "", False

    def starts(self, limit: float) -> bool:
        """Wait until it can take units; False where it ends before, or does not get there by a time."""
        self.started = self.started or any(self._rows(limit))
        return self.started

    def do(self, number: int, limit: float) -> Iterator[tuple[str, Any]]:
        """The rows of a unit as they come; they stop where the process ends, or is cut off at a time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return
        yield from self._rows(limit)

    def _rows(self, limit: float) -> Iterator[tuple[str, Any]]:
        """All that it writes until a time."""
        while True:
            wait = min(max(0.0, limit - time.time()), 3600.0)
            if not select.select([self.read], [], [], wait)[0]:
                self.why = "cut off at its limit"
                return
            found = os.read(self.read, 1 << 16)
            if not found:
                return
            *lines, self.buffer = (self.buffer + found).split(b"\n")
            yield from (tuple(json.loads(each)) for each in lines)

    def reason(self) -> str:
        """The reason that it gave no more rows, and the end of what it said."""
        if not self.why:
            try:
                self.why = f"exit code {self.process.wait(ENDING)}"
            except subprocess.TimeoutExpired:  # a driver that hangs while it is left
                self.why = "hangs at its end"
        self.errors.flush()
        self.errors.seek(0)
        return f"{self.why}\n{self.errors.read()[-2000:]}".strip()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        self.errors.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
