"""Settings of learning beside the rate: its schedule, decay and clipping, early stopping, and the log of a run."""

from __future__ import annotations

from dataclasses import dataclass

from mspipe_triton.choices import setting


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """Settings of learning beside the rate itself.

    The learning rate rises linearly over the first `warmup` iterations of a run. Then `lr_schedule` "cosine" lowers it
    to 0 along half a cosine, and "plateau" halves it whenever three epochs have not improved validation AP.
    """

    lr_schedule: str = setting(
        "constant", "Learning rate: constant, cosine (falls to 0) or plateau (halved when validation AP stalls).",
        choices=("constant", "cosine", "plateau"),
    )  # fmt: skip
    warmup: int = setting(0, "First iterations, over which the learning rate rises to --lr.", minimum=0)
    weight_decay: float = setting(0.0, "Decoupled weight decay (AdamW); 0 is plain Adam.", minimum=0)
    clip_norm: float = setting(0.0, "Largest norm of the gradients; 0 does not clip them.", minimum=0)
    patience: int = setting(
        0, "Stop after this many epochs without a better validation AP; 0 trains all epochs.", minimum=0
    )
    log: str = setting("none", "Log of the run: none or tensorboard.", choices=("none", "tensorboard"), group="Output")
