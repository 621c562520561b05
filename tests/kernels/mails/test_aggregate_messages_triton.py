"""The kernels of aggregate_messages, in the interpreter, against a dictionary walked in event order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton.kernels import aggregate_messages
from mspipe_triton.kernels.runtime.launch import use_triton
from tests.kernels.comparing import Agree, Derived, Named

Pairs = list[tuple[int, int]]
MODES = pytest.mark.parametrize("mode", ["last", "mean"])
TABLES = ("memory", "memory_time", "partner", "event_id", "mail_time", "mail_features")
AVERAGED = ("partner", "mail_features")
NODES = 40

BATCHES: dict[str, Pairs] = {
    "one event": [(1, 2)],
    "one self-loop": [(3, 3)],
    "ties and repeats": [(1, 2), (1, 2), (2, 1), (1, 3), (1, 2)],
    "self-loops among others": [(1, 1), (1, 2), (2, 2), (3, 1), (1, 1)],
    "one node in all": [(7, k % 5) for k in range(10)],
    "only padding": [(-1, -1), (-1, -1)],
    "padding on a side": [(1, 2), (-1, 2), (3, -1), (2, 3), (-1, -1)],
    "padding behind": [(1, 2), (2, 3), (-1, -1), (-1, -1)],
}


def random_pairs(events: int, padding: float = 0.0) -> Pairs:
    generator = np.random.default_rng(events)
    pairs = generator.integers(0, 30, (events, 2))
    pairs[generator.random((events, 2)) < padding] = -1
    return [(int(src), int(dst)) for src, dst in pairs]


def arguments(
    pairs: Pairs, dim: int = 4, width: int = 3, ids: torch.dtype = torch.int64, times: torch.dtype = torch.int64,
    table: torch.dtype = torch.float32, hidden: torch.dtype = torch.float32, stride: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What the operation takes; tables and `hidden` have rows `stride` numbers further apart than they are wide."""
    random = torch.Generator().manual_seed(len(pairs))

    def normal(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(rows, columns + stride, generator=random, dtype=torch.float64).to(dtype)[:, :columns]

    nodes = sorted({node for pair in pairs for node in pair if node >= 0}, reverse=True)
    row = {node: k + 1 for k, node in enumerate(nodes)}  # row 0 belongs to a node without events; padding gets it too
    src, dst = (torch.tensor([pair[side] for pair in pairs], dtype=ids) for side in range(2))
    clock = torch.tensor([1_600_000_000 + k // 3 for k in range(len(pairs))], dtype=torch.int64)
    return {
        "memory": normal(NODES, dim, table),
        "memory_time": torch.arange(NODES).to(times),
        "partner": normal(NODES, dim, table),
        "event_id": torch.full((NODES,), -1),
        "mail_time": torch.arange(NODES).to(times) + 100,
        "mail_features": normal(NODES, width, table),
        "src": src,
        "dst": dst,
        "batch_event_ids": (torch.arange(len(pairs)) + 1000).to(ids),
        "times": clock.to(times),
        "features": normal(len(pairs), width, table),
        "hidden": normal(len(nodes) + 2, dim, hidden),
        "hidden_time": torch.arange(len(nodes) + 2).to(times) - 50,
        "src_rows": torch.tensor([row.get(pair[0], 0) for pair in pairs], dtype=ids),
        "dst_rows": torch.tensor([row.get(pair[1], 0) for pair in pairs], dtype=ids),
    }


def copied(given: dict[str, Any]) -> dict[str, Any]:
    """The same arguments with tables of their own, in the same strides."""
    tables = {}
    for name in TABLES:
        table = given[name]
        tables[name] = None if table is None else torch.empty_strided(table.shape, table.stride(), dtype=table.dtype)
        if table is not None:
            tables[name].copy_(table)
    return {**given, **tables}


def run(operation: Callable[..., None], given: dict[str, Any], mode: str) -> Named:
    given = copied(given)
    assert operation(**given, mode=mode) is None
    return {name: given[name] for name in TABLES if given[name] is not None}


def walked(given: dict[str, Any], mode: str) -> tuple[dict[int, dict[str, Any]], Named]:
    """Each node's record, as the events leave it one by one, and the tables with it, averages in float64."""
    records: dict[int, dict[str, Any]] = {}
    partners: dict[int, list[list[float]]] = {}
    rows: dict[int, list[list[float]]] = {}
    hidden, features = given["hidden"].tolist(), given["features"].tolist()
    for k, (src, dst) in enumerate(zip(given["src"].tolist(), given["dst"].tolist(), strict=True)):
        if src < 0 or dst < 0:
            continue
        src_row, dst_row = int(given["src_rows"][k]), int(given["dst_rows"][k])
        for own, own_row, other_row in ((src, src_row, dst_row), (dst, dst_row, src_row)):
            partners.setdefault(own, []).append(hidden[other_row])
            rows.setdefault(own, []).append(features[k])
            records[own] = {
                "memory": hidden[own_row],
                "memory_time": given["hidden_time"][own_row],
                "partner": hidden[other_row] if mode == "last" else mean(partners[own]),
                "event_id": int(given["batch_event_ids"][k]),
                "mail_time": given["times"][k],
            }
            if mode == "mean":
                records[own]["mail_features"] = mean(rows[own])
    tables = {
        name: given[name].to(torch.float64, copy=True) if name in AVERAGED else given[name].clone() for name in TABLES
    }
    for node, record in records.items():
        for name, value in record.items():
            tables[name][node] = (
                torch.as_tensor(value, dtype=torch.float64).to(tables[name].dtype) if isinstance(value, list) else value
            )
    return records, tables


def mean(rows: list[list[float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def check(given: dict[str, Any], mode: str, derived: Derived, agree: Agree) -> None:
    before = {name: tensor.clone() for name, tensor in given.items()}
    use_triton(False)
    torch_tables = run(aggregate_messages, given, mode)
    use_triton(True)
    tables = run(aggregate_messages, given, mode)
    records, expected = walked(given, mode)
    others = [node for node in range(NODES) if node not in records]
    for name, table in tables.items():
        assert torch.equal(table[others], given[name][others]), f"{name} of an untouched node changed"
        if name in AVERAGED:
            continue
        assert torch.equal(table, expected[name]), name
        assert torch.equal(torch_tables[name], expected[name]), name
    for name in AVERAGED:
        if mode == "last":
            true = expected[name].to(given[name].dtype)
            assert torch.equal(tables[name], true), name
            assert torch.equal(torch_tables[name], true), name
    averaged = [{name: part[name] for name in AVERAGED} for part in (tables, torch_tables)]
    if given["hidden"].dtype == torch.float32 and given["partner"].dtype == torch.float64:
        for part in averaged:  # averaged in float32, whatever the table could hold
            part["partner"] = part["partner"].float()

    def exactly() -> Named:
        wide = {name: value.double() for name, value in given.items() if value.is_floating_point()}
        left = run(aggregate_messages, {**given, **wide}, mode)
        return {name: left[name] for name in AVERAGED}

    if mode == "mean":
        derived(*averaged, exactly)
        agree(exactly(), {name: expected[name] for name in AVERAGED})
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.items())


@MODES
@pytest.mark.parametrize("batch", BATCHES)
def test_batches_made_by_hand(batch: str, mode: str, interpreter: None, derived: Derived, agree: Agree) -> None:
    check(arguments(BATCHES[batch]), mode, derived, agree)


@pytest.mark.parametrize(
    ("events", "mode"),
    [*((events, "last") for events in (0, 1, 8, 9, 65, 123)), *((events, "mean") for events in (0, 1, 9, 33))],
)
def test_sizes(events: int, mode: str, interpreter: None, derived: Derived, agree: Agree) -> None:
    check(arguments(random_pairs(events, padding=0.1), stride=events % 2 * 5), mode, derived, agree)


@MODES
@pytest.mark.parametrize(("dim", "width"), [(1, 100), (3, 1), (100, 172), (172, 413), (413, 0)])
def test_widths(dim: int, width: int, mode: str, interpreter: None, derived: Derived, agree: Agree) -> None:
    check(arguments([(1, 2), (2, 2), (3, 1), (-1, 3)], dim=dim, width=width, stride=3), mode, derived, agree)


@MODES
@pytest.mark.parametrize(
    ("table", "hidden", "times", "ids"),
    [
        (torch.float64, torch.float64, torch.float64, torch.int64),
        (torch.float32, torch.float64, torch.int64, torch.int32),
        (torch.float64, torch.float32, torch.int64, torch.int32),
        (torch.bfloat16, torch.float32, torch.float64, torch.int64),
        (torch.bfloat16, torch.float64, torch.int64, torch.int32),
    ],
)
def test_dtypes(
    table: torch.dtype, hidden: torch.dtype, times: torch.dtype, ids: torch.dtype, mode: str, interpreter: None,
    derived: Derived, agree: Agree,
) -> None:  # fmt: skip
    given = arguments(random_pairs(10, padding=0.1), ids=ids, times=times, table=table, hidden=hidden)
    if table == torch.bfloat16:  # the interpreter cuts off where a GPU rounds, so copies must fit
        given["hidden"] = given["hidden"].bfloat16().to(hidden)
    check(given, mode, derived, agree)


def test_a_mean_of_one_row_is_that_row(interpreter: None) -> None:
    given = arguments([(1, 2), (3, 4)])
    tables = run(aggregate_messages, given, "mean")
    assert torch.equal(tables["partner"][[1, 2, 3, 4]], given["hidden"][[3, 4, 1, 2]])
    assert torch.equal(tables["mail_features"][[1, 2, 3, 4]], given["features"][[0, 0, 1, 1]])


@MODES
def test_what_the_kernels_hand_over_is_all_written(
    mode: str, interpreter: None, monkeypatch: pytest.MonkeyPatch, derived: Derived, agree: Agree
) -> None:
    allocate = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **options: allocate(*a, **options).fill_(123456789))
    check(arguments(random_pairs(9, padding=0.1)), mode, derived, agree)


def test_mean_without_features(interpreter: None) -> None:
    given = arguments(random_pairs(8))
    full = run(aggregate_messages, given, "mean")
    tables = run(aggregate_messages, {**given, "mail_features": None, "features": None}, "mean")
    for name in ("memory", "memory_time", "partner", "event_id", "mail_time"):
        assert torch.equal(tables[name], full[name]), name
    for missing in ("mail_features", "features"):
        with pytest.raises(ValueError, match="one of features and mail_features; give both or neither"):
            run(aggregate_messages, {**given, missing: None}, "mean")


def test_more_bfloat16_rows_than_bfloat16_counts_to() -> None:
    given = arguments([(1, 2)] * 300, table=torch.bfloat16)
    given["features"].fill_(1.0)
    assert torch.equal(run(aggregate_messages, given, "mean")["mail_features"][1].float(), torch.ones(3))


@MODES
def test_the_operation_passes_opcheck(mode: str) -> None:
    for given in (arguments(random_pairs(9)), {**arguments(random_pairs(9)), "mail_features": None, "features": None}):
        torch.library.opcheck(torch.ops.mspipe_triton.aggregate_messages.default, (*copied(given).values(), mode))


@MODES
def test_it_compiles_whole(mode: str) -> None:
    given = arguments(random_pairs(9))
    compiled = torch.compile(aggregate_messages, fullgraph=True, backend="aot_eager")
    actual, expected = run(compiled, given, mode), run(aggregate_messages.reference, given, mode)
    assert all(torch.equal(table, expected[name]) for name, table in actual.items())


@MODES
def test_hidden_may_require_a_gradient_and_the_tables_get_none(mode: str) -> None:
    given = arguments(random_pairs(9))
    tables = run(aggregate_messages, {**given, "hidden": given["hidden"].requires_grad_()}, mode)
    assert not any(table.requires_grad for table in tables.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(6, 4, dtype=torch.bfloat16)}, r"hidden is torch.bfloat16; give float32 or float64"),
        ({"event_id": torch.zeros(NODES, dtype=torch.int32)}, r"event_id is torch.int32; give int64"),
        ({"src": torch.zeros(2)}, r"src is torch.float32; give int32 or int64"),
        ({"times": torch.zeros(2, dtype=torch.float64)}, r"times is torch.float64 beside memory_time in torch.int64"),
        ({"memory_time": torch.zeros(NODES)}, r"memory_time is torch.float32; give int64 or float64"),
        ({"partner": torch.zeros(NODES, 5)}, r"partner has shape \(40, 5\) and should have \(40, 4\)"),
        ({"dst_rows": torch.zeros(3, dtype=torch.int64)}, r"dst_rows has shape \(3,\) and should have \(2,\)"),
        ({"mail_features": torch.zeros(NODES, 2)}, r"mail_features has shape \(40, 2\) and should have \(40, 3\)"),
        ({"memory": torch.zeros(4, NODES).t()}, r"memory \(40, 4\) has strides \(1, 40\)"),
        ({"features": torch.zeros(2, 3, device="meta")}, r"features is on meta, not on cpu"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_is_written(change: dict[str, torch.Tensor], message: str) -> None:
    given = {**arguments([(1, 2), (2, 3)]), **change}
    before = copied(given)
    with pytest.raises(ValueError, match=f"aggregate_messages: {message}"):
        aggregate_messages(**given)
    assert all(torch.equal(given[name], before[name]) for name in TABLES)
