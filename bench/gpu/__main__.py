"""Run a GPU script: `python -m bench.gpu first|second|everything OUT` writes OUT/gpu-NAME.json as it goes."""

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
    """Run a script and return its exit code: 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    parser.add_argument("script", choices=SCRIPTS)
    parser.add_argument("out", type=Path, help="folder for the JSON")
    parser.add_argument("--kit", type=Path, help="folder to which `bench.gpu.bundle.kit` unpacked a bundle")
    parser.add_argument(
        "--data", default="synthetic", help="stream for the comparison of precisions; with --kit, its wiki.csv is used"
    )
    parser.add_argument(
        "--references", type=Path, help="folder of CPU results, which `kept` fills; with --kit, the kit's are used"
    )
    parser.add_argument(
        "--target", choices=TARGETS, default="cuda", help="stub: fake launches; cpu: Triton's interpreter"
    )
    parser.add_argument("--quick", action="store_true", help="tiny streams, whose figures mean nothing")
    parser.add_argument("--only", default="", help="phases, separated by commas; default: all")
    parser.add_argument("--parts", default="", help="kinds of units, separated by commas; default: all")
    parser.add_argument("--seed", type=int, help="of the kernel checks' inputs; default: the kit's, or the time")
    parser.add_argument("--commit", help="commit to report, where git cannot tell it")
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--prewarm", action="store_true", help="compile the kernels of both scripts first, in parallel")
    arguments = parser.parse_args()
    if arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"{arguments.out} is a file; name a folder")
    if arguments.target == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; `--target stub` fakes its launches, `--target cpu --quick` needs none")
    if arguments.kit is not None and not (arguments.kit / kit.MANIFEST).exists():
        parser.error(f"{arguments.kit} holds no unpacked bundle; `bench/gpu/run.sh` unpacks one")
    setup = Setup(arguments.target, arguments.quick, arguments.data, arguments.references)
    facts, seed = {}, int(time.time())
    if arguments.kit is not None:
        manifest = kit.manifest(arguments.kit)
        facts, seed = {"bundle_commit": manifest["commit"]}, manifest["seed"]  # another seed may need other kernels
        setup = dataclasses.replace(
            setup, data=str(arguments.kit / "wiki.csv"), references=arguments.kit / kit.REFERENCES
        )
    setup = dataclasses.replace(setup, seed=seed if arguments.seed is None else arguments.seed)
    script = f"bench.gpu.scripts.{arguments.script}"
    phases = importlib.import_module(script).phases(setup)
    only, parts = (set(filter(None, text.split(","))) for text in (arguments.only, arguments.parts))
    for option, names, choices in (
        ("--only", only, {phase.name for phase in phases}),
        ("--parts", parts, {unit.part for phase in phases for unit in phase.units}),
    ):
        if names - choices:
            unknown, valid = (", ".join(sorted(group)) for group in (names - choices, choices))
            parser.error(f"{option} does not know {unknown}; choose from {valid}")
    phases = [phase for phase in phases if not only or phase.name in only]
    if not any(not parts or unit.part in parts for phase in phases for unit in phase.units):
        parser.error(
            f"--only {arguments.only} has no units of --parts {arguments.parts}; {script} lists the units of each phase"
        )
    if arguments.prewarm:
        compile_first(setup, arguments.out)
    path = arguments.out / f"gpu-{arguments.script}.json"
    report = Report(
        path, {**header(setup, command(arguments.kit is not None), arguments.commit), **facts}, arguments.began
    )
    code = run(script, phases, setup, report, parts)
    show(report.data)
    print(f"wrote {path}")
    return code


def compile_first(setup: Setup, out: Path) -> None:
    """Compile the kernels of both scripts into Triton's cache by launching them through a stub."""
    stub_setup = dataclasses.replace(setup, target="stub")
    report = Report(out / "gpu-prewarm.json", header(stub_setup, command(True)))
    run("bench.gpu.scripts.prewarm", prewarm.phases(stub_setup), stub_setup, report)


def command(bundle: bool) -> str:
    """Return the command line for the report: without folders, and with a bundle as a call of `run.sh`."""
    words = sys.argv[1:]
    for name in ("--began", "--kit"):
        if name in words:
            index = words.index(name)
            words[index : index + 2] = []
    script, _, *rest = (word for word in words if word != "--prewarm")
    start = ["bench/gpu/run.sh", script, "OUT", "BUNDLE"] if bundle else ["python", "-m", "bench.gpu", script, "OUT"]
    return shlex.join([*start, *(Path(word).name if word.startswith("/") else word for word in rest)])


if __name__ == "__main__":
    raise SystemExit(main())
