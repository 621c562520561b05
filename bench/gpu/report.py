"""The report of a GPU script: a header and sections of rows, in a JSON file that is always complete."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import torch

from bench import report as reports
from bench.gpu.setup import Setup
from bench.gpu.wording import complete, line

WRITE_INTERVAL = 2.0  # seconds between two writes of the file
TOP_SECTIONS = ("correctness", "skipped", "failed")  # outside "measured"


def header(setup: Setup, command: str, commit: str | None = None) -> dict[str, Any]:
    """First entries of a GPU script's report: the common header, the device and the script's setup."""
    note = "launches reached a stub: nothing was computed, and no time means anything"
    return {
        **reports.header(command, commit=commit),
        "device": "stub" if setup.stub else torch.cuda.get_device_name() if setup.gpu else "cpu",
        **({"note": note} if setup.stub else {}),
        "quick": setup.quick, "seed": setup.seed,
    }  # fmt: skip


class Report:
    """The report of a script; its JSON file is always complete.

    Args:
        path: of the file. head: the report's first entries.
        start: time (time.time()) at which the script was called; default: now.
    """

    def __init__(self, path: Path, head: dict[str, Any], start: float | None = None) -> None:
        self.path, self.lock, self.last_write = path, threading.Lock(), 0.0
        self.start = time.time() if start is None else start
        sections = {"phases": {}, "first_row_s": {}, **{name: [] for name in TOP_SECTIONS}, "measured": {}}
        self.data: dict[str, Any] = {**head, **sections}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def add(self, section: str, row: Any) -> None:
        """Add a row to a section; print it if it is a figure or a failed check."""
        with self.lock:
            self.data["first_row_s"].setdefault(section, time.time() - self.start)
            if section == "machine":
                self.data["machine"] |= row
            elif section == "roofline":
                self.data["measured"][section] = row
            else:
                place = self.data if section in TOP_SECTIONS else self.data["measured"]
                place.setdefault(section, []).append(row)
            try:
                text = line(section, row, self.data)
            except Exception as error:  # an error in printing must not lose the row
                text = f"{section}: cannot print this row: {type(error).__name__}: {error}"
            if text:
                print("stub: " * (self.data.get("device") == "stub") + text, flush=True)
            if time.time() - self.last_write > WRITE_INTERVAL:
                self.write()

    def write(self) -> None:
        """Replace the file with the current report in one step."""
        try:
            data = complete(self.data)
        except Exception as error:  # an error in rates or targets must not lose the rows
            data = {**self.data, "unfinished": f"{type(error).__name__}: {error}"}
        part = self.path.with_suffix(".part")
        reports.write(data, part)
        os.replace(part, self.path)
        self.last_write = time.time()

    @property
    def failures(self) -> int:
        """Number of checks that failed."""
        return sum(check["passed"] is False for check in self.data["correctness"])
