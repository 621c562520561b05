"""The run folder: config.toml, data.json, metrics.jsonl, result.json and the checkpoints of one run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mspipe_triton.config import DataConfig, RunConfig
from mspipe_triton.config_file import load_config
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import FILES, Contents, record
from mspipe_triton.data.time_scale import TimeScale
from mspipe_triton.errors import DataError, RunFolderError
from mspipe_triton.files import TEMPORARY, atomic_file, check_writable, close_file, run_folders
from mspipe_triton.models.stored import digest
from mspipe_triton.pipeline.timeline import Timeline

# The first line of a run's config.toml, followed by a digest of the other lines: a file without it is the user's.
_MARK = "# Written by mspipe-triton for this run; "

FREE = ("epochs", "patience", "log")  # settings of training that a resumed run may change
LOGS = "events.out.tfevents.*"  # files of TensorBoard


class RunFolder:
    """Paths and files of a run.

    `checkpoint.pt` holds the best epoch by validation, `last.pt` the newest one, from which `--resume` continues,
    `decoder.pt` the decoder of labels, `data.json` what reading and scaling did to the data, and `nodes.parquet`
    the user's node ids. `model.safetensors` and `model.json` hold the best epoch after all events, to be used.
    `timeline.json` holds typical iterations of the newest epoch in stages, and `report.html` is the run's page.
    `tensorboard` is a folder with a log for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.data = path / "data.json"
        self.nodes = path / "nodes.parquet"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.best = path / "checkpoint.pt"
        self.last = path / "last.pt"
        self.decoder = path / "decoder.pt"
        self.trace = path / "trace.json"
        self.timeline = path / "timeline.json"
        self.report = path / "report.html"
        self.card = path / "README.md"
        self.log = path / "tensorboard"

    @staticmethod
    def check(out: str | None, config: RunConfig, name: str, resume: bool) -> RunFolder:
        """Return the folder of a new run or of a run to resume: `out`, or the first free runs/DATASET-MODEL-N.

        This writes nothing.

        Raises:
            RunFolderError: the folder holds another run, holds no run to resume, or cannot be written.
        """
        if resume:
            folder = RunFolder.to_resume(out)
            model = config.model.resolved()
            folder.refuse_changes(load_config(folder.config), {**vars(model), **vars(config.train)})
            check_writable(folder.path)
            return folder
        path = Path(out) if out is not None else _first_free(f"{_safe(name)}-{config.model.model}")
        folder = RunFolder(path)
        check_writable(path)
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path}: is a file; --out names a folder")
        # A run that failed in its first epoch leaves only these files, which a new run may overwrite or remove.
        resets = (folder.config, folder.data, folder.nodes, folder.metrics, folder.report, folder.log)
        leftovers = {each.name for each in resets}
        leftovers |= {each.name for each in path.glob(TEMPORARY)}
        if path.exists() and {inside.name for inside in path.iterdir()} - (leftovers if folder._marked() else set()):
            raise RunFolderError(f"{path}: holds another run or other files; choose an empty folder, or --resume it")
        return folder

    @staticmethod
    def to_resume(out: str | None) -> RunFolder:
        """Return the folder of a run to resume.

        Raises:
            RunFolderError: there is none.
        """
        if out is None:
            raise RunFolderError("--resume needs --out RUN, the folder of the run to continue")
        folder = RunFolder(Path(out))
        if not folder.path.is_dir():
            hint = close_file(folder.path)
            raise RunFolderError(f"{out}: no such folder; --resume needs that of a run that was interrupted{hint}")
        faults = {
            folder.config: "it holds no run; name another folder",
            folder.last: "no epoch was complete; give the run's first command again",
        }
        for file, fault in faults.items():
            if not file.exists():
                raise RunFolderError(f"{out}: nothing to resume ({file.name} is missing): {fault}")
        return folder

    def refuse_changes(self, saved: RunConfig, settings: Mapping[str, Any], continued: bool = False) -> None:
        """Refuse settings of model and training, by name, that differ from a run's; None may, and `FREE` too.

        Args:
            continued: refuse those of the model and of the form of the data instead, since the run is not resumed.

        Raises:
            RunFolderError: with every setting that differs.
        """
        form = {name: getattr(saved.data, name) for name in ("bipartite", "one_kind", "raw_features")}
        other = form if continued else vars(saved.train)
        differences = [
            f"--{name.replace('_', '-')} ({_display(there)} there, {_display(settings[name])} here)"
            for values in (vars(saved.model.resolved()), other)
            for name, there in values.items()
            if name not in FREE and settings.get(name) not in (None, there)
        ]
        if differences:
            verb, fix = ("continue", "omit it") if continued else ("resume", "give the same, or another --out")
            raise RunFolderError(f"{self.path}: the run to {verb} has another {', '.join(differences)}; {fix}")

    def refuse_missing(self, data: DataConfig, fix: str) -> None:
        """Refuse settings of the events of the folder's run that name no file, or a file that is missing.

        Args:
            data: the run's settings, or its settings with another path.
            fix: the way to name another path, for messages.

        Raises:
            InputError: the events were passed from Python, or a file is missing.
        """
        if data.path == "":
            raise RunFolderError(f"{self.path}: its events were passed from Python; name a file that holds them {fix}")
        for name in FILES:
            file = getattr(data, name)
            if file not in ("", "synthetic") and not Path(file).exists():
                way = fix if name == "path" else f"as {name} in {self.config}"
                raise DataError(
                    f"{file}: no such file; restore it, or name the one that {self.path} was trained on {way}"
                )

    def prepare(self, config: RunConfig, stream: EventStream, contents: Contents, scale: TimeScale) -> None:
        """Create the folder of a new run, with its config, data.json and the user's node ids.

        data.json also has a digest of the model of the run that it continues, "" if it continues none.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_config(config)
            temporaries, logs = self.path.glob(TEMPORARY), self.log.glob(LOGS)
            for leftover in (self.metrics, self.nodes, self.data, self.report, *temporaries, *logs):
                leftover.unlink(missing_ok=True)
            past = digest(Path(config.data.history)) if config.data.history else ""
            facts = {**record(stream, contents, scale), "past_model": past}
            with atomic_file(self.data) as temporary:
                temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            if stream.ids is not None:
                with atomic_file(self.nodes) as temporary:
                    stream.ids.save(temporary)
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written: {error.strerror}") from error

    def check_past(self, history: str) -> None:
        """Refuse the run in the folder `history` if its model is not the one that the folder's run began with.

        Raises:
            RunFolderError: it has changed.
        """
        if history and self.read_record()["past_model"] != digest(Path(history)):
            raise RunFolderError(
                f"{self.path}: continues {history}, whose model has changed since; continue that run again in another "
                "--out"
            )

    def continue_with(self, config: RunConfig, epochs: int) -> None:
        """Write the config of a run that resumes after `epochs` epochs; if it has fewer, with the run's former number.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        if config.train.epochs < epochs:
            config = config.with_flags({"epochs": load_config(self.config).train.epochs})
        try:
            self._write_config(config)
            for leftover in self.path.glob(TEMPORARY):
                leftover.unlink(missing_ok=True)
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
            hint = "" if folder.path.exists() else close_file(folder.path)
            if inside := run_folders(folder.path):
                hint = f"; did you mean {inside[0]}?"
            raise RunFolderError(
                f"{path}: no run there (config.toml is missing); name a folder that `train` wrote{hint}"
            )
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

    def read_record(self) -> dict[str, Any]:
        """Return the content of data.json."""
        try:
            content: dict[str, Any] = json.loads(self.data.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.data}: cannot be read ({type(error).__name__}); train again") from error
        return content

    def write_timeline(self, timeline: Timeline) -> None:
        """Write timeline.json as a whole."""
        with atomic_file(self.timeline) as temporary:
            temporary.write_text(json.dumps(timeline.to_json()) + "\n", encoding="utf-8")

    def write_card(self, text: str) -> None:
        """Write the model card."""
        self.card.write_text(text, encoding="utf-8")

    def ended_fused(self) -> bool:
        """Return False if the run has ended without compiled loops; True if it has not ended."""
        try:
            return bool(json.loads(self.result.read_text(encoding="utf-8"))["fused"])
        except (OSError, ValueError, KeyError, TypeError):
            return True

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json as a whole."""
        with atomic_file(self.result) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def _write_config(self, config: RunConfig) -> None:
        text = config.to_toml()
        with atomic_file(self.config) as temporary:
            temporary.write_text(f"{_MARK}{_digest(text.encode())}\n{text}", encoding="utf-8")

    def _marked(self) -> bool:
        """Return True if a run wrote config.toml, and nobody has changed it since."""
        if not self.config.is_file():
            return False
        first, _, text = self.config.read_bytes().partition(b"\n")
        return first == f"{_MARK}{_digest(text)}".encode()


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


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
