"""The arguments of `train`, which all processes of a run have, and the settings that they make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mspipe_triton.cli.options import continued_config, resumed_config, run_config
from mspipe_triton.cli.seeds import folder_to_resume
from mspipe_triton.errors import ConfigError

if TYPE_CHECKING:
    from mspipe_triton.config import RunConfig
    from mspipe_triton.distributed.ranks import Ranks
    from mspipe_triton.processes.watch import Watch

FOLDER_NOTE = "folder"  # name of the note with the run folder
PER_CORE = 8  # processes, at most: each has its own copy of torch and of the node state


@dataclass(frozen=True)
class Request:
    """The arguments of `train`, which all processes of a run have.

    Args:
        restarts: how often torchrun has started the run again.
    """

    flags: dict[str, Any]
    autotune: bool
    out: str | None
    resume: bool
    past: str | None
    trace: bool
    seeds: int | None = None
    restarts: int = 0

    def check(self, nproc: int) -> None:
        """Refuse wrong arguments.

        Raises:
            InputError: a flag is wrong, or the run to resume or to continue is not usable.
        """
        from mspipe_triton.machine import cores

        if nproc < 1:
            raise ConfigError(f"--nproc must be at least 1, not {nproc}")
        most = PER_CORE * cores()
        if nproc > most:
            raise ConfigError(
                f"--nproc {nproc} is far above the {cores()} cores of this machine; use one process per GPU, or at "
                f"most {most}"
            )
        self.config()

    def config(self) -> RunConfig:
        """Return the settings of the run. Raises as `check`."""
        if self.past is not None:
            return continued_config(self.flags, self.past, self.resume)
        resumed = folder_to_resume(self.out, self.seeds) if self.resume else None
        return run_config(self.flags) if resumed is None else resumed_config(self.flags, resumed)

    def tunes(self, config: RunConfig) -> bool:
        """Return True if a run of these settings in one process uses a profile, or tunes while it trains."""
        return self.autotune and not (self.resume or config.settings or config.train.deterministic)

    def restarted(self, watch: Watch, ranks: Ranks) -> Request:
        """Return the request of a process that torchrun may have started again: to go on in the run's folder."""
        from mspipe_triton.training.run_folder import RunFolder

        def earlier() -> tuple[str, bool] | None:
            folder = watch.notes.read(FOLDER_NOTE)
            return None if folder is None else (folder, RunFolder(Path(folder)).last.exists())

        start = ranks.from_first(earlier)
        if not watch.restarts or start is None:
            return self
        folder, resume = start
        past = None if resume else self.past
        return replace(self, out=folder, resume=resume, past=past, restarts=watch.restarts)
