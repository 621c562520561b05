"""Node state beside a writer: a read is whole and of one version, however the write is cut up."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.mailbox import CompactMailbox, LastMail, Rows, Written
from mspipe_triton.state import NodeState

NODES, DIM, EDGE = 12, 3, 2
FEATURES = torch.arange(200 * EDGE, dtype=torch.float64).view(200, EDGE)


def written(number: int, nodes: list[int], dim: int = DIM) -> Written:
    """A write whose every field is `number`, so that a record of two writes shows."""
    ids, size = torch.tensor(nodes, dtype=torch.int64), len(nodes)
    rows, times = torch.full((size, dim), float(number), dtype=torch.float64), torch.full((size,), number)
    record = LastMail(rows, times, rows.clone(), times.clone(), times.clone(), FEATURES[times])
    return [Rows(ids, record._asdict())]


def empty(nodes: int = NODES, dim: int = DIM) -> NodeState[LastMail]:
    return NodeState.create(CompactMailbox(dim, EDGE, torch.float64), nodes, torch.tensor(0))


def expected(writes: list[list[int]], upto: int, node: int) -> int | None:
    """The number of the last write of a node among the first `upto`, or None."""
    return max((number for number in range(upto) if node in writes[number]), default=None)


def check(record: LastMail, version: int, writes: list[list[int]]) -> None:
    for node in range(NODES):
        number = expected(writes, version, node)
        if number is None:
            assert record.event_id[node] == -1
            assert not record.memory[node].any()
            continue
        for part in record[:-1]:
            assert (part[node] == number).all(), (node, number, part[node])
        assert torch.equal(record.mail_features[node], FEATURES[number])


class Interrupted(NodeState[LastMail]):
    """Lets writes happen after some of the tables have been read."""

    pending: list[int]

    def fetch(self, nodes: torch.Tensor, features: torch.Tensor) -> LastMail:
        before = super().fetch(nodes, features)
        cut = self.pending.pop(0)
        for _ in range(self.pending.pop(0)):
            self.write(self.ended)
        after = super().fetch(nodes, features)
        return LastMail(*before[:cut], *after[cut:5], before.mail_features if cut > 3 else after.mail_features)


@settings(deadline=None)
@given(st.data())
def test_a_read_that_writes_fall_into_is_of_the_later_version(data: st.DataObject) -> None:
    some = st.lists(st.integers(0, NODES - 1), min_size=1, max_size=8, unique=True)
    writes = data.draw(st.lists(some, min_size=1, max_size=6))
    state = empty()
    state.__class__ = Interrupted
    for number, nodes in enumerate(writes):
        state.publish(number, written(number, nodes))
    first = data.draw(st.integers(0, len(writes)))
    for number in range(first):
        state.write(number)
    during = data.draw(st.integers(0, len(writes) - first))
    state.pending = [data.draw(st.integers(0, 5)), during]
    everyone = torch.arange(NODES)
    record, version = state.read(everyone, everyone, FEATURES)
    assert version == first + during
    check(record, version, writes)
    state.patch(record, everyone, version, len(writes))
    check(record, len(writes), writes)


def test_a_write_that_has_begun_counts_whole() -> None:
    state, writes = empty(), [[1, 2, 3], [2, 3, 4]]
    for number, nodes in enumerate(writes):
        state.publish(number, written(number, nodes))
    state.write(0)
    state.begun = 2
    state.tables["memory"][[2, 3]] = 1.0  # of the second write, nothing else is there yet
    everyone = torch.arange(NODES)
    torn = state.fetch(everyone, FEATURES)
    assert (torn.memory[2] == 1).all()
    assert (torn.partner[2] == 0).all()
    check(*state.read(everyone, everyone, FEATURES), writes)


def test_reads_beside_a_writing_thread_are_whole() -> None:
    count, nodes, dim = 150, 400, 64
    generator = torch.Generator().manual_seed(0)
    state = empty(nodes, dim)
    writes = [torch.randperm(nodes, generator=generator)[:300].tolist() for _ in range(count)]
    for number, chosen in enumerate(writes):
        state.publish(number, written(number, chosen, dim))
    thread = threading.Thread(target=lambda: [state.write(number) for number in range(count)])
    everyone, versions = torch.arange(nodes), []
    thread.start()
    while not versions or versions[-1] < count:
        record, version = state.read(everyone, everyone, FEATURES)
        versions.append(version)
        own = record.event_id
        for part in (record.memory, record.partner):
            assert (part == own.clamp(min=0).unsqueeze(1)).all()
        assert torch.equal(record.memory_time, own.clamp(min=0))
        known = own >= 0
        assert torch.equal(record.mail_features[known], FEATURES[own[known]])
        assert int(own.max()) == version - 1
    thread.join()
    assert versions == sorted(versions)


def test_what_is_forgotten_cannot_be_patched_from() -> None:
    state = empty()
    for number in range(3):
        state.publish(number, written(number, [number]))
        state.write(number)
    state.forget(2)
    assert list(state.published) == [2]
    everyone = torch.arange(NODES)
    record = state.fetch(everyone, FEATURES)
    state.patch(record, everyone, 2, 3)
    with pytest.raises(KeyError):
        state.patch(record, everyone, 1, 3)
