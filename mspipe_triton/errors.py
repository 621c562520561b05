"""The package's errors: what the user can mend, and what a run can fail of."""

from __future__ import annotations


class MspipeError(Exception):
    """Base of all errors that this package raises on purpose; the command line shows its message, one line."""

    exit_code = 1


class InputError(MspipeError):
    """What the user gave is wrong; the message says what, where, and how to mend it."""

    exit_code = 2


class DataError(InputError):
    """A stream of events that cannot be read or is not valid."""


class ConfigError(InputError):
    """A setting that is out of range, unknown, or not built yet."""


class GraphError(InputError):
    """A stage graph that no schedule can run."""


class RunFolderError(InputError):
    """A run folder that is missing, damaged, not writable, or holds another run."""


class TrainingError(MspipeError):
    """A run that failed while training, for instance on a loss that is not finite."""


class TuningError(MspipeError):
    """A tuner that cannot measure what it is to tune."""


class StuckError(MspipeError):
    """A pipeline in which nothing moves any more."""
