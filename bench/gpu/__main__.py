"""`python -m bench.gpu first|second|everything OUT`: runs a script and writes OUT/NAME.json as it goes."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import shlex
import sys
import time
from pathlib import Path

import torch

from bench.gpu import kit
from bench.gpu.runner import Report, head, run
from bench.gpu.setup import TARGETS, Setup
from bench.gpu.table import show

SCRIPTS = ("first", "second", "everything", "prewarm", "kept")


def main() -> int:
    """Run a script; 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    parser.add_argument("script", choices=SCRIPTS)
    parser.add_argument("out", type=Path, help="folder for the JSON")
    parser.add_argument("--kit", type=Path, help="what `bench.gpu.kit unpack` unpacked")
    parser.add_argument(
        "--references", type=Path, help="folder of the CPU's results, which `kept` fills; the kit's with one"
    )
    parser.add_argument(
        "--target", choices=TARGETS, default="cuda", help="stub: launches are faked; cpu: the interpreter"
    )
    parser.add_argument("--quick", action="store_true", help="tiny streams and no figure that means anything")
    parser.add_argument("--only", default="", help="phases, with commas between; all where left out")
    parser.add_argument("--parts", default="", help="kinds of units, with commas between; all where left out")
    parser.add_argument(
        "--seed", type=int, help="of the kernel checks' inputs; the kit's, or else the time, where left out"
    )
    parser.add_argument("--commit", help="what is measured, where git cannot say")
    parser.add_argument("--began", type=float, help="when the script was called, in seconds since 1970")
    given = parser.parse_args()
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"{given.out} is a file; name a folder")
    if given.target == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; `--target stub` fakes its launches, `--target cpu --quick` has none")
    setup, commit, seed = Setup(given.target, given.quick, references=given.references), given.commit, int(time.time())
    if given.kit is not None:
        made = kit.manifest(given.kit)
        commit, seed = commit or made["commit"], made["seed"]  # other inputs would take other kernels now and then
        setup = dataclasses.replace(setup, data=str(given.kit / "wiki.csv"), references=given.kit / kit.REFERENCES)
    setup = dataclasses.replace(setup, seed=seed if given.seed is None else given.seed)
    script = f"bench.gpu.{given.script}"
    phases = importlib.import_module(script).phases(setup)
    only, parts = (set(filter(None, text.split(","))) for text in (given.only, given.parts))
    for kind, chosen, every in (
        ("--only", only, {phase.name for phase in phases}),
        ("--parts", parts, {unit.part for phase in phases for unit in phase.units}),
    ):
        if chosen - every:
            parser.error(f"{kind} names {', '.join(sorted(chosen - every))}; there are {', '.join(sorted(every))}")
    phases = [phase for phase in phases if not only or phase.name in only]
    report = Report(given.out / f"gpu-{given.script}.json", head(setup, command(), commit), given.began)
    code = run(script, phases, setup, report, parts)
    show(report.data)
    return code


def command() -> str:
    """The command line as somebody else would write it: without the folders' places, and without the time."""
    words = [word if not Path(word).is_absolute() else Path(word).name for word in sys.argv[1:]]
    if "--began" in words:
        place = words.index("--began")
        words[place : place + 2] = []
    return f"python -m bench.gpu {shlex.join(words)}"


if __name__ == "__main__":
    raise SystemExit(main())
