"""Make the bundle for a machine with a GPU: compiled kernels, references, packages that may be missing, two streams.

`python3 -m bench.gpu.bundle OUT` needs Python 3.12 (`--python`), a C compiler, and some gigabytes for an environment
with that machine's versions. It runs for about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu.bundle import kit

ROOT = Path(__file__).resolve().parents[3]
PYTHON = "3.12"
VERSIONS = ("torch==2.11.0", "triton==3.6.0")
# The machine must have PACKAGES; those of WHEELS that it lacks are installed from the bundle.
PACKAGES = ("numpy", "pyarrow", "typer", "rich", "torchmetrics", "torch-geometric")
WHEELS = ("tomli_w", "optuna", "alembic", "mako", "sqlalchemy", "colorlog", "platformdirs")
MAX_MIB = 60
SEED = 0  # of the kernel checks' inputs, on which some kernels' specialisations depend


def main() -> int:
    """Make the bundle; the exit code is 1 if a part fails or the bundle is too large."""
    parser = argparse.ArgumentParser(prog="bench.gpu.bundle", description=__doc__)
    parser.add_argument("out", type=Path, help="the bundle's folder, new or empty")
    parser.add_argument("--python", default="python3.12", help="Python of the version on the machine with the GPU")
    parser.add_argument("--venv", type=Path, help="environment to create or reuse; default: a temporary one")
    parser.add_argument("--cache", type=Path, help="Triton cache to start from and keep; default: a temporary one")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of wiki.csv and uci.csv"
    )
    parser.add_argument("--commit", help="commit to report, where git cannot tell it")
    arguments = parser.parse_args()
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        parser.error(f"{arguments.out} is a file or not empty; name another folder")
    if version(arguments.python) != PYTHON:
        parser.error(f"{arguments.python} is not Python {PYTHON}; name a Python {PYTHON} with --python")
    missing = [name for name in ("wiki.csv", "uci.csv") if not (arguments.data / name).exists()]
    if missing:
        parser.error(f"{arguments.data} has no {' and no '.join(missing)}; name the folder that has them with --data")
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        work, out = Path(folder), arguments.out.resolve()
        python = environment(arguments.python, arguments.venv or work / "venv")
        out.mkdir(parents=True, exist_ok=True)
        for name in ("wiki.csv", "uci.csv"):
            shutil.copyfile(arguments.data / name, out / name)
        command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(out / kit.WHEELS), *WHEELS], check=True)
        cache = arguments.cache.resolve() if arguments.cache else work / "cache"
        scripts(python, out, work, cache)
        facts = {"command": "python3 -m bench.gpu.bundle BUNDLE", "seed": SEED, **describe(python, arguments.commit)}
        facts["kernels"] = kit.pack(cache, out / kit.CACHE)
    facts["mib"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
    facts["seconds"] = time.time() - start
    (out / kit.MANIFEST).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    size = f"{facts['mib']:.1f} MiB of at most {MAX_MIB}"
    print(f"{arguments.out}: {facts['kernels']} kernels, {size}, {facts['seconds']:.0f} s")
    return int(facts["mib"] > MAX_MIB)


def version(python: str) -> str | None:
    """Return the version of a Python, such as "3.12", or None if it does not run."""
    text = "import sys; print(*sys.version_info[:2], sep='.')"
    try:
        return subprocess.run([python, "-c", text], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(python: str, folder: Path) -> str:
    """Return the Python of an environment with the GPU machine's versions; create the environment if needed."""
    executable = folder / "bin" / "python"
    if not executable.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        install = [str(executable), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*install, *VERSIONS, *PACKAGES, *WHEELS], check=True)
    return str(executable)


def scripts(python: str, out: Path, work: Path, cache: Path) -> None:
    """Compute the references, and compile every kernel that the first and second scripts launch."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    for script, target in (("kept", "cpu"), ("prewarm", "stub")):
        options = ["--target", target, "--references", str(out / kit.REFERENCES), "--seed", str(SEED)]
        options += ["--data", str(out / "wiki.csv")]  # as the kit's on the machine with the GPU
        command = [python, "-m", "bench.gpu", script, str(work), *options]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
        report = json.loads((work / f"gpu-{script}.json").read_text(encoding="utf-8"))
        if report["failed"]:
            raise RuntimeError(f"bench.gpu.bundle: {script}: {report['failed'][0]}")


def describe(python: str, commit: str | None) -> dict[str, Any]:
    """Return the manifest's commit, machine, versions and cache keys."""
    modules = {
        "json": "dumps",
        "bench.gpu.bundle.kit": "keys",
        "bench.report": "checkout, machine, versions",
    }
    text = "\n".join(f"from {module} import {names}" for module, names in modules.items())
    text += "\nprint(dumps([checkout(), machine(), versions(), keys()]))"
    run = subprocess.run(
        [python, "-c", text], check=True, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    head, machine, versions, keys = json.loads(run.stdout.splitlines()[-1])
    return {"commit": commit or head, "machine": machine, "versions": versions, "keys": keys}


if __name__ == "__main__":
    sys.exit(main())
