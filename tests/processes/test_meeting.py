"""The meeting of processes at the start of a run: some start late, some again, and old ones have left words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from torch.distributed import HashStore, Store

from mspipe_triton.processes.meeting import FIRST, Meeting, Notes, part


def attend(meetings: Sequence[Meeting]) -> list[bool]:
    """Let processes take a step each, three times, which is enough in any order."""
    for each in [*meetings, *meetings]:
        each.attend()
    return [each.attend() for each in meetings]


def start(store: Store, ranks: Sequence[int] = (0, 1, 2), restarts: int = 0) -> list[Meeting]:
    return [Meeting(store, rank, 3, restarts) for rank in ranks]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_processes_meet_in_any_order_at_every_start(order: tuple[int, ...]) -> None:
    store = HashStore()
    for number in range(3):
        meetings = start(store, order)
        assert attend(meetings) == [True] * 3
        assert {(each.number, each.restarts) for each in meetings} == {(FIRST + number, number)}


def test_all_wait_for_the_last_one() -> None:
    store = HashStore()
    early = start(store, (0, 1))
    assert attend(early) == [False, False]
    assert [each.missing for each in early] == [[2], [0]]
    assert attend([*early, *start(store, (2,))]) == [True] * 3


@pytest.mark.parametrize("dead", [(), (0,), (1, 2), (0, 1), (0, 1, 2)], ids=str)
def test_what_old_processes_have_written_does_not_count(dead: tuple[int, ...]) -> None:
    store = HashStore()
    attend(start(store, [rank for rank in range(3) if rank not in dead]))  # these die
    early = start(store, (2, 1))
    assert attend(early) == [False, False]
    late = start(store, (0,))
    assert attend([*early, *late]) == [True] * 3
    assert len({each.number for each in (*early, *late)}) == 1


def test_a_process_that_starts_again_alone_does_not_meet_the_others_again() -> None:
    store = HashStore()
    assert attend(start(store)) == [True] * 3
    assert attend(start(store, (1, 2))) == [False, False]
    assert attend(start(store, (1,))) == [False]


def test_restarts_are_those_of_the_machine_that_counts_most() -> None:
    store = HashStore()  # as after the restart of a torchrun whose store is new
    meetings = [Meeting(store, rank, 3, restarts) for rank, restarts in enumerate((0, 2, 1))]
    assert attend(meetings) == [True] * 3
    assert [each.restarts for each in meetings] == [2, 2, 2]


def test_notes_are_shared_by_all_starts_and_parts_are_not() -> None:
    store = HashStore()
    notes = Notes(store)
    assert notes.read("folder") is None
    notes.write("folder", "runs/ä")
    part(store, 1).set("key", "1")
    assert Notes(store).read("folder") == "runs/ä"
    assert not part(store, 2).check(["key"])
    notes.write("folder", "")
    assert notes.read("folder") == ""
