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
    """Paths and records of a run.

    `checkpoint.pt` holds the best epoch by validation, `last.pt` the newest one, from which `--resume` goes on, and
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
        """The folder for a new run, or an old one to resume: `out`, or the first free runs/DATASET-MODEL-N.

        Nothing is written yet.

        Raises:
            RunFolderError: the folder holds another run, holds none to resume, or cannot be written.
        """
        if out is None and resume:
            raise RunFolderError("--resume needs --out RUN, the folder of the run to go on with")
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
        # A config, and what was planned, is all that a run leaves that failed in its first epoch.
        leftovers = {folder.config.name, folder.metrics.name} if folder.config.exists() else set()
        if path.exists() and {inside.name for inside in path.iterdir()} - leftovers:
            raise RunFolderError(f"{path}: holds another run or other files; choose an empty folder, or --resume it")
        return folder

    def prepare(self, config: RunConfig, resume: bool) -> None:
        """Write the run's config into the folder, which is made where it is not there.

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
        """An existing run.

        Raises:
            RunFolderError: there is no run.
        """
        folder = RunFolder(Path(path))
        if not folder.config.exists():
            raise RunFolderError(f"{path}: no run there (config.toml is missing)")
        return folder

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl: an epoch's record, or an event, which says under "event" what it is."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """The records of the first `epochs` epochs.

        What is of an epoch to be done again, or was cut off while it was written, is dropped from the file.
        """
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        kept = [record for record in map(_record, lines) if record is not None and record["epoch"] <= epochs]
        if len(kept) < len(lines):
            with atomic_file(self.metrics) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        return [record for record in kept if "event" not in record]

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json, whole."""
        with atomic_file(self.result) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def _check_resumable(self, config: RunConfig) -> None:
        if not self.last.exists():
            raise RunFolderError(f"{self.path}: nothing to resume (last.pt is missing)")
        saved, config = (replace(each, model=each.model.resolved()) for each in (load_config(self.config), config))
        both = [
            (f"{section}.{name}", value, getattr(getattr(config, section), name))
            for section in ("data", "model", "train")
            for name, value in vars(getattr(saved, section)).items()
        ]
        differences = [
            f"{name} ({_told(there)} there, {_told(here)} here)"
            for name, there, here in both
            if there != here and name != "train.epochs"
        ]
        if differences:
            raise RunFolderError(
                f"{self.path}: the run to resume has another {', '.join(differences)}; give the same, or another --out"
            )


def _told(value: Any) -> Any:
    """A setting as users know it."""
    return "none" if value == -1 else value


def _record(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl, or None for half of one."""
    try:
        record: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "stream"


def _first_free(stem: str) -> Path:
    number = 1
    while (path := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return path
