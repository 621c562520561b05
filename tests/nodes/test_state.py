"""Concurrent reads and writes of node state: a read is whole and of one version, wherever a write is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.nodes.mailbox import CompactMailbox, LastMail, R, Rows, Writes
from mspipe_triton.nodes.ring import MailRing, RingMailbox
from mspipe_triton.nodes.state import NodeState

NODES, DIM, EDGE = 12, 3, 2
FEATURES = torch.arange(200 * EDGE, dtype=torch.float64).view(200, EDGE)


def make_writes(number: int, nodes: list[int], dim: int = DIM) -> Writes:
    """A write whose every field is `number`, so that a record mixed from two writes is noticed."""
    ids, size = torch.tensor(nodes, dtype=torch.int64), len(nodes)
    rows, times = torch.full((size, dim), float(number), dtype=torch.float64), torch.full((size,), number)
    record = LastMail(rows, times, rows.clone(), times.clone(), times.clone(), FEATURES[times])
    return [Rows(ids, record._asdict())]


def empty_state(nodes: int = NODES, dim: int = DIM) -> NodeState[LastMail]:
    return NodeState.create(CompactMailbox(dim, EDGE, torch.float64), nodes, torch.tensor(0))


def expected(writes: list[list[int]], upto: int, node: int) -> int | None:
    """Number of the last write of a node among the first `upto`, or None."""
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


class Interrupted(NodeState[R]):
    """Node state that performs writes after some of the tables have been read."""

    pending: list[int]

    def fetch(self, nodes: torch.Tensor, features: torch.Tensor) -> R:
        before = super().fetch(nodes, features)
        early = list(self.tables)[: self.pending.pop(0)]
        if "mail_features" not in self.tables and "event_id" in early:
            early.append("mail_features")
        for _ in range(self.pending.pop(0)):
            self.write(self.ended)
        return super().fetch(nodes, features)._replace(**{name: getattr(before, name) for name in early})


@settings(deadline=None)
@given(st.data())
def test_a_read_during_writes_is_of_the_later_version(data: st.DataObject) -> None:
    some = st.lists(st.integers(0, NODES - 1), min_size=1, max_size=8, unique=True)
    writes = data.draw(st.lists(some, min_size=1, max_size=6))
    state = empty_state()
    state.__class__ = Interrupted
    for number, nodes in enumerate(writes):
        state.publish(number, make_writes(number, nodes))
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


def test_a_read_contains_an_unfinished_write_whole() -> None:
    state, writes = empty_state(), [[1, 2, 3], [2, 3, 4]]
    for number, nodes in enumerate(writes):
        state.publish(number, make_writes(number, nodes))
    state.write(0)
    state.begun = 2
    state.tables["memory"][[2, 3]] = 1.0  # the only part of the second write so far
    everyone = torch.arange(NODES)
    record = state.fetch(everyone, FEATURES)
    assert (record.memory[2] == 1).all()
    assert (record.partner[2] == 0).all()
    check(*state.read(everyone, everyone, FEATURES), writes)


def test_reads_during_writes_of_another_thread_are_whole() -> None:
    count, nodes, dim = 150, 400, 64
    generator = torch.Generator().manual_seed(0)
    state = empty_state(nodes, dim)
    writes = [torch.randperm(nodes, generator=generator)[:300].tolist() for _ in range(count)]
    for number, targets in enumerate(writes):
        state.publish(number, make_writes(number, targets, dim))
    thread = threading.Thread(target=lambda: [state.write(number) for number in range(count)])
    everyone, versions = torch.arange(nodes), []
    thread.start()
    while not versions or versions[-1] < count:
        record, version = state.read(everyone, everyone, FEATURES)
        versions.append(version)
        ids = record.event_id
        for part in (record.memory, record.partner):
            assert (part == ids.clamp(min=0).unsqueeze(1)).all()
        assert torch.equal(record.memory_time, ids.clamp(min=0))
        mask = ids >= 0
        assert torch.equal(record.mail_features[mask], FEATURES[ids[mask]])
        assert int(ids.max()) == version - 1
    thread.join()
    assert versions == sorted(versions)


def test_a_patch_cannot_start_below_a_forgotten_version() -> None:
    state = empty_state()
    for number in range(3):
        state.publish(number, make_writes(number, [number]))
        state.write(number)
    state.forget(2)
    assert list(state.published) == [2]
    everyone = torch.arange(NODES)
    record = state.fetch(everyone, FEATURES)
    state.patch(record, everyone, 2, 3)
    with pytest.raises(KeyError):
        state.patch(record, everyone, 1, 3)


SLOTS = 3
Batch = tuple[list[int], list[int]]  # the ends of a batch's events, and the receivers of its mail


class Version(NamedTuple):
    """Expected content of a ring mailbox: the number of the last write of memory [N] and slots [N, S], 0 for none.

    Writes are numbered from 1 here.
    """

    memory: torch.Tensor
    received: torch.Tensor
    slots: torch.Tensor


def ring(nodes: int = NODES, dim: int = DIM, aggregator: str = "last") -> NodeState[MailRing]:
    return NodeState.create(RingMailbox(dim, EDGE, torch.float64, SLOTS, aggregator), nodes, torch.tensor(0))


def publish(state: NodeState[MailRing], writes: list[Batch], nodes: int = NODES, dim: int = DIM) -> list[Version]:
    """Publish writes whose every field is their number; returns the content before the first and after each of them."""
    versions = [Version(*(torch.zeros(shape, dtype=torch.int64) for shape in (nodes, nodes, (nodes, SLOTS))))]
    for number, (ends, receivers) in enumerate(writes):
        memory, received, slots = (part.clone() for part in versions[-1])
        times, mails = (torch.full((len(targets),), number + 1) for targets in (ends, receivers))
        ids = torch.tensor(receivers)
        places = ids * SLOTS + received[ids] % SLOTS
        parts = {
            "mails": mails.double().unsqueeze(1).repeat(1, 2 * dim), "event_id": mails - 1, "mail_time": mails,
            "mail_features": FEATURES[mails - 1],
        }  # fmt: skip
        memory[ends] = number + 1
        received[ids] += 1
        slots.view(-1)[places] = number + 1
        versions.append(Version(memory, received, slots))
        rows = times.double().unsqueeze(1).repeat(1, dim)
        state.publish(
            number,
            [
                Rows(torch.tensor(ends), {"memory": rows, "memory_time": times}),
                Rows(ids, {"received": received[ids]}),
                Rows(places, parts, SLOTS),
            ],
        )
    return versions


def check_ring(record: MailRing, version: Version) -> None:
    """Check that every record is whole and of this version: memory, its time, the mail count, and all slots."""
    assert torch.equal(record.memory, version.memory.double().unsqueeze(1).expand_as(record.memory))
    assert torch.equal(record.memory_time, version.memory)
    assert torch.equal(record.received, version.received)
    assert torch.equal(record.mails, version.slots.double().unsqueeze(2).expand_as(record.mails))
    assert torch.equal(record.event_id, version.slots - 1)
    assert torch.equal(record.mail_time, version.slots)
    mask = version.slots > 0
    assert torch.equal(record.mail_features[mask], FEATURES[version.slots[mask] - 1])
    assert torch.equal(record.filled, version.received.clamp(max=SLOTS))


@pytest.mark.parametrize("aggregator", ["last", "mean"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_read_of_rings_during_writes_is_of_the_later_version(aggregator: str, data: st.DataObject) -> None:
    some = st.lists(st.integers(0, NODES - 1), min_size=1, max_size=8, unique=True)
    writes = data.draw(st.lists(st.tuples(some, some), min_size=1, max_size=8))
    state = ring(aggregator=aggregator)
    state.__class__ = Interrupted
    versions = publish(state, writes)
    first = data.draw(st.integers(0, len(writes)))
    for number in range(first):
        state.write(number)
    during = data.draw(st.integers(0, len(writes) - first))
    state.pending = [data.draw(st.integers(0, len(state.tables))), during]
    nodes = torch.tensor(data.draw(st.permutations(range(NODES)))[: data.draw(st.integers(1, NODES))])
    record, version = state.read(nodes, nodes, FEATURES)
    assert version == first + during
    check_ring(record, Version(*(part[nodes] for part in versions[version])))
    state.patch(record, nodes, version, len(writes))
    check_ring(record, Version(*(part[nodes] for part in versions[-1])))


def test_a_read_of_rings_contains_an_unfinished_write_whole() -> None:
    state = ring()
    versions = publish(state, [([0, 1], [0, 1, 2]), ([1, 2], [1, 2, 3])])
    state.write(0)
    state.begun = 2
    state.tables["received"][[1, 2, 3]] = versions[2].received[[1, 2, 3]]  # the only part of the second write so far
    everyone = torch.arange(NODES)
    record, version = state.read(everyone, everyone, FEATURES)
    assert version == 2
    check_ring(record, versions[2])


@pytest.mark.parametrize("aggregator", ["last", "mean"])
def test_reads_of_rings_during_writes_of_another_thread_are_whole(aggregator: str) -> None:
    count, nodes, dim = 100, 300, 64
    generator = torch.Generator().manual_seed(0)
    state = ring(nodes, dim, aggregator)
    orders = [torch.randperm(nodes, generator=generator).tolist() for _ in range(count)]
    versions = publish(state, [(order[:120], order[50:250]) for order in orders], nodes, dim)
    thread = threading.Thread(target=lambda: [state.write(number) for number in range(count)])
    everyone, numbers = torch.arange(nodes), []
    thread.start()
    while not numbers or numbers[-1] < count:
        record, version = state.read(everyone, everyone, FEATURES)
        numbers.append(version)
        check_ring(record, versions[version])
    thread.join()
    assert numbers == sorted(numbers)


def test_a_saved_ring_is_restored() -> None:
    state, other = ring(), ring()
    versions = publish(state, [([0, 1], [0, 1, 2])] * 4)
    for number in range(4):
        state.write(number)
    other.load_state_dict(state.state_dict())
    everyone = torch.arange(NODES)
    check_ring(other.fetch(everyone, FEATURES), versions[4])
    assert torch.equal(other.sent, versions[4].received)
    other.reset()
    check_ring(other.fetch(everyone, FEATURES), versions[0])
    assert not other.sent.any()


@pytest.mark.parametrize("make", [empty_state, ring])
def test_a_reset_returns_to_the_base(make: Callable[..., NodeState[Any]]) -> None:
    empty, other = make(4), make(2)
    for number, table in enumerate(other.tables.values(), 1):
        table.copy_(torch.arange(table.numel()).view(table.shape) + number)
    state = NodeState.create(empty.mailbox, 4, empty.start, base=(torch.tensor([3, 1]), other.tables))
    for _ in range(2):
        for name, table in state.tables.items():
            assert torch.equal(table[[3, 1]], other.tables[name]), name
            assert torch.equal(table[[0, 2]], empty.tables[name][:2]), name
            if name == "received":
                assert torch.equal(state.sent, table)
            table.fill_(77)
        state.sent.fill_(77)
        state.reset()
