"""Settings of a run, those that differ from the defaults, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from mspipe_triton.config import MODELS, DataConfig, ModelConfig, TrainConfig
from mspipe_triton.execution import RunSettings
from mspipe_triton.report.runs import Run
from mspipe_triton.report.tables import number

_SECTIONS: dict[str, tuple[str, type[Any]]] = {
    "data": ("Data", DataConfig),
    "model": ("Model", ModelConfig),
    "train": ("Training", TrainConfig),
    "settings": ("Execution", RunSettings),
}

_OF_GPU = ("features", "gather", "captured", "branch")


@dataclass(frozen=True)
class Setting:
    """A setting's name, its value and its default as texts, the default "" if it has none, and its meaning."""

    name: str
    value: str
    default: str
    meaning: str

    @property
    def changed(self) -> bool:
        """True if the value is not the default."""
        return bool(self.default) and self.value != self.default


def setting_groups(run: Run) -> dict[str, list[Setting]]:
    """Return all settings in config.toml by group, and the execution settings, with what the run used instead."""
    groups = {}
    for section, values in {**run.config, "settings": _execution(run)}.items():
        title, kind = _SECTIONS.get(section, (section, None))
        known_fields = {} if kind is None else {each.name: each for each in fields(kind)}
        settings = []
        for name, value in values.items():
            each = known_fields.get(name)
            default = "" if section == "settings" or each is None or not each.metadata else _text(_default(run, each))
            meaning = "" if each is None else str(each.metadata.get("help", ""))
            settings.append(Setting(name.replace("_", "-"), _text(value), default, meaning))
        if settings:
            groups[title] = settings
    order = [title for title, _ in _SECTIONS.values()]
    return dict(sorted(groups.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _execution(run: Run) -> dict[str, str]:
    """Return execution settings as texts, without those of a GPU if the run used none."""
    result = run.result or {}
    settings: Mapping[str, Any] = result.get("settings") or run.config.get("settings", {})
    most, changes = settings.get("threads"), [change.get("threads") for change in run.events.get("threads", [])]
    fewer = [count for count in range(1, most) if count in changes] if isinstance(most, int) else []
    used = {
        "threads": f"{' or '.join(map(str, fewer))} while other processes used cores" if fewer else "",
        "fused": "no loops were compiled" if result.get("fused") is False else "",
        "captured": "no graph was captured" if result.get("captured") is False else "",
    }
    texts = {name: number(value) for name, value in settings.items()}
    texts |= {name: f"{texts[name]}; {use}" for name, use in used.items() if use and settings.get(name)}
    return {name: text for name, text in texts.items() if name not in _OF_GPU or result.get("device") != "cpu"}


def commands(run: Run) -> dict[str, str]:
    """Return the command lines that repeat a run, each by what it does."""
    data = run.config.get("data", {})
    path, past = str(data.get("path", "synthetic")), str(data.get("history", ""))
    words = ["mspipe-triton", "train"]
    words += ["FILE"] if path == "" else [] if path == "synthetic" else [path]
    words += ["--continue", past] if past else []
    if data.get("columns"):
        words += ["--columns", ",".join(f"{role}={name}" for role, name in data["columns"].items())]
    for section in ("model", "train", "data"):
        words += _flags(run, section)
    result = run.result or {}
    if result.get("ranks", 1) > 1:
        words += ["--nproc", str(result["ranks"])]
    tuned = bool(result.get("tuning")) or "settings" in run.config
    shipped = not tuned and not run.config.get("train", {}).get("deterministic")
    words += ["--no-autotune"] if shipped and result.get("ranks", 1) == 1 else []
    again = {"With the flags that differ from the defaults": shlex.join(words)}
    if not past and path != "":
        config = shlex.join(["mspipe-triton", "train", "--config", str(run.folder / "config.toml")])
        tuning = ", those of tuning included" if tuned else ""
        again[f"With every setting from the run's file{tuning}"] = config + (" --no-autotune" if shipped else "")
    return again


def _flags(run: Run, section: str) -> list[str]:
    """Flags of a section's settings that differ from the defaults."""
    values: Mapping[str, Any] = run.config.get(section, {})
    words = []
    for each in fields(_SECTIONS[section][1]):
        if not each.metadata or each.name not in values or values[each.name] == _default(run, each):
            continue
        value, flag = values[each.name], each.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def _default(run: Run, each: Field[Any]) -> Any:
    """Return a setting's default, for the settings of a model that of the run's model."""
    return MODELS.get(run.model, {}).get(each.name, each.default) if each.default == -1 else each.default


def _text(value: Any) -> str:
    if value == "" or value == {}:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return (
        "–"
        if value == -1 and not isinstance(value, bool)
        else number(value)
        if isinstance(value, bool | float)
        else str(value)
    )
