"""Worker process of a GPU script: reads numbers of units from its input, and writes each row as a line of JSON."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.gpu.setup import Setup
from bench.gpu.units import Unit
from mspipe_triton.kernels.runtime.launch import triton


def main() -> int:
    """Run the units whose numbers arrive, one per line."""
    parser = argparse.ArgumentParser(prog="bench.gpu.worker", description=__doc__)
    parser.add_argument("script", help="module with `phases`")
    parser.add_argument("setup", type=json.loads, help="fields of the setup, as JSON")
    parser.add_argument("--phase", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--pipe", type=int, required=True, help="file descriptor of the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = arguments.setup.pop("references")
    setup = Setup(**arguments.setup, references=folder and Path(folder))
    if setup.stub:
        from bench.gpu.bundle.stub import activate

        activate()
    compilations = Compilations()
    phases = importlib.import_module(arguments.script).phases(setup)
    units = next(phase for phase in phases if phase.name == arguments.phase).units
    with os.fdopen(arguments.pipe, "w", encoding="utf-8") as pipe:

        def write(kind: str, value: Any) -> None:
            pipe.write(json.dumps([kind, value]) + "\n")
            pipe.flush()

        write("ready", {})
        for line in sys.stdin:
            unit, start = units[int(line)], time.time()
            message = run(unit, setup, write)
            renew = setup.gpu and (unit.traced or (message is not None and unusable()))
            write("end", {"seconds": time.time() - start, "renew": renew, **compilations.since()})
            if renew:  # another process takes over
                return 0
    return 0


def run(unit: Unit, setup: Setup, write: Any) -> str | None:
    """Write a unit's rows; return its error in one line, or None."""
    message = None
    try:
        for section, row in unit.function(setup, *unit.case):
            write(section, row)
    except Exception as error:  # goes into the report; the other units still run
        message = f"{type(error).__name__}: {error}"[:600]
        write(*unit.failure(message))
    if setup.gpu:
        gc.collect()  # a session's passes are reference cycles that hold device memory
        torch.cuda.empty_cache()
    return message


def unusable() -> bool:
    """Return True if an error has broken the GPU's context."""
    try:
        torch.ones(1, device="cuda").sum().item()
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


class Compilations:
    """Triton's cache lookups in this process: the number of hits, and the names of the kernels that were compiled."""

    def __init__(self) -> None:
        self.hits, self.names = 0, list[str]()
        if triton is not None:
            triton.knobs.compilation.listener = self

    def __call__(self, *, cache_hit: bool, metadata: dict[str, Any], **_: Any) -> None:
        """Count a lookup; Triton calls this."""
        if cache_hit:
            self.hits += 1
        else:
            self.names.append(metadata["name"])

    def since(self) -> dict[str, Any]:
        """Return the lookups since the last call."""
        lookups = {"from_cache": self.hits, "compiled": self.names}
        self.hits, self.names = 0, []
        return lookups


def as_json(setup: Setup) -> str:
    """Convert the setup to JSON, as `main` reads it."""
    return json.dumps(dataclasses.asdict(setup), default=str)


if __name__ == "__main__":
    raise SystemExit(main())
