"""Reports of measurements: the header (command, date, commit, machine, versions), printed and written as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mspipe_triton.kernels.runtime.launch import triton

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def command(module: str) -> str:
    """The command of this process as a user would type it: `python -m MODULE` and its arguments, without folders."""
    words = (word.rpartition("data/")[2] for word in sys.argv[1:])
    return " ".join(["python -m", module, *words])


def header(text: str, threads: int | None = None, commit: str | None = None) -> dict[str, Any]:
    """The first entries of every report.

    Args:
        text: the command, as in `command("bench.studies.peers")`.
        threads: torch threads of the measurement, if not this process's number.
        commit: the commit, if git does not know it.
    """
    facts = {} if threads is None else {"threads": threads}
    return {
        "command": text, "date": time.strftime("%Y-%m-%d"), "commit": commit or checkout(),
        "machine": {**machine(), **facts}, "versions": versions(),
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, cores, torch threads and platform, and the GPU if torch can use one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(), "platform": platform.platform(terse=True),
        **(gpu() if torch.cuda.is_available() else {}),
    }  # fmt: skip


def gpu() -> dict[str, Any]:
    """Name, driver, compute capability, multiprocessors and memory of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {
        "device": properties.name, "driver": driver, "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count, "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": properties.L2_cache_size / 2**20,
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions that a figure depends on."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda),
        "triton": "none" if triton is None else triton.__version__,
    }  # fmt: skip


def checkout() -> str:
    """The checkout's commit, with "+" where files differ from it, or "unknown"."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


def as_text(report: Mapping[str, Any], by_line: str | None = None) -> str:
    """A report as JSON, with one line per entry of its list `by_line`."""
    rows = report.get(by_line, []) if by_line else []
    if not rows:
        return json.dumps(report, indent=1) + "\n"
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    text = json.dumps({**report, by_line: ["ROWS"]}, indent=1)
    return text.replace('"ROWS"', lines) + "\n"


def write(report: Mapping[str, Any], path: Path, by_line: str | None = None) -> None:
    """Write a report as the JSON of `as_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_text(report, by_line), encoding="utf-8")


def show(report: Mapping[str, Any], path: Path | None) -> None:
    """Print a report as JSON, and write it to `path` if there is one."""
    if path is not None:
        write(report, path)
    print(as_text(report), end="")
