"""Compiled loops of a run: in use from its start, compiled beside it and used later, or left out if it is short."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from platformdirs import user_cache_dir

from mspipe_triton import kernels
from mspipe_triton.data.events import EventStream
from mspipe_triton.files import atomic_file
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import (
    compile_seconds,
    enable_fusion,
    fusion_enabled,
    fusion_failure,
    running_clock,
)
from mspipe_triton.settings import compiler
from mspipe_triton.training.precompile import Compiled, CompilerProcess
from mspipe_triton.training.strategy import Strategy, short_line

DECIDING = 16  # iterations before the decision
MARGIN = 1.5  # the expected gain must exceed the cost by this factor
_SHARE = 0.3  # of the compiling process's seconds that a run loses beside it
_SCORING = 0.5  # seconds of scoring an event, in those of training on it
_RANKING = 4.0  # the same where destinations are ranked
_LEAST, _MOST = 0.05, 1.0  # bounds of a gain, which other work on the machine may distort
_EVERY = 0.2  # seconds between two looks at the process


class Beside(Protocol):
    """A compiling process, as `CompilerProcess`."""

    def poll(self) -> Compiled | None:
        """Return the result once it has ended."""

    def close(self) -> None:
        """End it."""


@dataclass
class Costs:
    """Costs and gains of compiling on this machine, as earlier runs have measured them, in a file of the user's cache.

    Args:
        cold: seconds of compiling with nothing in torch's cache. warm: seconds of tracing and loading.
        gains: by `subject`, gains in speed from loops that are in torch's cache.
    """

    cold: float = 25.0
    warm: float = 5.0
    gains: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def path() -> Path:
        """Return the file."""
        return Path(user_cache_dir("mspipe-triton")) / "compiling.json"

    @staticmethod
    def load() -> Costs:
        """Read the file; without one, or with a damaged one, the costs are those of a usual machine."""
        try:
            values = json.loads(Costs.path().read_text(encoding="utf-8"))
            gains = {str(name): float(gain) for name, gain in values["gains"].items()}
            return Costs(float(values["cold"]), float(values["warm"]), gains)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Costs()

    def save(self) -> None:
        """Write the file; a cache that cannot be written keeps nothing."""
        try:
            Costs.path().parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(Costs.path()) as temporary:
                temporary.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        except OSError:
            pass


class Loops:
    """The loops of one run.

    They are in use from the start where bits must not depend on the time (`--deterministic`), where a GPU or several
    ranks compute, and where they cannot be compiled at all. Other runs start without them. After `DECIDING` iterations
    the rest of the run is estimated, and if compiling is worth its cost, a process of low priority compiles them into
    torch's cache while training goes on. Then the run switches to them, and pays for tracing and loading only.

    Args:
        session: the run's. stream: its events, as they were read. epochs: that it will train.
        note: gets lines for the user.
        start: starts the process. clock: seconds. declines: of the run's strategy.

    Attributes:
        ready: True while loops are compiled. busy: True while a process compiles them.
    """

    def __init__(
        self,
        session: Session,
        stream: EventStream,
        epochs: int,
        note: Callable[[str], None],
        start: Callable[[], Beside] | None = None,
        clock: Callable[[], float] = running_clock,
        declines: Callable[[float], bool] | None = None,
    ) -> None:
        self.session, self.note, self.clock = session, note, clock
        self.declines = declines or Strategy().declines
        self.start = start or (lambda: CompilerProcess(session.config, stream))
        self.process: Beside | None = None
        self.allowed, fixed = fusion_enabled(), must_not_wait(session)
        self.ready, self.deciding = self.allowed and fixed, self.allowed and not fixed
        self.seconds, self.after = list[float](), list[float]()
        self.iterations = self.all_iterations = epochs * -(-session.training_events // session.size)
        self.epochs, self.costs, self.subject = epochs, Costs(), ""
        self.last: float | None = None
        self.looked, self.quiet, self.before = 0.0, False, compile_seconds()
        if self.deciding:
            enable_fusion(False)
            self.costs, self.subject = Costs.load(), subject(session)

    @property
    def busy(self) -> bool:
        """True while a process compiles the loops."""
        return self.process is not None

    def tell(self) -> None:
        """Tell the user, once, that loops are not used, and why."""
        settings, lacking = self.session.settings, compiler() is None
        failure = fusion_failure()
        if self.quiet or not (failure or (not self.allowed and (settings.fused or lacking))):
            return
        self.quiet = True
        reason = failure or ("no C++ compiler found" if lacking else "switched off")
        self.note(f"Running without fused loops: {reason}.")

    def use(self, fused: bool) -> None:
        """Use the loops if they are compiled and `fused` asks for them."""
        enable_fusion(fused and self.ready)

    def pause(self) -> None:
        """Leave the time until the next iteration out of the estimate."""
        self.last = None

    def iteration(self) -> None:
        """Handle the end of a training iteration: decide, look at the process, or switch to the loops."""
        self.iterations -= 1
        now, last = self.clock(), self.last
        self.last = now
        if last is not None and self.deciding:
            self.seconds.append(now - last)
            if len(self.seconds) == DECIDING:
                self.deciding = False
                self._decide()
        elif last is not None and self.ready and len(self.after) < DECIDING:
            self.after.append(now - last)
        elif self.process is not None and time.monotonic() - self.looked > _EVERY:
            self.looked = time.monotonic()
            result = self.process.poll()
            if result is not None:
                self._finish(result)
        if self.iterations == 0:
            self.close()

    def close(self) -> None:
        """End the process, if it still runs."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def remember(self, disturbed: bool = False) -> None:
        """Keep what this run has measured for later ones; called at its end.

        Args:
            disturbed: other work has slowed iterations down, so their times say little about the gain.
        """
        if not (self.subject and self.ready):
            return
        if len(self.after) == DECIDING:
            measured = statistics.median(self.seconds) / statistics.median(self.after) - 1
            gain = self.gain if disturbed else measured
            self.costs.gains[subject(self.session)] = min(max(gain, _LEAST), _MOST)
        seconds = compile_seconds() - self.before
        if seconds < self.costs.cold / 2:  # more means that torch's cache had lost them
            self.costs.warm = seconds
        self.costs.save()

    @property
    def gain(self) -> float:
        """The expected gain in speed."""
        return self.costs.gains.get(self.subject, 0.2)

    def _decide(self) -> None:
        """Compile if the run is long enough to gain from it."""
        seconds, warm = self._remaining(), self.subject in self.costs.gains
        cost = self.costs.warm + (0.0 if warm else _SHARE * self.costs.cold)
        if seconds * self.gain / (1 + self.gain) < MARGIN * cost:
            training = statistics.median(self.seconds) * self.all_iterations
            self.note(short_line(training, "compiling or tuning" if self.declines(training) else "compiling"))
        elif warm:
            self._switch()
        else:
            try:
                self.process = self.start()
            except OSError as error:
                self.note(f"Loops are not compiled: no process can be started ({error.strerror or error}).")
            else:
                self.note("Loops are compiled beside training, in a process of low priority.")

    def _remaining(self) -> float:
        """Return the estimated seconds of the run's training and evaluation to come."""
        session, iteration = self.session, statistics.median(self.seconds)
        evaluated = len(session.stream) - session.split.train_end
        validated = session.split.val_end - session.split.train_end
        events = _SCORING * self.epochs * validated + _RANKING * evaluated
        return iteration * (self.iterations + events / session.size)

    def _finish(self, result: Compiled) -> None:
        self.close()
        if result.failure is not None:
            self.quiet = True
            self.note(f"Running without fused loops: {result.failure}.")
            return
        self.costs.cold = max(self.costs.warm, result.seconds)
        self._switch()

    def _switch(self) -> None:
        self.ready = True
        self.use(self.session.settings.fused)


def must_not_wait(session: Session) -> bool:
    """Return True if a run must compile its loops before its first iteration, if at all."""
    return session.config.train.deterministic or session.device.type != "cpu" or not session.ranks.alone


def subject(session: Session) -> str:
    """Return a short hash of what compiled loops depend on: model, widths, software, processor, and torch's cache."""
    sources = max(path.stat().st_mtime_ns for path in Path(kernels.__path__[0]).rglob("*.py"))
    train = session.config.train
    facts: list[Any] = [
        asdict(session.config.model.resolved()), train.task, train.loss, train.train_negatives, train.negatives,
        session.stream.dim_edge, session.stream.dim_node, session.settings.deduplicate, session.settings.resident,
        torch.__version__, torch.backends.cpu.get_cpu_capability(), sources, _cache_folder(),
    ]  # fmt: skip
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def _cache_folder() -> tuple[str, int]:
    """Return torch's cache folder and its number on the disk, which changes if somebody removes the folder."""
    try:
        default = f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}"
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default
        return folder, os.stat(folder).st_ino
    except (OSError, KeyError):
        return "", 0
