"""Watch over the processes of a run: finds the one that died, and ends this process when any has failed."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from sysconfig import get_path
from traceback import extract_tb
from types import TracebackType
from typing import NoReturn

import torch
from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from mspipe_triton.errors import MspipeError, first_line
from mspipe_triton.processes.board import Beat, Board, Verdict, process_name
from mspipe_triton.processes.meeting import Meeting, Notes, part

BEAT = 0.5  # seconds between beats
STALLED = 20.0  # seconds without a beat after which a process counts as dead
SUSPECT = 3.0  # the same once another sign says that one is dead
STARTING = 10  # times as long as `STALLED`, for a process to join
_MEET = 0.05  # seconds between steps of the meeting at the start
_BROKEN = re.compile(r"gloo/|NCCL|[Cc]onnection (closed|reset|refused)|Broken pipe")


class Watch:
    """A context manager around this process's part of a run, with a thread that exchanges beats with the other ones.

    The block begins once all processes have started, and ends once the parts of all are complete. If one fails, no
    process leaves the block: each exits, and of all verdicts only the first one is printed. A connection that breaks is
    a sign that its other end is dead, and so is SIGTERM, which torchrun sends to the others when a process dies: the
    thread then looks for the process whose beats have ended. The signals and the thread need no Python code of the main
    thread to run, which may be waiting inside torch.

    Args:
        store: shared by all processes; in this process only calls that do not wait may use it beside the watch.
        rank: this process's.
        processes: their number.
        say: prints the verdict, a line; None if the launcher does that, which also ends the processes.
        host: rank of the process that hosts the store; None if the launcher does.
        stalled: seconds without a beat after which a process counts as dead.
        restarts: how often torchrun has started this process again.

    Attributes:
        names: of ranks; what else messages call them.
        notes: those of all processes, which earlier starts under the same torchrun have written too.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        processes: int,
        say: Callable[[str], None] | None,
        host: int | None = None,
        stalled: float = STALLED,
        restarts: int = 0,
    ) -> None:
        self.rank, self.processes, self.say, self.host, self.stalled = rank, processes, say, host, stalled
        self.names: Mapping[int, str] = {}
        self.notes = Notes(store)
        self._store, self._meeting = store, Meeting(store, rank, processes, restarts)
        self._board: Board | None = None
        self._count, self._done = 0, False
        self._failure: Verdict | None = None
        self._suspicion: str | None = None
        self._suspected = 0.0  # seconds since there is a suspicion
        self._beats = [Beat()] * processes
        self._silence = [0.0] * processes  # seconds since the last beat of each process
        self._waited = 0.0  # seconds of the meeting
        self._met, self._complete = threading.Event(), threading.Event()
        self._bell, self._ring = socket.socketpair()  # bytes are numbers of signals, or 0 to wake the thread
        for each in (self._bell, self._ring):
            each.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mspipe-watch", daemon=True)

    def __enter__(self) -> Watch:
        if self.say is not None:
            self._handlers = {number: signal.signal(number, _pass) for number in (signal.SIGTERM, signal.SIGINT)}
            signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)
            os.register_at_fork(after_in_child=_restore_signals)
        self._thread.start()
        self._met.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._done = True
        elif isinstance(error, DistError) or (isinstance(error, RuntimeError) and _BROKEN.search(str(error))):
            self._suspect(f"{self._name(self.rank)} lost a connection: {first_line(error)}")
        else:
            self._failure = self._verdict_on(error)
        self._ring.send(b"\0")
        self._complete.wait()
        self._thread.join()
        if self.say is not None:
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def restarts(self) -> int:
        """Return the number of earlier starts of the run under the same torchrun; the same in all processes."""
        return self._meeting.restarts

    def advise(self, text: str) -> None:
        """Say how to go on if a process dies or the run is interrupted: the end of the message; in the block."""
        assert self._board is not None
        self._board.advise(text)

    def store(self) -> Store:
        """Return a connection of its own to the processes' store, in which no earlier start has written."""
        connection = self._store.clone()  # type: ignore[attr-defined]  # torch's list of its methods lacks it
        return PrefixStore("work", part(connection, self._meeting.number))

    def _verdict_on(self, error: BaseException) -> Verdict:
        """Return the verdict that an exception of this process is."""
        if isinstance(error, MspipeError):
            return Verdict(str(error), error.exit_code, self.rank)
        name = f"process {self.rank}"
        if self.rank in self.names:
            name = f"{self.names[self.rank]} ({name})"
        return Verdict(self._advised(f"{name} raised {first_line(error)}{_place(error)}"), 1, self.rank)

    def _advised(self, reason: str) -> str:
        return reason if self._board is None else self._board.advised(reason)

    def _name(self, rank: int) -> str:
        beat, here = self._beats[rank], self._beats[self.rank].host
        return process_name(rank, self.names, beat.pid, "" if beat.host == here else beat.host)

    def _suspect(self, reason: str) -> None:
        self._suspicion = self._suspicion or reason

    def _run(self) -> None:
        """Meet the others, then beat and read their beats until all are done."""
        last = time.monotonic()
        try:
            while not self._complete.is_set():
                now = time.monotonic()
                # While this process was stopped or slow, it has not seen the others' beats either.
                self._tick(min(now - last, 2 * BEAT))
                last = now
        except RuntimeError:  # of torch: the store's server has gone
            if self._done:  # and with it a process that saw that all are done
                self._complete.set()
                return
            host = "the launcher" if self.host is None else self._name(self.host)
            speaks = self.rank == (1 if self.host == 0 else 0)
            self._exit(1, f"{host} died" if speaks else None)

    def _tick(self, passed: float) -> None:
        board = self._board
        if board is None:
            self._attend(passed)
            return
        self._count += 1
        board.beat(self.rank, self._count, self._done)
        verdict, beats = board.read()
        self._silence = [
            0.0 if new != old or new.done else seconds + passed
            for new, old, seconds in zip(beats, self._beats, self._silence, strict=True)
        ]
        self._beats = beats
        self._suspected += passed if self._suspicion else 0.0
        if all(each.done for each in beats):
            self._complete.set()
            return
        finding = None if verdict or self._failure else self._diagnose()
        mine = self._failure or (Verdict(board.advised(finding), 1, self.rank) if finding else None)
        if verdict is None and mine is not None:
            verdict = board.settle(mine)
        if verdict is not None:
            self._exit(verdict.code, verdict.message if verdict == mine else None)
        self._pause(BEAT)

    def _attend(self, passed: float) -> None:
        """Take a step towards the other processes, and end this one if one of them does not join.

        Process 0 says so, or process 1 if it is process 0 that does not.
        """
        if self._meeting.attend():
            self._board = Board(part(self._store, self._meeting.number), self.processes)
            self._met.set()
            return
        self._waited += passed
        patience = self.stalled * STARTING + (SUSPECT if self.rank else 0)
        if self._waited < patience and not self._failure and not self._suspicion:
            self._pause(_MEET)
            return
        late = f"{self._name(self._meeting.missing[0])} has not joined"
        reason = f"{self._suspicion}; {late}" if self._suspicion else f"{late} for {self._waited:.0f} seconds"
        verdict = self._failure or Verdict(reason, 1, self.rank)
        if self.rank == 0:
            Board(part(self._store, self._meeting.number), self.processes).settle(verdict)
        speaks = self.rank == 0 or (self.rank == 1 and self._waited >= patience)
        self._exit(verdict.code, verdict.message if speaks else None)

    def _diagnose(self) -> str | None:
        """Name the process that is dead, if one is: of several, the longest silent."""
        if self._suspicion and self._suspected < SUSPECT + 2 * BEAT:  # by then the dead one is silent for `SUSPECT`
            return None
        limit = SUSPECT if self._suspicion else self.stalled
        dead = [(seconds, rank) for rank, seconds in enumerate(self._silence) if rank != self.rank and seconds >= limit]
        if not dead:
            return self._suspicion
        seconds, rank = max(dead)
        return f"{self._name(rank)} {'died' if self._suspicion else f'has not answered for {seconds:.0f} seconds'}"

    def _pause(self, seconds: float) -> None:
        """Wait for a signal, for the main thread, or for some time."""
        if not select.select([self._bell], [], [], seconds)[0]:
            return
        for number in self._bell.recv(64):
            if number == signal.SIGINT:
                self._failure = self._failure or Verdict(self._advised("interrupted"), 1, self.rank)
            elif number == signal.SIGTERM:
                self._suspect("stopped by SIGTERM")

    def _exit(self, code: int, message: str | None) -> NoReturn:
        """End the process, whatever its main thread waits for, even for the reader of what it prints."""

        def speak() -> None:
            if message is not None and self.say is not None:
                self.say(message)
            sys.stdout.flush()
            sys.stderr.flush()

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        speaker.join(SUSPECT)
        if self.rank == self.host:  # so that the others can read the verdict
            time.sleep(2 * BEAT)
        os._exit(code)


def _place(error: BaseException) -> str:
    """Return where an exception comes from, in parentheses: its notes, or a file and line of the user's code; or ""."""
    if notes := getattr(error, "__notes__", []):
        return f" ({'; '.join(notes)})"
    others = ("<", str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), get_path("stdlib"))
    for frame in reversed(extract_tb(error.__traceback__)):
        if not frame.filename.startswith(others):
            return f" ({os.path.basename(frame.filename)}:{frame.lineno})"
    return ""


def _pass(number: int, frame: object) -> None:
    """Leave a signal to the thread, which gets its number from the interpreter."""


def _restore_signals() -> None:
    """Let processes that the user's code forks end by signals."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
