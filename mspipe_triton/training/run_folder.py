"""The run folder: config.toml, metrics.jsonl, result.json and the checkpoints of one run."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from mspipe_triton.config import RunConfig, load_config
from mspipe_triton.errors import RunFolderError
from mspipe_triton.training.checkpoint import atomic_file


class RunFolder:
    """Paths and files of a run.

    `checkpoint.pt` holds the best epoch by validation, `last.pt` the newest one, from which `--resume` continues, and
    `decoder.pt` the decoder of labels.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.best = path / "checkpoint.pt"
        self.last = path / "last.pt"
        self.decoder = path / "decoder.pt"
        self.trace = path / "trace.json"

    @staticmethod
    def check(out: str | None, config: RunConfig, name: str, resume: bool) -> RunFolder:
        """Return the folder of a new run or of a run to resume: `out`, or the first free runs/DATASET-MODEL-N.

        This writes nothing.

        Raises:
            RunFolderError: the folder holds another run, holds no run to resume, or cannot be written.
        """
        if out is None and resume:
            raise RunFolderError("--resume needs --out RUN, the folder of the run to continue")
        path = Path(out) if out is not None else _first_free(f"{_safe(name)}-{config.model.model}")
        folder = RunFolder(path)
        nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
        if nearest.is_dir() and not os.access(nearest, os.W_OK):
            raise RunFolderError(f"{path}: cannot be written: no permission to write")
        if nearest != path and not nearest.is_dir():
            raise RunFolderError(f"{path}: cannot be written: Not a directory")
        if resume:
            folder._check_resumable(config)
            return folder
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path}: is a file; --out names a folder")
        # A run that failed in its first epoch leaves only its config and plans, which a new run may overwrite.
        leftovers = {folder.config.name, folder.metrics.name} if folder.config.exists() else set()
        if path.exists() and {inside.name for inside in path.iterdir()} - leftovers:
            raise RunFolderError(f"{path}: holds another run or other files; choose an empty folder, or --resume it")
        return folder

    def prepare(self, config: RunConfig, resume: bool) -> None:
        """Write the run's config into the folder, which is created if it is missing.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not resume:
                self.metrics.unlink(missing_ok=True)
            with atomic_file(self.config) as temporary:
                temporary.write_text(config.to_toml(), encoding="utf-8")
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written: {error.strerror}") from error

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """Open an existing run.

        Raises:
            RunFolderError: the folder holds no run.
        """
        folder = RunFolder(Path(path))
        if not folder.config.exists():
            raise RunFolderError(f"{path}: no run there (config.toml is missing); name a folder that `train` wrote")
        return folder

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl: an epoch's metrics, or an event, whose kind is its value for "event"."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def read_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """Return the metrics of the first `epochs` epochs.

        Lines of later epochs, which will run again, and incomplete lines are removed from the file.
        """
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        entries = [entry for entry in map(_parse_line, lines) if entry is not None and entry["epoch"] <= epochs]
        if len(entries) < len(lines):
            with atomic_file(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
        return [entry for entry in entries if "event" not in entry]

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json as a whole."""
        with atomic_file(self.result) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def _check_resumable(self, config: RunConfig) -> None:
        if not self.last.exists():
            raise RunFolderError(f"{self.path}: nothing to resume (last.pt is missing); omit --resume")
        saved, config = (replace(each, model=each.model.resolved()) for each in (load_config(self.config), config))
        settings = [
            (f"{section}.{name}", value, getattr(getattr(config, section), name))
            for section in ("data", "model", "train")
            for name, value in vars(getattr(saved, section)).items()
        ]
        differences = [
            f"{name} ({_display(there)} there, {_display(here)} here)"
            for name, there, here in settings
            if there != here and name != "train.epochs"
        ]
        if differences:
            raise RunFolderError(
                f"{self.path}: the run to resume has another {', '.join(differences)}; give the same, or another --out"
            )


def _display(value: Any) -> Any:
    """Return a setting's value as users write it."""
    return "none" if value == -1 else value


def _parse_line(line: str) -> dict[str, Any] | None:
    """Parse a line of metrics.jsonl; None for an incomplete line."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "stream"


def _first_free(stem: str) -> Path:
    number = 1
    while (path := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return path
