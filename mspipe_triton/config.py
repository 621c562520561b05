"""Settings of a run: frozen dataclasses for data, model and training, from flags or a TOML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import entry_points
from typing import Any

import tomli_w

from mspipe_triton.choices import check_settings, either, multiples, setting
from mspipe_triton.errors import ConfigError, suggestion
from mspipe_triton.execution import RunSettings
from mspipe_triton.learning import LearningConfig
from mspipe_triton.pipeline.schedules import SCHEDULES
from mspipe_triton.reading import ROLES as ROLES
from mspipe_triton.reading import DataConfig as DataConfig
from mspipe_triton.recipes import PROTOCOLS, set_flags

_MOST_USED = "Most used"  # group of flags
# Settings of each model beyond those that all models share, with their defaults.
MODELS: dict[str, Mapping[str, int]] = {
    "tgn": {"fanout": 10, "heads": 2, "layers": 1},
    "jodie": {},
    "apan": {"fanout": 10, "heads": 2, "slots": 10},
    "tgat": {"fanout": 10, "heads": 2, "layers": 2},
}


def _defaults(name: str) -> str:
    """Defaults of a setting by model, as in "tgn 1, tgat 2"; the number alone if all models agree."""
    values = {model: str(defaults[name]) for model, defaults in MODELS.items() if name in defaults}
    distinct = set(values.values())
    return distinct.pop() if len(distinct) == 1 else ", ".join(f"{model} {value}" for model, value in values.items())


@dataclass(frozen=True)
class ModelConfig:
    """Settings of the model; `dim` is the width of memory, time encoding and embeddings.

    `fanout`, `heads`, `layers` and `slots` are −1 by default: `setting` then returns the model's default.
    `dtype` is the dtype of computation. `precision` "tf32" lets a GPU round the factors of float32 products to TF32;
    "bf16" does so too and stores node memory and features in bfloat16.
    """

    model: str = setting("tgn", f"Model to train: {either(MODELS)}.", group=_MOST_USED, metavar="NAME")
    dim: int = setting(
        100, "Width of node memory and embeddings; wider learns more and takes longer.", minimum=1, group=_MOST_USED
    )
    heads: int = setting(-1, "Attention heads.", default_text=_defaults("heads"))
    fanout: int = setting(
        -1, "Most recent neighbours that a node's embedding looks at, per layer.", default_text=_defaults("fanout")
    )
    layers: int = setting(
        -1, "Attention layers: 2 look at neighbours of neighbours too.", default_text=_defaults("layers")
    )
    slots: int = setting(-1, "Messages stored per node, for apan.", default_text=_defaults("slots"))
    sampler: str = setting(
        "recent", "Which neighbours to look at: the most recent ones, or any (uniform).", choices=("recent", "uniform")
    )
    aggregator: str = setting(
        "last", "What a node keeps of several messages in a batch: the last, or their mean.", choices=("last", "mean")
    )
    time_encoder: str = setting(
        "fixed", "Frequencies of the time encoder: fixed, or learned as in the papers.", choices=("fixed", "learned")
    )
    dropout: float = setting(0.0, "Probability to drop an activation in training, against overfitting.")
    pair_features: bool = setting(True, "Tell the link predictor about earlier events of the pair.")
    dtype: str = setting(
        "float32", "Numbers to compute with: float32, or float64 to compare runs.", choices=("float32", "float64"),
        group="Machine",
    )  # fmt: skip
    precision: str = setting(
        "full", "full; tf32 for faster matrix products on a GPU; or bf16, which also halves memory and features.",
        choices=("full", "tf32", "bf16"), group="Machine",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            for entry in entry_points(group="mspipe_triton.models", name=self.model):
                entry.load()  # importing the package that offers this model registers it
        if self.model not in MODELS:
            raise ConfigError(f"model {self.model!r} is not one of {', '.join(MODELS)}{suggestion(self.model, MODELS)}")
        check_settings(self)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.precision != "full" and self.dtype != "float32":
            raise ConfigError(
                f"precision {self.precision} needs dtype float32, not {self.dtype}; use --precision full, or --dtype "
                "float32"
            )
        defaults = MODELS[self.model]
        for name in ("heads", "fanout", "layers", "slots"):
            if (value := getattr(self, name)) == -1:
                continue
            if name not in defaults:
                self._refuse(name)
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if "heads" in defaults and self.dim % self.setting("heads"):
            heads = self.setting("heads")
            raise ConfigError(
                f"dim {self.dim} is not a multiple of heads, {heads}; use {multiples(self.dim, heads)}, or other heads"
            )
        if self.sampler != "recent" and "fanout" not in defaults:
            self._refuse("sampler")
        if self.dropout and "heads" not in defaults:
            self._refuse("dropout")

    @property
    def table_dtype(self) -> str:
        """Dtype of the tables: node memory, mails, and the features of nodes and edges."""
        return "bfloat16" if self.precision == "bf16" else self.dtype

    def setting(self, name: str) -> int:
        """Value of `fanout`, `heads`, `layers` or `slots`: as set, or the model's default; 0 if the model has none."""
        value: int = getattr(self, name)
        return MODELS[self.model].get(name, 0) if value == -1 else value

    def resolved(self) -> ModelConfig:
        """Return a copy with the model's defaults filled in."""
        values: dict[str, Any] = {name: self.setting(name) for name in MODELS[self.model]}
        return replace(self, **values)

    def _refuse(self, name: str) -> None:
        value, partner = getattr(self, name), {"sampler": "fanout", "dropout": "heads"}.get(name, name)
        models = ", ".join(model for model, defaults in MODELS.items() if partner in defaults)
        raise ConfigError(f"{name} {value}: model {self.model} has none; omit --{name}, or use one of {models}")


@dataclass(frozen=True)
class TrainConfig(LearningConfig):
    """Settings of training; `staleness` is −1 if it is not set.

    `task` "node" also trains on links, and then trains a decoder of the events' labels on the embeddings. `loss`
    "softmax" is the cross-entropy of the destination among itself and the negatives, which are weighted so that they
    stand for all other destinations. Of `train_negatives` mixed ones, the greater half is random.
    """

    task: str = setting(
        "link", "link predicts events; node also learns to predict the events' labels.", choices=("link", "node")
    )
    epochs: int = setting(3, "Passes over the training events.", minimum=1, group=_MOST_USED)
    batch_size: int = setting(
        600, "Events per batch; smaller batches learn more per epoch and take longer.", minimum=1, group=_MOST_USED
    )
    lr: float = setting(1e-3, "Learning rate of Adam: the size of its steps.", group=_MOST_USED)
    loss: str = setting(
        "bce", "bce tells events from negatives; softmax ranks an event above its negatives.",
        choices=("bce", "softmax"),
    )  # fmt: skip
    train_negatives: int = setting(1, "Negatives (events that did not happen) per event in training.", minimum=1)
    negative_kind: str = setting(
        "random", "Negatives in training: random destinations, historical ones (that the source met before) or mixed.",
        choices=("random", "historical", "mixed"),
    )  # fmt: skip
    seed: int = setting(0, "Random seed of weights, negatives and dropout.", minimum=0, group=_MOST_USED)
    negatives: int = setting(49, "Random destinations that each event is ranked among, for the MRR.", minimum=1)
    protocol: str = setting(
        "default", "Evaluation: default, or tgb for the split, batches and negatives of TGB.", choices=tuple(PROTOCOLS)
    )
    schedule: str = setting(
        "auto", f"Order in which stages of batches overlap: {either(('auto', *SCHEDULES))}.",
        choices=("auto", *SCHEDULES), group="Pipeline",
    )  # fmt: skip
    staleness: int = setting(
        -1, "Updates of node memory that training misses under --schedule fixed.", default_text="", group="Pipeline"
    )
    mitigation: str = setting(
        "none", "Blend rows of node memory that are stale: none, or by similarity.", choices=("none", "similarity"),
        group="Pipeline",
    )  # fmt: skip
    backend: str = setting(
        "auto", "Implementation of the operations: auto or torch.", choices=("auto", "torch"), group="Machine"
    )
    device: str = setting(
        "auto", "Where to train: cpu, cuda, or auto (a GPU if one is usable).", choices=("auto", "cpu", "cuda"),
        group=_MOST_USED,
    )  # fmt: skip
    placement: str = setting(
        "auto", "Where node memory and features lie: host, device (whole iterations run there), or auto.",
        choices=("auto", "device", "host"), group="Machine",
    )  # fmt: skip
    deterministic: bool = setting(
        False, "Compute the same bits in each run; the settings are then not tuned.", group="Machine"
    )
    threads: int = setting(0, "CPU threads; 0 lets the run choose.", minimum=0, group="Machine")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.seed >= 2**32:
            raise ConfigError(f"seed must be below 2**32, not {self.seed}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr must be finite and above 0, not {self.lr}")
        if self.lr * self.weight_decay >= 1:
            raise ConfigError(f"weight-decay must be below 1 / lr, {1 / self.lr:g}, not {self.weight_decay}")
        if self.negative_kind == "mixed" and self.train_negatives == 1:
            raise ConfigError("negative-kind mixed needs 2 negatives or more, as in --train-negatives 10")
        schedule, staleness = self.schedule, self.staleness
        if self.placement == "device" and (schedule, staleness, self.mitigation) != ("auto", -1, "none"):
            raise ConfigError(
                "placement device runs whole iterations, without stages or staleness; omit --schedule, --staleness "
                "and --mitigation, or use --placement host"
            )
        if staleness < -1:
            raise ConfigError(f"staleness must be at least 0, not {staleness}")
        if schedule == "fixed" and staleness == -1:
            raise ConfigError("schedule fixed needs a staleness, as in --staleness 1")
        if schedule != "fixed" and staleness != -1:
            raise ConfigError(f"staleness {staleness} is for schedule fixed; omit it with schedule {schedule}")
        if schedule == "mspipe" and self.deterministic:
            raise ConfigError(
                "schedule mspipe reads whatever has been written so far, so its runs are not bit-identical; "
                "with --deterministic use exact, or fixed with a --staleness"
            )
        if self.mitigation != "none" and (schedule not in ("mspipe", "fixed") or staleness == 0):
            raise ConfigError(
                f"mitigation {self.mitigation} is for stale memory, and schedule {schedule} has none; "
                "use mspipe, or fixed with a --staleness"
            )
        if self.device == "cuda" and self.mitigation != "none":
            raise ConfigError(f"mitigation {self.mitigation} is for the CPU; use --device cpu or --mitigation none")

    @property
    def historical(self) -> int:
        """Number of historical negatives per event, which come last."""
        shares = {"random": 0, "historical": self.train_negatives, "mixed": self.train_negatives // 2}
        return shares[self.negative_kind]


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, as in `config.toml`: [data], [model] and [train], and [settings] if it was tuned."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    settings: RunSettings | None = None

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"{name} must be a {kind.__name__}, not {getattr(self, name)!r}")
        self._follow_protocol()
        if not isinstance(self.settings, RunSettings | None):
            raise ConfigError(f"settings must be RunSettings, not {self.settings!r}")
        if self.settings is not None:
            self.settings.check_fits(self.train.schedule, self.train.threads, self.train.placement)

    def _follow_protocol(self) -> None:
        """Refuse settings that contradict the protocol of evaluation, and set its split if none is set."""
        protocol, prescribed = self.train.protocol, PROTOCOLS[self.train.protocol]
        if not prescribed:
            return
        size, split_at = prescribed["batch_size"], prescribed["split_at"]
        if self.train.batch_size != size:
            raise ConfigError(
                f"protocol {protocol} needs batch-size {size}, not {self.train.batch_size}; use {size} (the flag "
                "--protocol sets it if --batch-size is omitted)"
            )
        if self.train.negatives != TrainConfig.negatives:
            raise ConfigError(
                f"protocol {protocol} ranks among its own candidates, not among {self.train.negatives} random ones; "
                "omit --negatives"
            )
        if not self.data.split_at:
            object.__setattr__(self, "data", replace(self.data, split_at=split_at))
        elif self.data.split_at != split_at and self.data.path:
            raise ConfigError(
                f"protocol {protocol} needs split-at {split_at}, not {self.data.split_at!r}; omit --split-at"
            )

    def with_flags(self, flags: Mapping[str, Any]) -> RunConfig:
        """Return a copy with every flag that is not None applied to the field of its name.

        Raises:
            ConfigError: a value is not allowed, or there is no such recipe (see `set_flags`).
        """
        values = set_flags(flags)
        sections: dict[str, Any] = {}
        for section in ("data", "model", "train"):
            current = getattr(self, section)
            names = {f.name for f in fields(current)}
            sections[section] = replace(current, **{k: v for k, v in values.items() if k in names})
        if self.settings is not None:
            names = {name for name in ("schedule", "threads") if values.get(name) not in (None, "auto", 0)}
            sections["settings"] = replace(self.settings, **{name: values[name] for name in names})
        return replace(self, **sections)

    def to_toml(self) -> str:
        """Text of `config.toml`, with only those model settings that the model has."""
        sections = asdict(replace(self, model=self.model.resolved()))
        sections["model"] = {name: value for name, value in sections["model"].items() if value != -1}
        return tomli_w.dumps({name: values for name, values in sections.items() if values is not None})
