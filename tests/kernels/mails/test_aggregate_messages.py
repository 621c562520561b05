"""aggregate_messages against a loop over single events."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import aggregate_messages
from tests.kernels.comparing import Tensors

Pairs = list[tuple[int, int]]
NODES, DIM, WIDTH = 30, 4, 3


@dataclass
class Case:
    """A batch of events in time order, the rows computed for it, and tables with earlier contents."""

    pairs: Pairs
    gaps: list[int]
    time_dtype: torch.dtype = torch.int64
    with_features: bool = True
    padding: int = 0
    table_dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(len(self.pairs))
        steps = torch.tensor([1_600_000_000, *self.gaps]).cumsum(0)[1:]
        self.times = steps.to(self.time_dtype)
        self.ids = 1000 + torch.arange(len(self.pairs))
        ends = {node for pair in self.pairs for node in pair}
        nodes = [*sorted(ends, reverse=True), *sorted(set(range(NODES)) - ends)[:5]]  # and some without events
        self.row = {node: row for row, node in enumerate(nodes)}
        self.hidden = self.normal(len(nodes), DIM)
        self.hidden_time = torch.arange(len(nodes)).to(self.time_dtype) - 50
        self.features = self.normal(len(self.pairs), WIDTH) if self.with_features else None
        self.tables = {
            "memory": self.table(DIM),
            "memory_time": torch.full((NODES,), -1, dtype=self.time_dtype),
            "partner": self.table(DIM),
            "event_id": torch.full((NODES,), -1),
            "mail_time": torch.full((NODES,), -2, dtype=self.time_dtype),
            "mail_features": self.table(WIDTH),
        }

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.random)

    def table(self, width: int) -> torch.Tensor:
        return self.normal(NODES, width + self.padding).to(self.table_dtype)[:, :width]

    def batch(self) -> dict[str, torch.Tensor | None]:
        src, dst = (torch.tensor([pair[k] for pair in self.pairs], dtype=torch.int64) for k in range(2))
        rows = [torch.tensor([self.row[node] for node in side.tolist()], dtype=torch.int64) for side in (src, dst)]
        return {
            "src": src, "dst": dst, "batch_event_ids": self.ids, "times": self.times, "features": self.features,
            "hidden": self.hidden, "hidden_time": self.hidden_time, "src_rows": rows[0], "dst_rows": rows[1],
        }  # fmt: skip

    def actual(self, mode: str) -> Tensors:
        tables = {name: clone(table) for name, table in self.tables.items()}
        table_arguments: dict[str, torch.Tensor | None] = {**tables}
        if not self.with_features:
            table_arguments["mail_features"] = None
        assert aggregate_messages(**table_arguments, **self.batch(), mode=mode) is None
        return tables

    def expected(self, mode: str) -> Tensors:
        tables = {name: clone(table) for name, table in self.tables.items()}
        partners: dict[int, list[torch.Tensor]] = {}
        rows: dict[int, list[torch.Tensor]] = {}
        for i, (src, dst) in enumerate(self.pairs):
            for node, partner in ((src, dst), (dst, src)):
                tables["memory"][node] = self.hidden[self.row[node]]
                tables["memory_time"][node] = self.hidden_time[self.row[node]]
                tables["partner"][node] = self.hidden[self.row[partner]]
                tables["event_id"][node], tables["mail_time"][node] = self.ids[i], self.times[i]
                partners.setdefault(node, []).append(self.hidden[self.row[partner]])
                if self.features is not None:
                    rows.setdefault(node, []).append(self.features[i])
        if mode == "mean":
            for name, lists in (("partner", partners), ("mail_features", rows)):
                for node, values in lists.items():
                    tables[name][node] = exact_mean(values)
        return tables

    def bound(self, mode: str) -> float:
        """Error allowed: none for the copies of "last"; n roundings for a mean of n numbers, one more if narrowed."""
        if mode == "last":
            return 0.0
        largest = max([1.0, *(float(t.abs().max()) for t in (self.hidden, self.features) if t is not None and len(t))])
        rounding = 2 * len(self.pairs) * torch.finfo(torch.float64).eps
        return largest * (rounding + (torch.finfo(self.table_dtype).eps if self.table_dtype != torch.float64 else 0))


def clone(table: torch.Tensor) -> torch.Tensor:
    """Copy a table with its strides."""
    copy = torch.empty_strided(table.shape, table.stride(), dtype=table.dtype)
    return copy.copy_(table)


def exact_mean(values: list[torch.Tensor]) -> torch.Tensor:
    columns = torch.stack(values, 1).tolist()
    return torch.tensor([math.fsum(column) / len(column) for column in columns], dtype=torch.float64)


def check(case: Case, mode: str) -> None:
    actual, expected = case.actual(mode), case.expected(mode)
    endpoints = sorted({node for pair in case.pairs for node in pair})
    others = [node for node in range(NODES) if node not in endpoints]
    for name, table in expected.items():
        assert torch.equal(actual[name][others], case.tables[name][others]), f"{name} of an untouched node changed"
        averaged = mode == "mean" and name in ("partner", "mail_features")
        error = (actual[name].double() - table.double()).abs()
        assert bool((error <= (case.bound(mode) if averaged else 0.0)).all()), f"{name}: {float(error.max())}"


def random_case(events: int, **options: object) -> Case:
    generator = random.Random(events)
    pairs = [(generator.randrange(20), generator.randrange(20)) for _ in range(events)]
    return Case(pairs, [generator.choice([0, 0, 1, 60]) for _ in range(events)], **options)


@settings(deadline=None, max_examples=150)
@given(
    events=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), max_size=25),
    mode=st.sampled_from(["last", "mean"]),
    time_dtype=st.sampled_from([torch.int64, torch.float64]),
    with_features=st.booleans(),
)
def test_random_batches(
    events: list[tuple[int, int, int]], mode: str, time_dtype: torch.dtype, with_features: bool
) -> None:
    case = Case([event[:2] for event in events], [event[2] for event in events], time_dtype, with_features)
    check(case, mode)


@pytest.mark.parametrize("mode", ["last", "mean"])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("events", [0, 1, 123, 257])
def test_sizes_and_padded_tables(events: int, padding: int, mode: str) -> None:
    check(random_case(events, padding=padding), mode)


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_narrower_tables(mode: str) -> None:
    check(random_case(123, table_dtype=torch.float32), mode)


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_the_later_event_in_the_file_wins_a_tie(mode: str) -> None:
    case = Case([(1, 2), (1, 3), (4, 1)], [5, 0, 0])
    check(case, mode)
    assert case.actual(mode)["event_id"][:5].tolist() == [-1, 1002, 1000, 1001, 1002]


def test_last_keeps_the_partner_of_the_latest_event() -> None:
    case = Case([(1, 2), (1, 3), (4, 1), (2, 4)], [1, 1, 1, 1])
    partner = case.actual("last")["partner"]
    for node, last in ((1, 4), (2, 4), (3, 1), (4, 2)):
        assert torch.equal(partner[node], case.hidden[case.row[last]])


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_self_loops_count_twice(mode: str) -> None:
    case = Case([(1, 1), (1, 2)], [1, 1])
    check(case, mode)
    first, second = (case.hidden[case.row[node]] for node in (1, 2))
    expected = second if mode == "last" else (first + first + second) / 3
    assert float((case.actual(mode)["partner"][1] - expected).abs().max()) <= case.bound("mean")


def test_memory_gets_the_time_of_its_last_mail_and_mail_gets_the_events_time() -> None:
    case = Case([(3, 7)], [9])
    tables = case.actual("last")
    assert tables["memory_time"][[3, 7]].tolist() == case.hidden_time[[case.row[3], case.row[7]]].tolist()
    assert tables["mail_time"][[3, 7]].tolist() == [1_600_000_009] * 2


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_the_batch_is_unchanged(mode: str) -> None:
    case = random_case(123)
    before = {name: tensor.clone() for name, tensor in case.batch().items() if tensor is not None}
    case.actual(mode)
    assert all(torch.equal(tensor, case.batch()[name]) for name, tensor in before.items())


def test_an_unknown_mode_is_refused_before_anything_is_written() -> None:
    case = random_case(1)
    before = clone(case.tables["memory"])
    with pytest.raises(ValueError, match="mode must be 'last' or 'mean', not 'max'"):
        aggregate_messages(**case.tables, **case.batch(), mode="max")
    assert torch.equal(case.tables["memory"], before)
