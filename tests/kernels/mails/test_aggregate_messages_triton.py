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
from tests.kernels.comparing import Agree, Derived, Tensors

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
    "one node in all events": [(7, k % 5) for k in range(10)],
    "only padding": [(-1, -1), (-1, -1)],
    "padding on one side": [(1, 2), (-1, 2), (3, -1), (2, 3), (-1, -1)],
    "padding at the end": [(1, 2), (2, 3), (-1, -1), (-1, -1)],
}


def random_pairs(events: int, padding: float = 0.0) -> Pairs:
    generator = np.random.default_rng(events)
    pairs = generator.integers(0, 30, (events, 2))
    pairs[generator.random((events, 2)) < padding] = -1
    return [(int(src), int(dst)) for src, dst in pairs]


def make_arguments(
    pairs: Pairs, dim: int = 4, width: int = 3, ids: torch.dtype = torch.int64, times: torch.dtype = torch.int64,
    table: torch.dtype = torch.float32, hidden: torch.dtype = torch.float32, stride: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Make the operation's arguments; rows of tables and of `hidden` are followed by gaps of `stride` numbers."""
    random = torch.Generator().manual_seed(len(pairs))

    def normal(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(rows, columns + stride, generator=random, dtype=torch.float64).to(dtype)[:, :columns]

    nodes = sorted({node for pair in pairs for node in pair if node >= 0}, reverse=True)
    row = {node: k + 1 for k, node in enumerate(nodes)}  # row 0 is for a node without events, and for padding
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


def copy_tables(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copy the arguments' tables with their strides."""
    tables = {}
    for name in TABLES:
        table = arguments[name]
        tables[name] = None if table is None else torch.empty_strided(table.shape, table.stride(), dtype=table.dtype)
        if table is not None:
            tables[name].copy_(table)
    return {**arguments, **tables}


def run(operation: Callable[..., None], arguments: dict[str, Any], mode: str) -> Tensors:
    arguments = copy_tables(arguments)
    assert operation(**arguments, mode=mode) is None
    return {name: arguments[name] for name in TABLES if arguments[name] is not None}


def walk(arguments: dict[str, Any], mode: str) -> tuple[dict[int, dict[str, Any]], Tensors]:
    """Apply the events one by one; return each node's record and the tables, with averages in float64."""
    records: dict[int, dict[str, Any]] = {}
    partners: dict[int, list[list[float]]] = {}
    rows: dict[int, list[list[float]]] = {}
    hidden, features = arguments["hidden"].tolist(), arguments["features"].tolist()
    for k, (src, dst) in enumerate(zip(arguments["src"].tolist(), arguments["dst"].tolist(), strict=True)):
        if src < 0 or dst < 0:
            continue
        src_row, dst_row = int(arguments["src_rows"][k]), int(arguments["dst_rows"][k])
        for node, row, partner_row in ((src, src_row, dst_row), (dst, dst_row, src_row)):
            partners.setdefault(node, []).append(hidden[partner_row])
            rows.setdefault(node, []).append(features[k])
            records[node] = {
                "memory": hidden[row],
                "memory_time": arguments["hidden_time"][row],
                "partner": hidden[partner_row] if mode == "last" else mean(partners[node]),
                "event_id": int(arguments["batch_event_ids"][k]),
                "mail_time": arguments["times"][k],
            }
            if mode == "mean":
                records[node]["mail_features"] = mean(rows[node])
    tables = {name: arguments[name].to(torch.float64 if name in AVERAGED else None, copy=True) for name in TABLES}
    for node, record in records.items():
        for name, value in record.items():
            tables[name][node] = (
                torch.as_tensor(value, dtype=torch.float64).to(tables[name].dtype) if isinstance(value, list) else value
            )
    return records, tables


def mean(rows: list[list[float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def check(arguments: dict[str, Any], mode: str, derived: Derived, agree: Agree) -> None:
    before = {name: tensor.clone() for name, tensor in arguments.items()}
    use_triton(False)
    torch_tables = run(aggregate_messages, arguments, mode)
    use_triton(True)
    tables = run(aggregate_messages, arguments, mode)
    records, expected = walk(arguments, mode)
    others = [node for node in range(NODES) if node not in records]
    for name, table in tables.items():
        assert torch.equal(table[others], arguments[name][others]), f"{name} of an untouched node changed"
        if name in AVERAGED:
            continue
        assert torch.equal(table, expected[name]), name
        assert torch.equal(torch_tables[name], expected[name]), name
    for name in AVERAGED:
        if mode == "last":
            true = expected[name].to(arguments[name].dtype)
            assert torch.equal(tables[name], true), name
            assert torch.equal(torch_tables[name], true), name
    averaged = [{name: part[name] for name in AVERAGED} for part in (tables, torch_tables)]
    if arguments["hidden"].dtype == torch.float32 and arguments["partner"].dtype == torch.float64:
        for part in averaged:  # averaged in float32, even if the table is wider
            part["partner"] = part["partner"].float()

    def exact() -> Tensors:
        wide = {name: value.double() for name, value in arguments.items() if value.is_floating_point()}
        results = run(aggregate_messages, {**arguments, **wide}, mode)
        return {name: results[name] for name in AVERAGED}

    if mode == "mean":
        derived(*averaged, exact)
        agree(exact(), {name: expected[name] for name in AVERAGED})
    assert all(torch.equal(tensor, before[name]) for name, tensor in arguments.items())


@MODES
@pytest.mark.parametrize("batch", BATCHES)
def test_batches_by_hand(batch: str, mode: str, interpreter: None, derived: Derived, agree: Agree) -> None:
    check(make_arguments(BATCHES[batch]), mode, derived, agree)


@pytest.mark.parametrize(
    ("events", "mode"),
    [*((events, "last") for events in (0, 1, 8, 9, 65, 123)), *((events, "mean") for events in (0, 1, 9, 33))],
)
def test_sizes(events: int, mode: str, interpreter: None, derived: Derived, agree: Agree) -> None:
    check(make_arguments(random_pairs(events, padding=0.1), stride=events % 2 * 5), mode, derived, agree)


@MODES
@pytest.mark.parametrize(("dim", "width"), [(1, 100), (3, 1), (100, 172), (172, 413), (413, 0)])
def test_widths(dim: int, width: int, mode: str, interpreter: None, derived: Derived, agree: Agree) -> None:
    check(make_arguments([(1, 2), (2, 2), (3, 1), (-1, 3)], dim=dim, width=width, stride=3), mode, derived, agree)


@pytest.mark.sample(2)
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
    arguments = make_arguments(random_pairs(10, padding=0.1), ids=ids, times=times, table=table, hidden=hidden)
    if table == torch.bfloat16:  # the interpreter truncates where a GPU rounds, so copies must fit
        arguments["hidden"] = arguments["hidden"].bfloat16().to(hidden)
    check(arguments, mode, derived, agree)


def test_the_mean_of_one_row_is_that_row(interpreter: None) -> None:
    arguments = make_arguments([(1, 2), (3, 4)])
    tables = run(aggregate_messages, arguments, "mean")
    assert torch.equal(tables["partner"][[1, 2, 3, 4]], arguments["hidden"][[3, 4, 1, 2]])
    assert torch.equal(tables["mail_features"][[1, 2, 3, 4]], arguments["features"][[0, 0, 1, 1]])


@MODES
def test_the_kernels_write_all_their_scratch_memory(
    mode: str, interpreter: None, monkeypatch: pytest.MonkeyPatch, derived: Derived, agree: Agree
) -> None:
    allocate = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **options: allocate(*a, **options).fill_(123456789))
    check(make_arguments(random_pairs(9, padding=0.1)), mode, derived, agree)


def test_mean_without_features(interpreter: None) -> None:
    arguments = make_arguments(random_pairs(8))
    full = run(aggregate_messages, arguments, "mean")
    tables = run(aggregate_messages, {**arguments, "mail_features": None, "features": None}, "mean")
    for name in ("memory", "memory_time", "partner", "event_id", "mail_time"):
        assert torch.equal(tables[name], full[name]), name
    for missing in ("mail_features", "features"):
        with pytest.raises(ValueError, match="one of features and mail_features; give both or neither"):
            run(aggregate_messages, {**arguments, missing: None}, "mean")


def test_the_mean_of_more_rows_than_bfloat16_can_count() -> None:
    arguments = make_arguments([(1, 2)] * 300, table=torch.bfloat16)
    arguments["features"].fill_(1.0)
    assert torch.equal(run(aggregate_messages, arguments, "mean")["mail_features"][1].float(), torch.ones(3))


@MODES
def test_the_operation_passes_opcheck(mode: str) -> None:
    for changes in ({}, {"mail_features": None, "features": None}):
        arguments = copy_tables({**make_arguments(random_pairs(9)), **changes})
        torch.library.opcheck(torch.ops.mspipe_triton.aggregate_messages.default, (*arguments.values(), mode))


@MODES
def test_it_compiles_as_one_graph(mode: str) -> None:
    arguments = make_arguments(random_pairs(9))
    compiled = torch.compile(aggregate_messages, fullgraph=True, backend="aot_eager")
    actual, expected = run(compiled, arguments, mode), run(aggregate_messages.reference, arguments, mode)
    assert all(torch.equal(table, expected[name]) for name, table in actual.items())


@MODES
def test_tables_need_no_gradient_even_if_hidden_does(mode: str) -> None:
    arguments = make_arguments(random_pairs(9))
    tables = run(aggregate_messages, {**arguments, "hidden": arguments["hidden"].requires_grad_()}, mode)
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
    arguments = {**make_arguments([(1, 2), (2, 3)]), **change}
    before = copy_tables(arguments)
    with pytest.raises(ValueError, match=f"aggregate_messages: {message}"):
        aggregate_messages(**arguments)
    assert all(torch.equal(arguments[name], before[name]) for name in TABLES)
