"""Limits on what clients may ask of the HTTP front."""

from __future__ import annotations

from dataclasses import dataclass

from mspipe_triton.choices import check_settings, setting
from mspipe_triton.errors import ConfigError

_HOUR = 3600


@dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Args:
        max_body: bytes of a body. max_ids: ids in a question, be it candidates, pairs, nodes or destinations to return.
        rate: requests per second of one client address, and as many at once; 0 for no limit.
        timeout: seconds until a request's head must be complete, and then its body; and seconds in which a client must
            take a part of its answer. connections: number of open ones.

    Raises:
        ConfigError: a value is out of range.
    """

    max_body: int = setting(8 * 2**20, "Largest body of a request, in bytes", minimum=1)
    max_ids: int = setting(10_000, "Most ids in a question", minimum=1)
    rate: float = setting(0.0, "Most requests per second of a client address; 0 for no limit", minimum=0)
    timeout: float = setting(10.0, "Seconds in which a client must send its request")
    connections: int = setting(256, "Most open connections", minimum=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.timeout <= _HOUR:
            raise ConfigError(f"timeout must be above 0 and at most {_HOUR} seconds, not {self.timeout}")
        if not self.rate < float("inf"):
            raise ConfigError(f"rate must be a finite number, not {self.rate}; 0 means no limit")
