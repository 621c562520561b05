"""Names that a report gets: the folders of its runs, and the file to write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mspipe_triton.errors import ConfigError
from mspipe_triton.files import run_folders

COMPARISON = "comparison.html"
MARK = '<meta name="generator" content="mspipe-triton report">'


def folders_of(paths: Sequence[str]) -> list[Path]:
    """Return the folders of runs; a folder that holds a run of each of several seeds stands for all of them.

    Raises:
        ConfigError: a run is named twice.
    """
    folders = [folder for path in paths for folder in _runs_of(Path(path))]
    real = [folder.resolve() for folder in folders]
    twice = next((folder for i, folder in enumerate(folders) if real[i] in real[:i]), None)
    if twice is not None:
        name = next((path for path in reversed(paths) if Path(path).resolve() == twice.resolve()), twice)
        raise ConfigError(f"{name} is named twice; name runs that differ")
    return folders


def check_target(target: Path) -> None:
    """Refuse a target that is not an HTML file, or whose file is not a report.

    Raises:
        ConfigError: it is one of these.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {target} is no name of a page; let it end in .html")
    if target.is_dir():
        raise ConfigError(f"--out {target} is a folder; name a file in it")
    if target.is_file() and MARK.encode() not in target.read_bytes()[:2000]:
        raise ConfigError(f"--out {target} is a file that `report` did not write; name another")


def _runs_of(path: Path) -> list[Path]:
    seeds = {folder: folder.name.removeprefix("seed-") for folder in run_folders(path) if "seed-" in folder.name}
    numbered = [folder for folder, seed in seeds.items() if seed.isdecimal()]
    if not numbered or (path / "config.toml").exists():
        return [path]
    return sorted(numbered, key=lambda folder: int(seeds[folder]))
