"""Errors of the package: those that the user can fix, and failures of a run; errors of others, and misspelt names."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from difflib import get_close_matches

_ALIASES = {  # names of settings in other libraries
    "learning_rate": "lr", "num_epochs": "epochs", "n_epochs": "epochs", "n_epoch": "epochs", "max_epochs": "epochs",
    "batch": "batch_size", "bs": "batch_size", "hidden_dim": "dim", "hidden_size": "dim", "hidden": "dim",
    "embedding_dim": "dim", "embed_dim": "dim", "emb_dim": "dim", "memory_dim": "dim", "num_heads": "heads",
    "n_head": "heads", "n_heads": "heads", "num_layers": "layers", "n_layer": "layers", "n_layers": "layers",
    "num_neighbors": "fanout", "n_neighbors": "fanout", "n_degree": "fanout", "neighbors": "fanout",
    "wd": "weight_decay", "l2": "weight_decay", "drop_out": "dropout", "early_stopping": "patience",
    "random_seed": "seed", "random_state": "seed", "num_workers": "threads", "workers": "threads",
    "num_threads": "threads", "num_negatives": "negatives",
}  # fmt: skip


class MspipeError(Exception):
    """Base of all errors that this package raises on purpose; the command line shows the message in one line."""

    exit_code = 1


class InputError(MspipeError):
    """Wrong input from the user; the message says what is wrong, where, and how to fix it."""

    exit_code = 2


class DataError(InputError):
    """A stream of events that cannot be read or is invalid."""


class ConfigError(InputError):
    """A setting that is out of range, unknown, or not supported."""


class GraphError(InputError):
    """A stage graph that no schedule can run."""


class RunFolderError(InputError):
    """A run folder that is missing, damaged or not writable, or that holds another run."""


class TrainingError(MspipeError):
    """A run that failed during training, for instance because the loss was not finite."""


class PipelineError(MspipeError):
    """A run in stages or processes that failed: a stage that raised an error, or a process that died."""


class TuningError(MspipeError):
    """A tuner that cannot measure the run it should tune."""


class StuckError(MspipeError):
    """A deadlocked pipeline, in which no stage can make progress."""


def command(*words: object) -> str:
    """Return a command of this program as a user can paste it, in backticks."""
    return f"`mspipe-triton {shlex.join(map(str, words))}`"


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def usual(word: str) -> str:
    """Return a setting's name with underscores, instead of one that other libraries use."""
    plain = word.replace("-", "_")
    return _ALIASES.get(plain.casefold(), plain)


def closest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that a word may stand for, in whatever case or library's words it is written, or None."""
    by_case = {name.casefold(): name for name in names}
    setting = usual(word.lstrip("-"))
    alias = f"{'--' if word.startswith('--') else ''}{setting.replace('_', '-')}"
    for name in (setting, alias):
        if name in by_case:
            return by_case[name]
    matches = get_close_matches(word.casefold(), by_case, 1)
    return by_case[matches[0]] if matches else None


def suggestion(word: object, names: Iterable[str]) -> str:
    """Return the end of a message on an unknown word, as in "; did you mean tgn?"; "" if no name is close to it."""
    name = closest(str(word), names)
    return "" if name is None else f"; did you mean {name}?"
