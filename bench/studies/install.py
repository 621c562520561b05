"""The size on disk of an installation: a fresh environment with the package and what it depends on, by package.

`python -m bench.studies.install` writes bench/results/install.json. The size depends on torch's build, which it names.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from bench.report import RESULTS, ROOT, command, header, write

RESULT = RESULTS / "install.json"
MIB = 2**20
LARGEST = 5  # packages that the report names


def mib(folder: Path) -> float:
    """MiB of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / MIB


def main() -> None:
    """Install into a temporary environment and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(ROOT)], check=True)
        (site,) = Path(folder).glob("lib/python*/site-packages")
        sizes = {path.name: mib(path) for path in site.iterdir() if path.is_dir()}
        largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:LARGEST])
        report = {**header(command("bench.studies.install")), "gib": mib(Path(folder)) / 1024, "largest_mib": largest}
    write(report, RESULT)
    print(f"{report['gib']:.1f} GiB, of which {largest}")


if __name__ == "__main__":
    typer.run(main)
