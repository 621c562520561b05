"""A run's settings: frozen dataclasses for data, model and training, from flags or a TOML file, saved with it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import tomli_w

from mspipe_triton.choices import check_settings, either, setting
from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.schedules import RESIDENT, SCHEDULES

# The settings that each model takes beside those that all do, with its defaults.
MODELS: dict[str, Mapping[str, int]] = {
    "tgn": {"fanout": 10, "heads": 2, "layers": 1},
    "jodie": {},
    "apan": {"fanout": 10, "heads": 2, "slots": 10},
    "tgat": {"fanout": 10, "heads": 2, "layers": 2},
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
WITHOUT_STALENESS = ("serial", "prefetch", "exact")  # what `auto` may stand for, beside RESIDENT


def _own(name: str) -> str:
    """The models' defaults of a setting, as in "tgn 1, tgat 2"; the number alone where they agree."""
    values = {model: str(own[name]) for model, own in MODELS.items() if name in own}
    same = set(values.values())
    return same.pop() if len(same) == 1 else ", ".join(f"{model} {value}" for model, value in values.items())


@dataclass(frozen=True)
class ModelConfig:
    """The model; `dim` is the width of memory, time encoding and embeddings alike.

    `fanout`, `heads`, `layers` and `slots` are −1 where they are not given: `setting` then says the model's own.
    `dtype` is what is computed in. `precision` "tf32" lets a GPU round the factors of float32 products to TF32, and
    "bf16" does so too and keeps node memory and features in bfloat16.
    """

    model: str = setting("tgn", either(MODELS))
    dim: int = setting(100, "Width of memory and embeddings.", least=1)
    heads: int = setting(-1, "Attention heads.", shown=_own("heads"))
    fanout: int = setting(-1, "Neighbours a root.", shown=_own("fanout"))
    layers: int = setting(-1, "Layers of attention.", shown=_own("layers"))
    slots: int = setting(-1, "Mails a node keeps in apan.", shown=_own("slots"))
    sampler: str = setting("recent", choices=("recent", "uniform"))
    aggregator: str = setting("last", choices=("last", "mean"))
    time_encoder: str = setting("fixed", choices=("fixed", "learned"))
    dropout: float = setting(0.0)
    dtype: str = setting("float32", choices=("float32", "float64"))
    precision: str = setting(
        "full", "full, tf32 (a GPU's products) or bf16 (memory and features too).", choices=("full", "tf32", "bf16")
    )

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            for entry in entry_points(group="mspipe_triton.models", name=self.model):
                entry.load()  # an installed package offers a model of this name, and registers it
        if self.model not in MODELS:
            raise ConfigError(f"model {self.model!r} is none of {', '.join(MODELS)}")
        check_settings(self)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.precision != "full" and self.dtype != "float32":
            raise ConfigError(
                f"precision {self.precision} is for dtype float32, not {self.dtype}; take --precision full, or --dtype "
                "float32"
            )
        own = MODELS[self.model]
        for name in ("heads", "fanout", "layers", "slots"):
            if (value := getattr(self, name)) == -1:
                continue
            if name not in own:
                self._refuse(name)
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if "heads" in own and self.dim % self.setting("heads"):
            raise ConfigError(f"dim must be a multiple of heads: {self.dim} is none of {self.setting('heads')}")
        if self.sampler != "recent" and "fanout" not in own:
            self._refuse("sampler")
        if self.dropout and "heads" not in own:
            self._refuse("dropout")

    @property
    def table_dtype(self) -> str:
        """The dtype of the tables: node memory, mails, and the features of nodes and edges."""
        return "bfloat16" if self.precision == "bf16" else self.dtype

    def setting(self, name: str) -> int:
        """`fanout`, `heads`, `layers` or `slots` as given, or else the model's own; 0 where it has none."""
        given: int = getattr(self, name)
        return MODELS[self.model].get(name, 0) if given == -1 else given

    def resolved(self) -> ModelConfig:
        """The same with the model's own values in the place of those that were not given."""
        taken: dict[str, Any] = {name: self.setting(name) for name in MODELS[self.model]}
        return replace(self, **taken)

    def _refuse(self, name: str) -> None:
        value, partner = getattr(self, name), {"sampler": "fanout", "dropout": "heads"}.get(name, name)
        takers = ", ".join(model for model, own in MODELS.items() if partner in own)
        raise ConfigError(f"{name} {value}: model {self.model} has none; leave --{name} out, or take one of {takers}")


@dataclass(frozen=True)
class TrainConfig:
    """The run; `staleness` is −1 where it is not given.

    `task` "node" trains on links too, and then a decoder of the events' labels on the embeddings.
    """

    task: str = setting("link", "link, or node: then labels too.", choices=("link", "node"))
    epochs: int = setting(3, least=1)
    batch_size: int = setting(600, "Events an iteration.", least=1)
    lr: float = setting(1e-3, "Adam's learning rate.")
    seed: int = setting(0, least=0)
    negatives: int = setting(49, "N random negatives of the MRR.", least=1)
    schedule: str = setting("auto", choices=("auto", *SCHEDULES))
    staleness: int = setting(-1, "Updates that schedule fixed misses.", shown="")
    mitigation: str = setting("none", choices=("none", "similarity"))
    backend: str = setting("auto", choices=("auto", "torch"))
    device: str = setting("auto", "auto (a GPU where one is usable), cpu or cuda", choices=("auto", "cpu", "cuda"))
    placement: str = setting(
        "auto", "Of memory and features: auto, host, or device: iterations run whole there.",
        choices=("auto", "device", "host"),
    )  # fmt: skip
    deterministic: bool = setting(False, "The same bits every run; implies --no-autotune.")
    threads: int = setting(0, "CPU threads; 0: torch's choice, or the tuner's.", least=0)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.seed >= 2**32:
            raise ConfigError(f"seed must be below 2**32, not {self.seed}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr must be finite and above 0, not {self.lr}")
        schedule, staleness = self.schedule, self.staleness
        if self.placement == "device" and (schedule, staleness, self.mitigation) != ("auto", -1, "none"):
            raise ConfigError(
                "placement device runs an iteration whole, without stages or staleness; leave out --schedule, "
                "--staleness and --mitigation, or take --placement host"
            )
        if staleness < -1:
            raise ConfigError(f"staleness must be at least 0, not {staleness}")
        if schedule == "fixed" and staleness == -1:
            raise ConfigError("schedule fixed needs a staleness, as in --staleness 1")
        if schedule != "fixed" and staleness != -1:
            raise ConfigError(f"staleness {staleness} is for schedule fixed; {schedule} has its own")
        if schedule == "mspipe" and self.deterministic:
            raise ConfigError(
                "schedule mspipe reads what has been written by then, so no run repeats another bit by bit; "
                "with --deterministic take exact, or fixed with a --staleness"
            )
        if self.mitigation != "none" and (schedule not in ("mspipe", "fixed") or staleness == 0):
            raise ConfigError(
                f"mitigation {self.mitigation} is for stale memory, which schedule {schedule} has none of; "
                "take mspipe, or fixed with a --staleness"
            )
        if self.device == "cuda" and self.mitigation != "none":
            raise ConfigError(f"mitigation {self.mitigation} is for the CPU; take --device cpu or --mitigation none")


@dataclass(frozen=True)
class DataConfig:
    """Where the events come from: a path or `synthetic`, and how to read them."""

    path: str = "synthetic"
    columns: Mapping[str, str] = field(default_factory=dict)
    sort: bool = setting(False, "Sort events by time instead of refusing disorder.")
    node_features: str = setting("", "A .npy file with a row of features per node id.")


@dataclass(frozen=True)
class RunSettings:
    """One way to carry a run out: what tuning chooses, since all compute the same but for the order of float sums.

    Args:
        schedule: one of the schedules, "resident", or "auto": what the run's own schedule and placement say.
        prefetch: finished iterations that may wait between two stages; `serial` knows none.
        threads: torch threads of the stages that compute; host_threads: of the others.
        deduplicate: "all": a node that a batch touches several times has one row; "roots": neighbours have a row each,
            which spares looking for the distinct ones.
        fused: whether loops of the torch references are compiled.
        features: "host" or "device", where the table of edge features lies; the same on the CPU.
        gather: how rows of host tables come to a GPU (see `Placement`): "copy" or "kernel".
        captured: whether a resident iteration is one CUDA graph, replayed, or launched kernel by kernel, as on a CPU.
        branch: whether a resident iteration has branches: the next batch sampled beside it, mail written beside Adam.
    """

    schedule: str = setting("auto", choices=("auto", *SCHEDULES, RESIDENT))
    prefetch: int = setting(3, least=0)
    threads: int = setting(1, least=1)
    host_threads: int = setting(1, least=1)
    deduplicate: str = setting("all", choices=("all", "roots"))
    fused: bool = True
    features: str = setting("host", choices=("host", "device"))
    gather: str = setting("copy", choices=("copy", "kernel"))
    captured: bool = True
    branch: bool = True

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def resident(self) -> bool:
        """True where everything lies on the device and iterations run whole."""
        return self.schedule == RESIDENT

    def check_fits(self, schedule: str, threads: int, placement: str = "auto") -> None:
        """Refuse to stand beside a run's own `schedule`, `threads` and `placement`, where these say otherwise.

        Raises:
            ConfigError: one of them does; "auto" allows what misses no update, 0 threads allow any number.
        """
        if threads not in (0, self.threads):
            raise ConfigError(f"[settings] threads {self.threads} is not the run's, which is {threads}")
        if self.schedule == "auto":
            return
        if placement not in ("auto", "device" if self.resident else "host"):
            other = "device" if placement == "host" else "host"
            raise ConfigError(
                f"[settings] schedule {self.schedule} is not for placement {placement}; leave it out of the file, or "
                f"take --placement {other}"
            )
        if self.schedule not in ((*WITHOUT_STALENESS, RESIDENT) if schedule == "auto" else (schedule,)):
            raise ConfigError(f"[settings] schedule {self.schedule} is not the run's, which is {schedule}")


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, as `config.toml` holds them: [data], [model], [train]; [settings] where it was tuned."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    settings: RunSettings | None = None

    def __post_init__(self) -> None:
        if self.settings is not None:
            self.settings.check_fits(self.train.schedule, self.train.threads, self.train.placement)

    def with_flags(self, flags: Mapping[str, Any]) -> RunConfig:
        """The settings with every flag that is not None put over them; a flag goes where its name is a field."""
        given = {name: value for name, value in flags.items() if value is not None}
        sections: dict[str, Any] = {}
        for section in ("data", "model", "train"):
            current = getattr(self, section)
            names = {f.name for f in fields(current)}
            sections[section] = replace(current, **{k: v for k, v in given.items() if k in names})
        if self.settings is not None:
            own = {name: given[name] for name in ("schedule", "threads") if given.get(name) not in (None, "auto", 0)}
            sections["settings"] = replace(self.settings, **own)
        return replace(self, **sections)

    def to_toml(self) -> str:
        """The text of `config.toml`, with what the model takes and nothing that it has not."""
        sections = asdict(replace(self, model=self.model.resolved()))
        sections["model"] = {name: value for name, value in sections["model"].items() if value != -1}
        return tomli_w.dumps({name: values for name, values in sections.items() if values is not None})


def load_config(path: str | Path) -> RunConfig:
    """Read a TOML file with the sections [data], [model], [train] and [settings]; what it leaves out takes the default.

    Raises:
        ConfigError: the file is missing or not TOML, or a section, name or value is not one of ours.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    kinds = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "settings": RunSettings}
    for section, values in content.items():
        if section not in kinds or not isinstance(values, dict):
            raise ConfigError(f"{path}: [{section}] is none of {', '.join(f'[{kind}]' for kind in kinds)}")
        known = {f.name: f.default for f in fields(kinds[section])}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(f"{path}: [{section}] has no setting {name!r}; it has {', '.join(known)}")
            default = known[name]
            if type(default) is float and type(value) is int:
                values[name] = float(value)
            elif type(default) in _KINDS and type(value) is not type(default):
                kind = _KINDS[type(default)]
                raise ConfigError(f"{path}: [{section}] {name} must be {kind}, not {value!r}")
    try:
        return RunConfig(**{section: kinds[section](**values) for section, values in content.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
