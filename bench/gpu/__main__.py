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

from bench.gpu.bundle import kit
from bench.gpu.report import Report, header
from bench.gpu.scripts import prewarm
from bench.gpu.setup import TARGETS, Setup
from bench.gpu.supervisor import run
from bench.gpu.wording import show

SCRIPTS = ("first", "second", "everything", "prewarm", "kept")


def main() -> int:
    """Run a script; 1 where a check failed."""
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    parser.add_argument("script", choices=SCRIPTS)
    parser.add_argument("out", type=Path, help="folder for the JSON")
    parser.add_argument("--kit", type=Path, help="what `bench.gpu.bundle.kit unpack` unpacked")
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
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    parser.add_argument(
        "--prewarm", action="store_true", help="compile the kernels of both scripts first, side by side"
    )
    given = parser.parse_args()
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"{given.out} is a file; name a folder")
    if given.target == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; `--target stub` fakes its launches, `--target cpu --quick` needs none")
    if given.kit is not None and not (given.kit / kit.MANIFEST).exists():
        parser.error(f"{given.kit} holds no unpacked bundle; `bench/gpu/run.sh` unpacks one")
    setup, facts, seed = Setup(given.target, given.quick, references=given.references), {}, int(time.time())
    if given.kit is not None:
        made = kit.manifest(given.kit)
        facts, seed = {"bundle_commit": made["commit"]}, made["seed"]  # other inputs take other kernels now and then
        setup = dataclasses.replace(setup, data=str(given.kit / "wiki.csv"), references=given.kit / kit.REFERENCES)
    setup = dataclasses.replace(setup, seed=seed if given.seed is None else given.seed)
    script = f"bench.gpu.scripts.{given.script}"
    phases = importlib.import_module(script).phases(setup)
    only, parts = (set(filter(None, text.split(","))) for text in (given.only, given.parts))
    for kind, chosen, every in (
        ("--only", only, {phase.name for phase in phases}),
        ("--parts", parts, {unit.part for phase in phases for unit in phase.units}),
    ):
        if chosen - every:
            parser.error(f"{kind} names {', '.join(sorted(chosen - every))}; there are {', '.join(sorted(every))}")
    phases = [phase for phase in phases if not only or phase.name in only]
    if not any(not parts or unit.part in parts for phase in phases for unit in phase.units):
        parser.error(f"no phase of --only {given.only} has a unit of --parts {given.parts}; see {script}")
    if given.prewarm:
        compile_first(setup, given.out)
    path = given.out / f"gpu-{given.script}.json"
    report = Report(path, {**header(setup, command(given.kit is not None), given.commit), **facts}, given.began)
    code = run(script, phases, setup, report, parts)
    show(report.data)
    print(f"wrote {path}")
    return code


def compile_first(setup: Setup, out: Path) -> None:
    """Let a stub take the launches of both scripts, so that their kernels lie in Triton's cache."""
    launched = dataclasses.replace(setup, target="stub")
    report = Report(out / "gpu-prewarm.json", header(launched, command(True)))
    run("bench.gpu.scripts.prewarm", prewarm.phases(launched), launched, report)


def command(bundled: bool) -> str:
    """The command line as somebody else would write it: with a bundle the shell script's, and no folders."""
    words = sys.argv[1:]
    for name in ("--began", "--kit"):
        if name in words:
            place = words.index(name)
            words[place : place + 2] = []
    script, _, *rest = (word for word in words if word != "--prewarm")
    start = ["bench/gpu/run.sh", script, "OUT", "BUNDLE"] if bundled else ["python", "-m", "bench.gpu", script, "OUT"]
    return shlex.join([*start, *(Path(word).name if word.startswith("/") else word for word in rest)])


if __name__ == "__main__":
    raise SystemExit(main())
