"""Reader of config files: the settings that a TOML file names, and the `RunConfig` that they make."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from mspipe_triton.choices import KINDS
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.errors import ConfigError, suggestion, usual
from mspipe_triton.execution import RunSettings
from mspipe_triton.files import close_file

_SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig, "model": ModelConfig, "train": TrainConfig, "settings": RunSettings,
}  # fmt: skip


def load_config(path: str | Path) -> RunConfig:
    """Read a config file; omitted settings get their defaults.

    Raises:
        ConfigError: see `read_settings`; or a value is not allowed.
    """
    sections = read_settings(path)
    try:
        return RunConfig(**{section: _SECTIONS[section](**values) for section, values in sections.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_settings(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read the settings that a TOML file names, by section: [data], [model], [train] and [settings].

    Raises:
        ConfigError: the file is missing or not TOML, a section or name is unknown, or a value is of the wrong type.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; --config names a TOML file{close_file(path)}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    for section, values in content.items():
        if section not in _SECTIONS or not isinstance(values, dict):
            sections = ", ".join(f"[{name}]" for name in _SECTIONS)
            raise ConfigError(f"{path}: [{section}] is not one of {sections}{_section_hint(section, values)}")
        defaults = {f.name: f.default for f in fields(_SECTIONS[section])}
        for name, value in values.items():
            if name not in defaults:
                raise ConfigError(
                    f"{path}: [{section}] has no setting {name!r}; it has {', '.join(defaults)}"
                    f"{_name_hint(section, name, defaults)}"
                )
            default = defaults[name]
            if type(default) is float and type(value) is int:
                values[name] = float(value)
            elif type(default) in KINDS and type(value) is not type(default):
                kind = KINDS[type(default)]
                raise ConfigError(f"{path}: [{section}] {name} must be {kind}, not {value!r}")
    return content


def _section_hint(section: str, values: Any) -> str:
    """Return the section that a wrong one may stand for, or that a setting without a section belongs to."""
    if isinstance(values, dict):
        return suggestion(f"[{section}]", [f"[{name}]" for name in _SECTIONS])
    name = usual(section)
    home = next((each for each, kind in _SECTIONS.items() if name in {f.name for f in fields(kind)}), None)
    return "" if home is None else f"; put {name} below [{home}]"


def _name_hint(section: str, name: str, names: Iterable[str]) -> str:
    """Return the setting that a wrong name may stand for, or the section that has one of this name."""
    plain = usual(name)
    homes = [each for each, kind in _SECTIONS.items() if each != section and plain in {f.name for f in fields(kind)}]
    return f"; {plain} belongs to [{homes[0]}]" if homes else suggestion(plain, names)
