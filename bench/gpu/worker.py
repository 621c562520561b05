"""A process of a GPU script: takes units by number from its input, and writes rows as lines of JSON as they come."""

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
    """Do the units whose numbers come in, one a line."""
    parser = argparse.ArgumentParser(prog="bench.gpu.worker", description=__doc__)
    parser.add_argument("script", help="module with `phases`")
    parser.add_argument("setup", type=json.loads, help="the set-up's fields")
    parser.add_argument("--phase", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--pipe", type=int, required=True, help="file descriptor of the rows")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = given.setup.pop("references")
    setup = Setup(**given.setup, references=folder and Path(folder))
    if setup.stub:
        from bench.gpu.bundle.stub import activate

        activate()
    compiled = Compilations()
    phases = importlib.import_module(given.script).phases(setup)
    units = next(phase for phase in phases if phase.name == given.phase).units
    with os.fdopen(given.pipe, "w", encoding="utf-8") as pipe:

        def write(kind: str, value: Any) -> None:
            pipe.write(json.dumps([kind, value]) + "\n")
            pipe.flush()

        write("ready", {})
        for line in sys.stdin:
            unit, start = units[int(line)], time.time()
            message = run(unit, setup, write)
            renew = setup.gpu and (unit.traced or (message is not None and unusable()))
            write("end", {"seconds": time.time() - start, "renew": renew, **compiled.since()})
            if renew:  # another process goes on
                return 0
    return 0


def run(unit: Unit, setup: Setup, write: Any) -> str | None:
    """Write a unit's rows; what it raised, in a line, or None."""
    message = None
    try:
        for section, row in unit.function(setup, *unit.case):
            write(section, row)
    except Exception as error:  # recorded; the other units go on
        message = f"{type(error).__name__}: {error}"[:600]
        write(*unit.failure(message))
    if setup.gpu:
        gc.collect()  # a session's passes refer to themselves, and hold the device's memory
        torch.cuda.empty_cache()
    return message


def unusable() -> bool:
    """True where an error has left the GPU's context broken."""
    try:
        torch.ones(1, device="cuda").sum().item()
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


class Compilations:
    """Triton's lookups in this process: how many kernels were found in its cache, and the names of those compiled."""

    def __init__(self) -> None:
        self.from_cache, self.compiled = 0, list[str]()
        if triton is not None:
            triton.knobs.compilation.listener = self

    def __call__(self, *, cache_hit: bool, metadata: dict[str, Any], **_: Any) -> None:
        """Be told of a lookup by Triton."""
        if cache_hit:
            self.from_cache += 1
        else:
            self.compiled.append(metadata["name"])

    def since(self) -> dict[str, Any]:
        """The lookups since the last call."""
        found = {"from_cache": self.from_cache, "compiled": self.compiled}
        self.from_cache, self.compiled = 0, []
        return found


def as_json(setup: Setup) -> str:
    """The set-up as `main` takes it."""
    return json.dumps(dataclasses.asdict(setup), default=str)


if __name__ == "__main__":
    raise SystemExit(main())
