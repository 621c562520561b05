"""Compiling a run's loops in a process beside it: the process itself, and the run's end of it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mspipe_triton.config import RunConfig
from mspipe_triton.data.events import EventStream, Split
from mspipe_triton.data.head import first_events
from mspipe_triton.iteration.session import Session
from mspipe_triton.kernels.runtime.fusion import fusion_failure
from mspipe_triton.settings import process_settings
from mspipe_triton.training.way import SPLITS, carry_out

BATCHES = 3  # of training
_NICENESS = 19
_GROUPS = hasattr(os, "killpg")


@dataclass(frozen=True)
class Compiled:
    """The end of a compiling process.

    Args:
        seconds: of the processor that it used. failure: one line on why loops cannot be used, or None.
    """

    seconds: float
    failure: str | None = None


class CompilerProcess:
    """A process of low priority that compiles a run's loops into torch's cache on disk, and ends with this one.

    It trains a few batches of the first events, and scores some. The pipe to its input closes when this process ends,
    however that happens, and then it ends too.

    Args:
        config: of the run, with its settings. stream: the run's events.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, config: RunConfig, stream: EventStream) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="mspipe-triton-")
        path = Path(self.folder.name)
        (path / "run").write_bytes(pickle.dumps((config, small_stream(config, stream))))
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }  # fmt: skip
        with open(path / "log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mspipe_triton.training.precompile", self.folder.name], stdin=subprocess.PIPE,
                stdout=log, stderr=log, env=environment, start_new_session=_GROUPS,
            )  # fmt: skip

    def poll(self) -> Compiled | None:
        """Return the result once the process has ended, else None."""
        status = self.process.poll()
        if status is None:
            return None
        path = Path(self.folder.name)
        try:
            return Compiled(**json.loads((path / "result").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            lines = list[str]()
            with contextlib.suppress(OSError):  # somebody may have removed the folder
                lines = (path / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = lines[-1][:160] if lines and status > 0 else f"exit status {status}"
            return Compiled(0.0, f"the compiling process has ended early: {reason}")

    def close(self) -> None:
        """End the process and its children, if they still run, and remove its files."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL) if _GROUPS else self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.folder.cleanup()


def small_stream(config: RunConfig, stream: EventStream) -> EventStream:
    """Return a stream with a few batches of training events and one or two of each other split."""
    size = config.train.batch_size
    result = first_events(stream, (BATCHES + len(SPLITS)) * size)
    events = len(result)
    train_end = min(max(size, events - len(SPLITS) * size), events - 2)
    borders = Split(train_end, train_end + max(1, (events - train_end) // 2))
    return replace(result, t=torch.arange(events).to(result.t.dtype), borders=borders)


def compile_run(config: RunConfig, stream: EventStream) -> Compiled:
    """Compile the loops of a run's training and evaluation, by running both on a small stream."""
    ranked = 0 if config.train.protocol == "tgb" else config.train.negatives
    with process_settings(config):
        way = carry_out(Session.create(config, stream))
        way.train_epoch(1)
        for split in SPLITS:
            for _ in way.predict(split, ranked):
                pass
    return Compiled(sum(os.times()[:4]), fusion_failure())


def main(folder: Path) -> None:
    """Compile the run in a folder, and write the result there."""
    threading.Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    config, stream = pickle.loads((folder / "run").read_bytes())
    result = compile_run(config, stream)
    temporary = folder / "result.tmp"
    temporary.write_text(json.dumps(vars(result)), encoding="utf-8")
    temporary.rename(folder / "result")


def _end_with_parent(folder: Path) -> None:
    """End this process and its children when its input ends, and remove its files, which a killed run leaves."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    if _GROUPS and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # torch's pool of compilers takes seconds to end
