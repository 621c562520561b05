"""The gate of a run that is tuned while it trains: it compiles nothing, and counts its seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.execution import RunSettings
from mspipe_triton.kernels.runtime.fusion import fusion_enabled, limit_compiling


class TimedGate:
    """The gate of a run, made at its first use, since its reference takes seconds.

    Args:
        make: makes a gate from the config of the run, its events and its shipped settings, as `RunGate`.
        stream: the events. clock: seconds.

    Attributes:
        seconds: spent so far.
    """

    def __init__(self, make: Callable[..., Any], stream: EventStream, clock: Callable[[], float]) -> None:
        self.make, self.stream, self.clock = make, stream, clock
        self.gate: Any = None
        self.seconds = 0.0

    def refusal(self, config: RunConfig, shipped: RunSettings, settings: RunSettings) -> str | None:
        """Return why a run of `config` must not use settings, in one line, or None if it may."""
        start, fused = self.clock(), fusion_enabled()
        limit_compiling(0.0)
        try:
            if self.gate is None:
                config = replace(config, settings=None)
                self.gate = self.make(config, self.stream, default=replace(shipped, fused=fused))
            reason: str | None = self.gate.refusal(replace(settings, fused=settings.fused and fused))
        except RuntimeError as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            limit_compiling()
        self.seconds += self.clock() - start
        return reason
