"""Runs as reports read them: settings, metrics, result and timeline, as far as they are there."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mspipe_triton.errors import RunFolderError, command
from mspipe_triton.evaluation.baselines import NAMES
from mspipe_triton.pipeline.schedules import RESIDENT, stage_names
from mspipe_triton.pipeline.timeline import Timeline
from mspipe_triton.pipeline.trace import read_spans
from mspipe_triton.training.run_folder import RunFolder

_RESULT = ("model", "dataset", "epochs", "best_epoch", "schedule", "device", "val", "test")  # what every result has


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Args:
        folder: its folder, as the user named it.
        config: the settings of config.toml, by section.
        record: the content of data.json, empty if it cannot be read.
        epochs: the metrics of each epoch, in order.
        events: the other lines of metrics.jsonl, by their kind.
        result: the content of result.json; None if training has not finished.
        timeline: typical iterations; None if there are none, as in a resident run.
        faults: what is damaged, and what the report therefore leaves out.
    """

    folder: Path
    config: Mapping[str, Mapping[str, Any]]
    record: Mapping[str, Any]
    epochs: list[dict[str, Any]]
    events: Mapping[str, list[dict[str, Any]]]
    result: dict[str, Any] | None
    timeline: Timeline | None
    faults: list[str]

    @staticmethod
    def read(path: str | Path) -> Run:
        """Read a run folder.

        Raises:
            RunFolderError: there is no run, or its config.toml cannot be read.
        """
        folder, faults = RunFolder.open(path), list[str]()
        way = command("train", "--out", folder.path, "--resume")
        epochs, events = _metrics(folder.metrics, faults)
        result = _json(folder.result, faults, f"{way} writes it again")
        if result is not None and any(name not in result for name in _RESULT):
            faults.append(f"{folder.result.name} is not the result of a run; {way} writes it again.")
            result = None
        record = _json(folder.data, faults, "the fingerprint of the data is left out")
        timeline = _timeline(folder, faults)
        return Run(folder.path, _config(folder.config), record or {}, epochs, events, result, timeline, faults)

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self._section("model").get("model", "tgn"))

    @property
    def dataset(self) -> str:
        """Name of the stream."""
        path = str(self._section("data").get("path", ""))
        return str(self.record.get("name") or Path(path).stem or "events")

    @property
    def schedule(self) -> str:
        """Schedule of the run, or "resident"."""
        if self.result is not None:
            return str(self.result["schedule"])
        if tuple(self.stage_seconds) == stage_names(RESIDENT):
            return RESIDENT
        plans = self.events.get("plan", [])
        planned = (plans[-1].get("new") or {}).get("schedule") if plans else None
        return str(planned or self._section("train").get("schedule", "auto"))

    @property
    def planned_epochs(self) -> int:
        """Number of epochs that the settings name."""
        return int(self._section("train").get("epochs", len(self.epochs)))

    @property
    def best_epoch(self) -> int | None:
        """Epoch with the highest validation AP so far."""
        scores = {epoch["epoch"]: epoch["val"]["ap"] for epoch in self.epochs if "ap" in epoch.get("val", {})}
        return max(scores, key=scores.__getitem__) if scores else None

    @property
    def fastest(self) -> Mapping[str, Any]:
        """Metrics of the fastest epoch; empty if no epoch is complete."""
        return min(self.epochs, key=lambda epoch: epoch.get("seconds", float("inf")), default={})

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        """Mean seconds per iteration of each stage, in the fastest epoch."""
        seconds: Mapping[str, float] = (self.result or self.fastest).get("stage_seconds", {})
        return seconds

    @property
    def staleness(self) -> Mapping[str, int]:
        """Iterations by the number of updates that training missed."""
        counts: dict[str, int] = {}
        for epoch in self.epochs:
            for misses, count in epoch.get("staleness_measured", {}).items():
                counts[misses] = counts.get(misses, 0) + count
        return dict(sorted(counts.items(), key=lambda item: int(item[0])))

    def baselines(self, metric: str) -> dict[str, float]:
        """Test scores of the baselines, by the names that tables use; those that the run has."""
        test = {} if self.result is None else self.result["test"]
        return {label: test[name][metric] for name, label in NAMES.items() if metric in (test.get(name) or {})}

    def score(self, split: str, metric: str) -> float | None:
        """Score of the best epoch, if the run has it."""
        value = None if self.result is None else self.result[split].get(metric)
        return None if value is None else float(value)

    def _section(self, name: str) -> Mapping[str, Any]:
        return self.config.get(name, {})


def _config(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Read settings as they are, so that those of other versions are shown too."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunFolderError(f"{path}: cannot be read as TOML: {error}; restore the file") from None
    sections = {name: values for name, values in content.items() if isinstance(values, dict)}
    data = sections.get("data", {})
    for key, path in data.items():
        if isinstance(path, str) and ".." in Path(path).parts:
            data[key] = os.path.realpath(path)
    return sections


def _json(path: Path, faults: list[str], way: str) -> dict[str, Any] | None:
    """Read an object from a file; None if the file is missing, or damaged, which is a fault."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if isinstance(content, dict):
        return content
    faults.append(f"{path.name} cannot be read; {way}.")
    return None


def _metrics(path: Path, faults: list[str]) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Read the epochs and the other lines of metrics.jsonl; of an epoch that was trained twice, the later line."""
    epochs, events = dict[int, dict[str, Any]](), dict[str, list[dict[str, Any]]]()
    text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            if "event" in entry:
                events.setdefault(str(entry["event"]), []).append(dict(entry))
            else:
                epochs[int(entry["epoch"])] = {**entry, "loss": float(entry["loss"])}
        except (ValueError, TypeError, KeyError):
            faults.append(f"Line {number} of {path.name} is damaged and left out.")
    return [epochs[number] for number in sorted(epochs)], events


def _timeline(folder: RunFolder, faults: list[str]) -> Timeline | None:
    """Read the timeline, or cut it out of the last epoch of a trace."""
    content = _json(folder.timeline, faults, "the timeline is left out")
    try:
        if content is not None:
            return Timeline.read(content)
        if not folder.trace.exists():
            return None
        epoch, spans = max(read_spans(folder.trace).items())
    except (KeyError, TypeError, ValueError, StopIteration, OSError):
        faults.append("The timeline of the run is damaged and left out.")
        return None
    recorded: dict[int, list[Any]] = {}
    for span in spans:
        recorded.setdefault(span.iteration, []).append(span)
    return Timeline.of(epoch, [recorded[number] for number in sorted(recorded)])
