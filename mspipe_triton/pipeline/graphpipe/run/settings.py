"""Settings of a pipelined run."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from mspipe_triton.choices import check_settings, setting
from mspipe_triton.errors import ConfigError, suggestion

OPTIMIZERS = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class RunSettings:
    """Length, optimiser and devices of a pipelined run.

    Raises:
        ConfigError: a value is not allowed.
    """

    steps: int = setting(10, "Mini-batches to train, with those before --resume.", minimum=1)
    optimizer: str = setting("adam", "adam, adamw, sgd, or module:attr: a function that takes the parameters.")
    lr: float = setting(1e-3, "Learning rate, unless --optimizer is module:attr.")
    seed: int = setting(0, "Seed of weights, data and dropout.", minimum=0)
    device: str = setting("auto", "auto, cpu or cuda.", choices=("auto", "cpu", "cuda"))
    every: int = setting(0, "Steps between checkpoints; 0 for one at the end.", minimum=0)

    def __post_init__(self) -> None:
        check_settings(self)
        check_optimizer(self.optimizer)
        if not 0 < self.lr < inf:
            raise ConfigError(f"lr must be above 0 and finite, not {self.lr:g}")


def check_optimizer(name: str) -> None:
    """Refuse a name that is neither a known optimiser's nor module:attribute.

    Raises:
        ConfigError: it is neither.
    """
    if ":" not in name and name not in OPTIMIZERS:
        raise ConfigError(
            f"--optimizer {name!r} is not one of {', '.join(OPTIMIZERS)}; use one, or module:attribute"
            f"{suggestion(name, OPTIMIZERS)}"
        )
