"""Settings of a service, beside the limits on requests; importing it loads no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mspipe_triton.choices import check_settings, setting
from mspipe_triton.errors import ConfigError
from mspipe_triton.serving.defaults import LATE, SHARE

STANDARD_INPUT = "-"
_MOST_THREADS = 256
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Every:
    """The time from one retraining to the next: a number of events, or of seconds; the other is infinite."""

    events: float = float("inf")
    seconds: float = float("inf")

    @staticmethod
    def parse(text: str) -> Every:
        """Read a number of events, as in 10000, or a time, as in 90s, 30m, 6h or 1d.

        Raises:
            ConfigError: it is neither, or not above 0.
        """
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text.strip())
        if match is None or not float(match[1]) or (not match[2] and "." in match[1]):
            raise ConfigError(f"retrain is {text!r}; give a number of events, as in 10000, or a time, as in 30m or 6h")
        return Every(seconds=float(match[1]) * _UNITS[match[2]]) if match[2] else Every(events=int(match[1]))


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of a service.

    Args:
        state: folder of the log and the snapshots; "" for `served` in the run folder.
        queue: the most requests that wait.
        snapshot_events, snapshot_seconds: a snapshot is written after so many events, or seconds with an event.
        retrain: see `Every`; "" for no retraining.
        follow: a file that grows, or "-" for standard input, from which events come; "" for requests.
        late: late events of that source are put aside ("refuse") or left out ("drop").
        replayed: standard input starts again from its first line, so the lines that were read before are skipped.
        share: see `load`. threads: of torch.

    Raises:
        ConfigError: a value is out of range, or needs another setting.
    """

    state: str = setting("", "Folder of the log and the snapshots", default_text="RUN/served")
    queue: int = setting(256, "Most requests that wait; others get 429", minimum=1)
    snapshot_events: int = setting(100_000, "Events from one snapshot to the next, at most", minimum=1)
    snapshot_seconds: float = setting(300.0, "Seconds from one snapshot to the next, if there are events", minimum=0)
    retrain: str = setting("", "Train on what came since, after so many events (10000) or so long (6h)")
    follow: str = setting("", "File that grows, or - for standard input, from which events come instead of /observe")
    late: str = setting("refuse", "Late events of --follow: refuse puts them aside, drop leaves them out", choices=LATE)
    replayed: bool = setting(False, "With --follow -: standard input starts again from its first line")
    share: float = setting(
        SHARE, "Age of embeddings that cached rankings keep, as a share of the quiet time", minimum=0
    )
    threads: int = setting(1, "Threads of torch", minimum=1)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("snapshot_seconds", "share"):
            if not getattr(self, name) < float("inf"):
                raise ConfigError(f"{name.replace('_', '-')} must be a finite number, not {getattr(self, name)}")
        if self.threads > _MOST_THREADS:
            raise ConfigError(f"threads must be at most {_MOST_THREADS}, not {self.threads}")
        if self.retrain:
            Every.parse(self.retrain)
        if self.replayed and self.follow != STANDARD_INPUT:
            raise ConfigError("replayed is for standard input; use it with --follow -")
        if self.late != "refuse" and not self.follow:
            raise ConfigError('late is for --follow; requests say it themselves, as in "late": "drop"')
