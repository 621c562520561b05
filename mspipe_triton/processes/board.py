"""The board of a run: what its processes tell one another through a store of torch, and the first failure."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

from torch.distributed.distributed_c10d import Store

LAUNCHER = -1  # the author of what the launcher writes
_VERDICT, _NONE, _ADVICE = "verdict", "null", "advice"


class Verdict(NamedTuple):
    """The reason for the end of a run that failed.

    Args:
        message: one line.
        code: the exit status of the command.
        author: rank of the process that found it, or `LAUNCHER`.
    """

    message: str
    code: int
    author: int


class Beat(NamedTuple):
    """A sign of life.

    Args:
        number: grows with every beat; 0 of a process that has not beaten yet.
        pid: number of the process on its host.
        host: name of its machine.
        done: its part of the run is complete.
    """

    number: int = 0
    pid: int = 0
    host: str = ""
    done: bool = False


class Board:
    """Beats of the processes of a run, and its verdict. No call waits for another process.

    Args:
        store: that part of the processes' store which belongs to their start; calls raise RuntimeError once its server
            has gone.
        processes: their number.
    """

    def __init__(self, store: Store, processes: int) -> None:
        self._store = store
        self._keys = [f"beat/{rank}" for rank in range(processes)]
        for key in self._keys:
            self._store.compare_set(key, "", json.dumps(Beat()))
        self._store.compare_set(_VERDICT, "", _NONE)
        self._store.compare_set(_ADVICE, "", _NONE)

    def beat(self, rank: int, number: int, done: bool) -> None:
        """Give a sign of life of this process."""
        self._store.set(self._keys[rank], json.dumps(Beat(number, os.getpid(), socket.gethostname(), done)))

    def read(self) -> tuple[Verdict | None, list[Beat]]:
        """Return the verdict, if there is one, and the last beat of each process."""
        verdict, *beats = (json.loads(each) for each in self._store.multi_get([_VERDICT, *self._keys]))
        return None if verdict is None else Verdict(*verdict), [Beat(*each) for each in beats]

    def advise(self, text: str) -> None:
        """Say how to go on if a process dies or the run is interrupted."""
        self._store.set(_ADVICE, json.dumps(text))

    def advised(self, reason: str) -> str:
        """Return the reason for an end, with the advice if there is one."""
        advice = json.loads(self._store.get(_ADVICE))
        return reason if advice is None else f"{reason}; {advice}"

    def settle(self, verdict: Verdict) -> Verdict:
        """Make this the verdict unless there is one; returns the verdict of the run."""
        text = self._store.compare_set(_VERDICT, _NONE, json.dumps(verdict))
        return Verdict(*json.loads(text))


def process_name(rank: int, names: Mapping[int, str], pid: int = 0, host: str = "") -> str:
    """Name a process by its rank, by its name, and by its number on its host, as far as there are such.

    Args:
        rank: the process's.
        names: of ranks; what else they are called.
        pid: its number, or 0.
        host: its machine if it is another, or "".
    """
    facts = [names[rank]] if rank in names else []
    if pid:
        facts.append(f"pid {pid} on {host}" if host else f"pid {pid}")
    return f"process {rank} ({', '.join(facts)})" if facts else f"process {rank}"
