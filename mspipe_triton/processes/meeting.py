"""The meeting of processes at the start of a run: they agree on a part of their store that is new."""

from __future__ import annotations

import json
from uuid import uuid4

from torch.distributed.distributed_c10d import PrefixStore, Store

FIRST = 1  # number of the first start with a store
_OURS, _STARTS, _LIST = "mspipe", "mspipe/starts", "list"


def part(store: Store, number: int) -> Store:
    """Return the part of a store that belongs to a start.

    Args:
        store: shared by all processes.
        number: of the start, from `FIRST`.
    """
    return PrefixStore(f"{_OURS}/{number}", store)


class Notes:
    """Notes of the processes of a run. They live as long as the store: under torchrun, until it ends.

    Args:
        store: shared by all processes. No call waits for another process.
    """

    def __init__(self, store: Store) -> None:
        self._store = PrefixStore(f"{_OURS}/notes", store)

    def write(self, name: str, text: str) -> None:
        """Write a note for all processes, in the place of an earlier one of that name."""
        self._store.set(name, text)

    def read(self, name: str) -> str | None:
        """Return the last note of that name, or None if there is none."""
        return self._store.get(name).decode() if self._store.check([name]) else None


class Meeting:
    """Meeting of the processes of one start. No call waits for another process.

    If a process dies, torchrun ends the others, and then starts all again with the same store. What old processes have
    written there must not count. So process 0 opens a part of the store under a new number, every process signs there
    with a word of its own, and process 0 lists the words. A process that finds its word in the list has met the others.

    Args:
        store: shared by all processes.
        rank: this process's.
        processes: their number.
        restarts: of this process, as its launcher counts them. On several machines these counts may differ.

    Attributes:
        number: of this start, from `FIRST`, once the processes have met.
        restarts: the number of earlier starts, at least the largest of all counts; the same in all processes.
        missing: ranks of the processes that this one waits for.
    """

    def __init__(self, store: Store, rank: int, processes: int, restarts: int = 0) -> None:
        self.number, self.restarts = 0, restarts
        self._store, self._rank, self._processes = store, rank, processes
        self._word = uuid4().hex
        self.missing = [0]

    def attend(self) -> bool:
        """Take the next step, and return True once this process has met the others."""
        number = self.number
        if self._rank != 0 or number == 0:
            number = self._store.add(_STARTS, 1 if self._rank == 0 else 0)
        if number == 0:  # no process 0 has opened a part
            return False
        here = part(self._store, number)
        if number != self.number:
            self.number = number
            here.set(_signature(self._rank), json.dumps([self._word, self.restarts]))
        if self._rank == 0:
            self.missing = [each for each in range(self._processes) if not here.check([_signature(each)])]
            if not self.missing:
                self._close(here)
        if not here.check([_LIST]):
            return False
        words, restarts = json.loads(here.get(_LIST))
        if self._word not in words:  # of an earlier start: the new process 0 has not opened its part yet
            return False
        self.restarts = restarts
        return True

    def _close(self, here: Store) -> None:
        """List all words."""
        texts = here.multi_get([_signature(rank) for rank in range(self._processes)])
        words, counts = zip(*(json.loads(each) for each in texts), strict=True)
        here.set(_LIST, json.dumps([words, max(self.number - FIRST, *counts)]))


def _signature(rank: int) -> str:
    return f"signature/{rank}"
