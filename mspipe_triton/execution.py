"""Execution settings of a run, which tuning chooses; they do not change what a run computes."""

from __future__ import annotations

from dataclasses import dataclass

from mspipe_triton.choices import check_settings, setting
from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.schedules import RESIDENT, SCHEDULES

WITHOUT_STALENESS = ("serial", "prefetch", "exact")  # `auto` picks one of these, or RESIDENT


@dataclass(frozen=True)
class RunSettings:
    """Execution settings, which tuning chooses: results differ only in the order of float sums.

    Args:
        schedule: one of the schedules, "resident", or "auto" to follow the run's schedule and placement.
        prefetch: finished iterations that may wait between two stages; unused by `serial`.
        threads: torch threads of the compute stages; host_threads: of the other stages.
        deduplicate: "all": one row per distinct node of a batch; "roots": one row per neighbour slot, which saves the
            search for distinct neighbours.
        fused: True compiles loops of the torch references.
        features: "host" or "device", the place of the edge feature table; the same on the CPU.
        gather: "copy" or "kernel", the way rows of host tables get to a GPU (see `Placement`).
        captured: True replays a resident iteration as one CUDA graph; False launches its kernels one by one.
        branch: True gives a resident iteration branches: sampling of the next batch beside it, mail beside Adam.
    """

    schedule: str = setting("auto", choices=("auto", *SCHEDULES, RESIDENT))
    prefetch: int = setting(3, minimum=0)
    threads: int = setting(1, minimum=1)
    host_threads: int = setting(1, minimum=1)
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
        """True if all tables are on the device and iterations run whole."""
        return self.schedule == RESIDENT

    def check_fits(self, schedule: str, threads: int, placement: str = "auto") -> None:
        """Check that the settings agree with a run's `schedule`, `threads` and `placement`.

        Raises:
            ConfigError: one of them differs; "auto" allows all that miss no update, 0 threads allow any number.
        """
        if threads not in (0, self.threads):
            raise ConfigError(f"[settings] threads {self.threads} differs from the run's, {threads}; change either")
        if self.schedule == "auto":
            return
        if placement not in ("auto", "device" if self.resident else "host"):
            other = "device" if placement == "host" else "host"
            raise ConfigError(
                f"[settings] schedule {self.schedule} is not for placement {placement}; remove it from the file, or "
                f"use --placement {other}"
            )
        if self.schedule not in ((*WITHOUT_STALENESS, RESIDENT) if schedule == "auto" else (schedule,)):
            raise ConfigError(f"[settings] schedule {self.schedule} differs from the run's, {schedule}; change either")
