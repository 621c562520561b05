"""Run folders written by hand, and pages read back."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mspipe_triton.config import RunConfig
from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.timeline import Timeline

STAGES = {"sample": 0.002, "features": 0.001, "memory": 0.001, "train": 0.01, "update": 0.001}
BASELINES = {
    "edgebank": {"ap": 0.92, "auc": 0.91, "mrr": 0.83},
    "edgebank_window": {"ap": 0.88, "auc": 0.87, "mrr": 0.76},
    "popularity": {"ap": 0.89, "auc": 0.86, "mrr": 0.52},
    "pair_features": {"ap": 0.96, "auc": 0.95, "mrr": 0.86},
}
VOID = {"meta", "br", "img", "link", "input", "hr"}


def metrics(epoch: int, **others: Any) -> dict[str, Any]:
    """The line of an epoch."""
    return {
        "epoch": epoch, "loss": 0.5 / epoch, "seconds": 2.0 + 1 / epoch, "compile_seconds": 0.5, "events_per_s": 5000.0,
        "iterations": 100, "stage_seconds": STAGES, "staleness_measured": {"0": 10, "1": 90},
        "val": {"ap": 0.9 + 0.01 * min(epoch, 2), "auc": 0.9}, "eval_seconds": 0.4, **others,
    }  # fmt: skip


def plan(epoch: int, iteration: int, stage: str | None) -> dict[str, Any]:
    """The line of a change of plan."""
    new = {"schedule": "mspipe", "period": 0.0125, "staleness": 1}
    return {"event": "plan", "stage": stage, "old": None, "new": new, "epoch": epoch, "iteration": iteration}


def result(epochs: int, dataset: str = "shop", **others: Any) -> dict[str, Any]:
    """The result of a finished run."""
    scores = {"candidates": 49, "ap": 0.9712, "auc": 0.9634, "mrr": 0.8751}
    inductive = {"ap": 0.95, "auc": 0.94, "mrr": 0.77, "events": 40}
    return {
        "model": "tgn", "dataset": dataset, "epochs": epochs, "best_epoch": 2, "schedule": "mspipe", "device": "cpu",
        "val": scores | {"ap": 0.9799}, "test": {**scores, **BASELINES, "inductive": inductive},
        "split_events": {"train": 70, "val": 15, "test": 15}, "stage_seconds": STAGES,
        "plan": {"period": 0.0125, "staleness": 1}, "settings": {"schedule": "mspipe", "threads": 2, "host_threads": 1},
        "fused": True, "ranks": 1, "peak_rss_mb": 812.4, "peak_device_mb": 0.0, "tuning": None,
        "versions": {"mspipe_triton": "0.1.0", "torch": "2.13.0"}, "notes": ["Train longer."], **others,
    }  # fmt: skip


def spans(count: int = 12) -> list[list[Span]]:
    """Iterations of 10 ms, each sampled while the one before is trained."""
    return [
        [
            Span("sample", "sampler", number, number * 0.01 - 0.008, number * 0.01 - 0.006, 0.002),
            Span("train", "compute", number, number * 0.01, number * 0.01 + 0.009, 0.009),
        ]
        for number in range(count)
    ]


def write_run(
    folder: Path,
    config: RunConfig | None = None,
    lines: list[dict[str, Any]] | None = None,
    end: dict[str, Any] | None = None,
    name: str = "shop",
    timeline: bool = True,
) -> Path:
    """Write the files of a run of three epochs, or with other lines of metrics; unfinished without an `end`."""
    folder.mkdir(parents=True)
    values = (config or RunConfig()).with_flags({"schedule": "mspipe"} if config is None else {})
    (folder / "config.toml").write_text(values.to_toml(), encoding="utf-8")
    record = {"name": name, "events": 100, "nodes": 20, "fingerprint": "f00d", "train_end": 70, "val_end": 85}
    (folder / "data.json").write_text(json.dumps(record), encoding="utf-8")
    lines = [plan(1, 0, None), *(metrics(epoch) for epoch in (1, 2, 3))] if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if end is not None:
        (folder / "result.json").write_text(json.dumps(end), encoding="utf-8")
    cut = Timeline.of(3, spans()) if timeline else None
    if cut is not None:
        (folder / "timeline.json").write_text(json.dumps(cut.to_json()), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """A page read by the parser of the standard library: its text, tags and attributes.

    Raises:
        AssertionError: its tags are not balanced.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts, self.style = list[str](), list[tuple[str, str]](), list[str](), ""
        self._open = list[str]()
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        elif data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        """All text, on one line."""
        return " ".join(" ".join(self.texts).split())
