"""Makes the folder that a machine with a GPU is given: compiled kernels, references, missing packages, two streams.

`python3 -m bench.gpu.bundle OUT` needs Python 3.12 (`--python`), a C compiler, and some gigabytes for an environment
of the versions that the machine has. It takes about a quarter of an hour on two cores.
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
from bench.report import ROOT, write

PYTHON = "3.12"
VERSIONS = ("torch==2.11.0", "triton==3.6.0")
# Imported by the scripts. A machine that has some of the others keeps its own.
PACKAGES = ("numpy", "pyarrow", "typer", "rich", "torchmetrics", "torch-geometric")
CARRIED = ("tomli_w", "optuna", "alembic", "mako", "sqlalchemy", "colorlog", "platformdirs")
MOST_MIB = 60
SEED = 0  # of the kernel checks' inputs, on which some kernels' specialisations depend


def main() -> int:
    """Make the bundle; 1 where a part of it failed or it is too large."""
    parser = argparse.ArgumentParser(prog="bench.gpu.bundle", description=__doc__)
    parser.add_argument("out", type=Path, help="the bundle's folder, which must not be there or be empty")
    parser.add_argument("--python", default="python3.12", help="of the version that the machine with the GPU has")
    parser.add_argument("--venv", type=Path, help="environment to make, or to use where it is there; temporary without")
    parser.add_argument("--cache", type=Path, help="Triton cache to go on with and to keep; temporary without")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of wiki.csv, uci.csv"
    )
    parser.add_argument("--commit", help="the commit, where git cannot say")
    given = parser.parse_args()
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        parser.error(f"{given.out} is a file or not empty; name another folder")
    if version(given.python) != PYTHON:
        parser.error(f"{given.python} is not Python {PYTHON}; name one that is with --python")
    missing = [name for name in ("wiki.csv", "uci.csv") if not (given.data / name).exists()]
    if missing:
        parser.error(f"{given.data} has no {' and no '.join(missing)}; give the folder that has them with --data")
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        work, out = Path(folder), given.out.resolve()
        python = environment(given.python, given.venv or work / "venv")
        out.mkdir(parents=True, exist_ok=True)
        for name in ("wiki.csv", "uci.csv"):
            shutil.copyfile(given.data / name, out / name)
        command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(out / kit.WHEELS), *CARRIED], check=True)
        cache = given.cache.resolve() if given.cache else work / "cache"
        scripts(python, out, work, cache)
        made = {"command": "python3 -m bench.gpu.bundle BUNDLE", "seed": SEED, **described(python, given.commit)}
        made["kernels"] = kit.packed(cache, out / kit.CACHE)
    made["mib"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20
    made["seconds"] = time.time() - start
    write(made, out / kit.MANIFEST)
    print(
        f"{given.out}: {made['kernels']} kernels, {made['mib']:.1f} MiB of at most {MOST_MIB}, {made['seconds']:.0f} s"
    )
    return int(made["mib"] > MOST_MIB)


def version(python: str) -> str | None:
    """The version of a Python, as in "3.12", or None where it does not run."""
    text = "import sys; print(*sys.version_info[:2], sep='.')"
    try:
        return subprocess.run([python, "-c", text], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(python: str, folder: Path) -> str:
    """The Python of an environment with the versions of the machine with the GPU, made where it is not there."""
    inside = folder / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        install = [str(inside), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*install, *VERSIONS, *PACKAGES, *CARRIED], check=True)
    return str(inside)


def scripts(python: str, out: Path, work: Path, cache: Path) -> None:
    """Compute the references, and compile every kernel that the first script launches."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    for script, target in (("kept", "cpu"), ("prewarm", "stub")):
        options = ["--target", target, "--references", str(out / kit.REFERENCES), "--seed", str(SEED)]
        command = [python, "-m", "bench.gpu", script, str(work), *options]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
        report = json.loads((work / f"gpu-{script}.json").read_text(encoding="utf-8"))
        if report["failed"]:
            raise RuntimeError(f"bench.gpu.bundle: {script}: {report['failed'][0]}")


def described(python: str, commit: str | None) -> dict[str, Any]:
    """Of the manifest the commit, the machine, the versions and the keys of the kernels."""
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
