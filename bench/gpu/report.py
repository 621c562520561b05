"""The report of a GPU script: a header and sections of rows, in a JSON file that is whole at any time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import torch

from bench import report as reports
from bench.gpu.setup import Setup
from bench.gpu.wording import finished, line

WRITES = 2.0  # seconds between two versions of the file
REPORTED = ("correctness", "skipped", "failed")  # sections beside what is measured


def header(setup: Setup, command: str, commit: str | None = None) -> dict[str, Any]:
    """The first entries of a GPU script's report: those of every report, the device, and how the script was set up."""
    note = "launches reached a stub: nothing was computed, and no time means anything"
    return {
        **reports.header(command, commit=commit),
        "device": "stub" if setup.stub else torch.cuda.get_device_name() if setup.gpu else "cpu",
        **({"note": note} if setup.stub else {}),
        "quick": setup.quick, "seed": setup.seed,
    }  # fmt: skip


class Report:
    """A script's JSON, which is whole at any time.

    Args:
        path: of the file. head: what stands in it from the start.
        began: the time (time.time()) at which the script was called; now where left out.
    """

    def __init__(self, path: Path, head: dict[str, Any], began: float | None = None) -> None:
        self.path, self.lock, self.written = path, threading.Lock(), 0.0
        self.began = time.time() if began is None else began
        own = {"phases": {}, "first_row_s": {}, **{name: [] for name in REPORTED}, "measured": {}}
        self.data: dict[str, Any] = {**head, **own}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def add(self, section: str, row: Any) -> None:
        """Add a row; a failed check and a figure are told on the screen."""
        with self.lock:
            self.data["first_row_s"].setdefault(section, time.time() - self.began)
            if section == "machine":
                self.data["machine"] |= row
            elif section == "roofline":
                self.data["measured"][section] = row
            else:
                place = self.data if section in REPORTED else self.data["measured"]
                place.setdefault(section, []).append(row)
            try:
                text = line(section, row, self.data)
            except Exception as error:  # a row that is recorded must not be lost for the words about it
                text = f"{section}: no words for this row: {type(error).__name__}: {error}"
            if text:
                print("stub: " * (self.data.get("device") == "stub") + text, flush=True)
            if time.time() - self.written > WRITES:
                self.write()

    def write(self) -> None:
        """Put the report in the place of what was there, whole."""
        try:
            data = finished(self.data)
        except Exception as error:  # rows must not be lost for what is derived from them
            data = {**self.data, "unfinished": f"{type(error).__name__}: {error}"}
        part = self.path.with_suffix(".part")
        reports.write(data, part)
        os.replace(part, self.path)
        self.written = time.time()

    @property
    def failures(self) -> int:
        """The number of checks that failed."""
        return sum(check["passed"] is False for check in self.data["correctness"])
