"""Mitigation by similarity: against a plain oracle, a case by hand, and the state that it must not change."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.data.adjacency import TemporalCSR
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError
from mspipe_triton.models.mitigation import Mitigation
from mspipe_triton.nodes.mailbox import CompactMailbox, LastMail
from mspipe_triton.nodes.state import NodeState
from tests.models.plain_mitigation import Event, Number, Row, mitigate

UNIX = 1_600_000_000
DIM = 3


def adjacency_of(events: list[Event], num_nodes: int, kind: torch.dtype) -> TemporalCSR:
    src, dst, t = (list(column) for column in zip(*events, strict=True)) if events else ([], [], [])
    ends = (torch.tensor(column, dtype=torch.int64) for column in (src, dst))
    return TemporalCSR.build(EventStream(*ends, torch.tensor(t, dtype=kind), num_nodes=num_nodes))


def state_of(rows: list[Row], start: Number, kind: torch.dtype) -> NodeState[LastMail]:
    """Create a state with these (memory time, memory) rows, and defaults elsewhere."""
    state = NodeState.create(CompactMailbox(DIM, 0, torch.float64), len(rows), torch.tensor(start, dtype=kind))
    state.tables["memory_time"].copy_(torch.tensor([memory_time for memory_time, _ in rows], dtype=kind))
    state.tables["memory"].copy_(torch.tensor([row for _, row in rows], dtype=torch.float64).view(-1, DIM))
    return state


@dataclass
class Case:
    """A stream, rows fetched for some of its nodes, the state's current rows, and the batch's time."""

    events: list[Event]
    nodes: list[int]
    fetched: list[Row]
    current: list[Row]
    start: Number
    time: Number
    kind: torch.dtype

    def record(self) -> LastMail:
        """Fetch the record from a state with the fetched rows."""
        rows = list(self.current)
        for node, row in zip(self.nodes, self.fetched, strict=True):
            rows[node] = row
        state = state_of(rows, self.start, self.kind)
        return state.fetch(torch.tensor(self.nodes, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.float64))

    def apply(self, events: list[Event] | None = None, **settings: Any) -> tuple[LastMail, LastMail, int]:
        adjacency = adjacency_of(self.events if events is None else events, len(self.current), self.kind)
        nodes = torch.tensor(self.nodes, dtype=torch.int64)
        state = state_of(self.current, self.start, self.kind)
        time = torch.tensor(self.time, dtype=self.kind)
        return self.record(), *Mitigation(adjacency, **settings).apply(self.record(), nodes, time, state)

    def expected(self, **settings: Any) -> tuple[list[list[float]], set[int]]:
        quantile = str(settings.pop("quantile"))
        rows = (self.events, self.nodes, self.fetched, self.current, self.start, self.time)
        return mitigate(*rows, quantile, **settings)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw few nodes, tied events, self-loops, repeats, nodes without history; memory times tied, at the start, far
    back."""
    size = draw(st.integers(1, 9))
    node, floating = st.integers(0, size - 1), draw(st.booleans())
    step, kind = (0.25, torch.float64) if floating else (1, torch.int64)
    start: Number = draw(st.sampled_from([0, UNIX, -7])) + (0.0 if floating else 0)
    time, events = start, []
    for src, dst, gap in draw(st.lists(st.tuples(node, node, st.integers(0, 2)), min_size=1, max_size=80)):
        time += gap * step
        events.append((src, dst, time))
    batch_time = draw(
        st.sampled_from([t for _, _, t in events[len(events) // 2 :]] + [time + step, time + 2**24 * step])
    )
    rows = st.tuples(
        st.sampled_from([start, *[start + k * step for k in (1, 2, 3, 5, 8, 2**24, 2**24 + 1)]]),
        st.lists(st.floats(-1, 1, width=16), min_size=DIM, max_size=DIM),
    )
    nodes = draw(st.lists(node, unique=True, max_size=size))
    fetched = draw(st.lists(rows, min_size=len(nodes), max_size=len(nodes)))
    current = draw(st.lists(rows, min_size=size, max_size=size))
    return Case(events, nodes, fetched, current, start, batch_time, kind)


SETTINGS = st.fixed_dictionaries({
    "quantile": st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.9, 1.0]),
    "blend": st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    "fanout": st.integers(1, 4),
    "peers": st.integers(1, 4),
})  # fmt: skip


def check(case: Case, options: dict[str, Any]) -> int:
    """Compare with the oracle, and return the number of blended rows."""
    record, result, count = case.apply(**options)
    memory, blended = case.expected(**options)
    assert count == len(blended)
    expected = torch.tensor(memory, dtype=torch.float64).view(-1, DIM)
    assert float((result.memory - expected).abs().sum()) <= 1e-12
    for i in set(range(len(case.nodes))) - blended:
        assert torch.equal(result.memory[i], record.memory[i])
    for name in set(LastMail._fields) - {"memory"}:
        assert torch.equal(getattr(result, name), getattr(record, name))
    return count


@settings(deadline=None, max_examples=300)
@given(cases(), SETTINGS)
def test_against_the_plain_oracle(case: Case, options: dict[str, Any]) -> None:
    check(case, options)


@pytest.mark.parametrize("seed", range(40))
def test_against_the_plain_oracle_on_long_histories(seed: int) -> None:
    """Give each endpoint many events, mostly between a few pairs, so that both windows and the search are limited."""
    random = Random(seed)
    size, step = random.randrange(8, 40), random.choice([1, 0.25])
    kind = torch.int64 if step == 1 else torch.float64
    events: list[Event] = []
    for i in range(random.choice([150, 600])):
        src, dst = (min(int(random.expovariate(0.25)), size - 1) for _ in range(2))
        events.append((*((src, dst) if random.random() < 0.3 else (src % 3, 3 + src % 4)), UNIX + i // 3 * step))
    rows = [(UNIX + random.randrange(30) * step, [random.uniform(-1, 1) for _ in range(DIM)]) for _ in range(2 * size)]
    nodes = random.sample(range(size), size)
    case = Case(events, nodes, rows[:size], rows[size:], UNIX + 0 * step, UNIX + random.randrange(25, 210) * step, kind)
    options = {"quantile": 0.3, "blend": 0.75, "fanout": random.randrange(1, 8), "peers": random.randrange(1, 5)}
    assert check(case, options) > 0


@settings(deadline=None, max_examples=60)
@given(cases(), SETTINGS, st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_later_events_change_nothing(case: Case, options: dict[str, Any], more: list[tuple[int, int]]) -> None:
    earlier = [event for event in case.events if event[2] < case.time]
    size = len(case.current)
    later = [(src % size, dst % size, case.time + i // 3) for i, (src, dst) in enumerate(more)]
    _, without, count = case.apply(earlier, **options)
    _, result, new_count = case.apply(earlier + later, **options)
    assert count == new_count
    assert torch.equal(without.memory, result.memory)


# Node 0 shares neighbours 4 and 5 with node 1, and only 4 with 2 and 3; 6 and 7 share nothing; 3 is no later than 0.
HAND = Case(
    events=[
        (0, 4, 10), (0, 5, 10), (0, 4, 11), (1, 4, 12), (1, 5, 12), (2, 4, 13), (3, 4, 13), (6, 7, 14), (6, 5, 30),
    ],
    nodes=[2, 0, 1, 6],
    fetched=[(13, [0.5] * 3), (11, [1.0, 2.0, 3.0]), (12, [0.25] * 3), (10, [9.0] * 3)],
    current=[(30, [7.0] * 3), (12, [0.0, 1.0, 4.0]), (13, [2.0, 0.0, 0.0]), (11, [8.0] * 3), (10, [8.0] * 3),
             (12, [4.0, 4.0, 4.0]), (29, [8.0] * 3), (29, [8.0] * 3)],
    start=10,
    time=30,
    kind=torch.int64,
)  # fmt: skip


@pytest.mark.parametrize(
    ("peers", "mean"), [(1, [0.0, 1.0, 4.0]), (2, [1.0, 0.5, 2.0]), (5, [1.0, 0.5, 2.0])], ids=["one", "two", "all"]
)
def test_a_case_by_hand(peers: int, mean: list[float]) -> None:
    record, result, count = HAND.apply(quantile=0.6, blend=0.75, peers=peers)
    memory = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert count == 1
    assert torch.allclose(result.memory[1], 0.75 * memory + 0.25 * torch.tensor(mean).double(), rtol=0, atol=1e-15)
    assert torch.equal(result.memory[[0, 2, 3]], record.memory[[0, 2, 3]])


def crowd(
    size: int, dtype: torch.dtype = torch.float64
) -> tuple[Mitigation, LastMail, torch.Tensor, NodeState[LastMail]]:
    """Make a bipartite stream of `size` users and 20 items with distinct memory times per user, and fetch all users."""
    generator = torch.Generator().manual_seed(3)
    users = torch.arange(size).repeat(3)
    items = size + torch.randint(0, 20, (3 * size,), generator=generator)
    stream = EventStream(users, items, UNIX + torch.arange(3 * size), num_nodes=size + 20)
    state = NodeState.create(CompactMailbox(DIM, 0, dtype), size + 20, stream.t.new_tensor(UNIX))
    state.tables["memory"].normal_(generator=generator)
    state.tables["memory_time"][:size] = UNIX + 1 + torch.randperm(size, generator=generator)
    nodes = torch.arange(size)
    record = state.fetch(nodes, torch.zeros(1, 0))
    return Mitigation(TemporalCSR.build(stream)), record, nodes, state


@pytest.mark.parametrize(("size", "stale"), [(99, 0), (100, 1), (199, 1), (200, 2), (1700, 17)])
def test_the_oldest_hundredth_of_the_rows_is_stale(size: int, stale: int) -> None:
    mitigation, record, nodes, state = crowd(size)
    result, count = mitigation.apply(record, nodes, torch.tensor(UNIX + 9999), state)
    changed = (result.memory != state.tables["memory"][nodes]).any(1).nonzero().squeeze(1)
    assert count == changed.numel() == stale
    assert set(changed.tolist()) == set(record.memory_time.argsort()[:stale].tolist())


@pytest.mark.parametrize("size", [0, 1, 123])
def test_quantile_one_blends_nothing(size: int) -> None:
    mitigation, record, nodes, state = crowd(123)
    record, nodes = LastMail(*(column[:size] for column in record)), nodes[:size]
    highest = Mitigation(mitigation.adjacency, quantile=1.0)
    result, count = highest.apply(record, nodes, torch.tensor(UNIX + 9999), state)
    assert count == 0
    assert torch.equal(result.memory, state.tables["memory"][nodes])


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("quantile", [0.0, 0.99])
def test_no_row_or_one(size: int, quantile: float) -> None:
    mitigation, record, nodes, state = crowd(123)
    record, nodes = LastMail(*(column[:size] for column in record)), nodes[:size]
    result, count = Mitigation(mitigation.adjacency, quantile).apply(record, nodes, torch.tensor(UNIX + 9999), state)
    assert count == 0  # a single row is its own quantile
    assert result.memory.shape == (size, DIM)
    assert torch.equal(result.memory, state.tables["memory"][nodes])


def test_a_batch_without_memory_and_a_graph_without_events() -> None:
    mitigation, record, nodes, state = crowd(123)
    state.reset()
    fresh = state.fetch(nodes, torch.zeros(1, 0))
    assert Mitigation(mitigation.adjacency, 0.0).apply(fresh, nodes, torch.tensor(UNIX + 9999), state)[1] == 0
    empty = adjacency_of([], 143, torch.int64)
    assert Mitigation(empty, 0.0).apply(record, nodes, torch.tensor(UNIX + 9999), state)[1] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_deterministic_keeps_the_dtype_and_writes_only_memory(dtype: torch.dtype) -> None:
    mitigation, record, nodes, state = crowd(1700, dtype)
    inputs = (*record[1:], nodes, *state.state_dict().values())
    before = [column.clone() for column in inputs]
    copies = [record._replace(memory=record.memory.clone()) for _ in range(3)]
    results = [mitigation.apply(copy, nodes, torch.tensor(UNIX + 9999), state) for copy in copies]
    for result, count in results:
        assert count == 17
        assert result.memory.dtype == dtype
        assert torch.equal(result.memory, results[0][0].memory)
    assert all(torch.equal(old, new) for old, new in zip(before, inputs, strict=True))


def test_it_reads_each_table_of_the_state_once() -> None:
    mitigation, record, nodes, state = crowd(1700)
    reads: list[str] = []

    class LoggedState(NodeState[LastMail]):
        def __getattribute__(self, name: str) -> Any:
            reads.append(name)
            return super().__getattribute__(name)

    state.__class__ = LoggedState
    assert mitigation.apply(record, nodes, torch.tensor(UNIX + 9999), state)[1] == 17
    # Memory times first, then whole rows of the chosen nodes, between the two counters of a concurrent write.
    assert [name for name in reads if name != "start"] == ["tables", "read_memory", "ended", "tables", "begun"]


@pytest.mark.parametrize(
    ("name", "value", "range_text"),
    [
        ("quantile", 1.5, "from 0 to 1"),
        ("quantile", float("nan"), "from 0 to 1"),
        ("blend", -0.1, "from 0 to 1"),
        ("fanout", 0, "at least 1"),
        ("peers", 0, "at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(name: str, value: float, range_text: str) -> None:
    with pytest.raises(ConfigError, match=f"mitigation: {name} must be {range_text}, not {value}"):
        Mitigation(crowd(3)[0].adjacency, **{name: value})
