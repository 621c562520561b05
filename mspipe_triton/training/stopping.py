"""Decisions about later epochs by the validation of earlier ones: the end of training, and a lower learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from mspipe_triton.config import TrainConfig
from mspipe_triton.errors import ConfigError

STALL = 3  # epochs without a better validation AP after which a plateau halves the rate
_THRESHOLD = 1e-4  # relative gain below which a plateau sees none


def stops(scores: Sequence[float], patience: int) -> bool:
    """Return True if the last `patience` epochs have not improved validation AP; never if that is 0.

    Args:
        scores: validation AP by epoch.
    """
    return patience > 0 and len(scores) - 1 - _best(scores) >= patience


def stopped_line(epochs: int, train: TrainConfig) -> str:
    """Return the line about a run that stops after a number of epochs."""
    since = "the last epoch" if train.patience == 1 else f"the last {train.patience} epochs"
    return (
        f"Stopped after epoch {epochs} of {train.epochs}, since {since} did not improve validation AP. --resume with a "
        "larger --patience trains on."
    )


def halvings(scores: Sequence[float]) -> int:
    """Return how often plateaus have halved the learning rate, as torch's `ReduceLROnPlateau` with patience 2 does.

    Args:
        scores: validation AP by epoch.
    """
    best, stalled, count = float("-inf"), 0, 0
    for score in scores:
        if score > best * (1 + _THRESHOLD):
            best, stalled = score, 0
        else:
            stalled += 1
        if stalled == STALL:
            stalled, count = 0, count + 1
    return count


def idle_settings(train: TrainConfig) -> list[str]:
    """Return a line for each setting that cannot act in as few epochs as a run has."""
    lines, epochs = [], f"a run of {train.epochs} epoch{'' if train.epochs == 1 else 's'}"
    if train.patience > max(0, train.epochs - 2):
        lines.append(f"--patience {train.patience} cannot end {epochs} early; add --epochs.")
    if train.lr_schedule == "plateau" and train.epochs < STALL + 2:
        lines.append(f"--lr-schedule plateau cannot halve the rate in {epochs}; use --epochs {STALL + 2} or more.")
    return lines


def check_warmup(train: TrainConfig, iterations: int) -> None:
    """Refuse a warm-up that a run never leaves.

    Args:
        iterations: number per epoch.

    Raises:
        ConfigError: it is not below the number of all iterations.
    """
    total = train.epochs * iterations
    if train.warmup >= total and train.warmup:
        raise ConfigError(
            f"warmup {train.warmup} is not below the run's {total:,} iterations ({train.epochs} x {iterations:,}); use "
            "a smaller --warmup, or more --epochs"
        )


def _best(scores: Sequence[float]) -> int:
    """Return the place of the first best score, −1 without any."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place), default=-1)
