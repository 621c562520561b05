"""The beginning of every result (command, date, machine, versions), and its printing and keeping."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, str | int]:
    """Processor, cores, torch threads and platform."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(terse=True),
    }


def heading(module: str, threads: int | None = None) -> dict[str, Any]:
    """The beginning of a result: the command that makes it, the date, the machine, the versions.

    Args:
        module: of the command, as in "bench.peers". threads: that were measured with, where torch has another number.
    """
    from mspipe_triton.training.trainer import versions  # which loads all that training needs

    words = (word.rpartition("data/")[2] for word in sys.argv[1:])  # where the streams lie is this machine's affair
    own = {} if threads is None else {"threads": threads}
    return {
        "command": " ".join(["python -m", module, *words]), "date": time.strftime("%Y-%m-%d"),
        "machine": {**machine(), **own}, "versions": versions(),
    }  # fmt: skip


def show(report: dict[str, Any], out: Path | None) -> None:
    """Print a result as JSON, and keep it where a file is named."""
    if out is not None:
        keep(report, out)
    print(json.dumps(report, indent=1))


def keep(report: dict[str, Any], out: Path) -> None:
    """Write a result as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
