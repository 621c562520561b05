"""deliver_mails, its kernel in the interpreter too, against a dictionary walked delivery by delivery."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.kernels import deliver_mails, enable_debug
from mspipe_triton.kernels.mails.deliver import ring_kernel
from mspipe_triton.kernels.mails.mean import Mails, mean_mails, mean_mails_kernel
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.nodes.mailbox import Receivers
from tests.kernels.comparing import Named
from tests.kernels.sampling.graph_case import WAITING, launched

NODES, SLOTS = 30, 3
TABLES = ("memory", "memory_time", "received", "mails", "event_id", "mail_time", "mail_features")
MODES = pytest.mark.parametrize("mode", ["last", "mean"])

BATCHES: dict[str, tuple[list[tuple[int, int]], list[list[int]]]] = {
    "one event, nobody else": ([(1, 2)], [[-1, -1], [-1, -1]]),
    "a self-loop": ([(3, 3)], [[4, -1], [3, 3]]),
    "ends that hear of each other": ([(1, 2), (2, 1), (1, 5)], [[2, 5], [2, 2], [1, -1], [1, 7], [1, 1], [-1, -1]]),
    "padding behind": ([(1, 2), (2, 6), (-1, -1)], [[9, 8], [9, -1], [-1, -1], [9, 2], [8, 1], [-1, -1]]),
    "only padding": ([(-1, -1), (-1, -1)], [[-1]] * 4),
    "no event": ([], []),
}


def drawn(events: int, fanout: int) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Events and neighbours at random, of few nodes, so that they meet."""
    random = torch.Generator().manual_seed(events)
    pairs = torch.randint(0, NODES, (events, 2), generator=random).tolist()
    return [(src, dst) for src, dst in pairs], torch.randint(-1, NODES, (2 * events, fanout), generator=random).tolist()


def arguments(
    batch: tuple[list[tuple[int, int]], list[list[int]]], mode: str = "last", dim: int = 4, width: int = 3,
    ids: torch.dtype = torch.int64, times: torch.dtype = torch.int64, table: torch.dtype = torch.float64,
    hidden: torch.dtype = torch.float64, apart: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """What the operation takes; rows of tables lie `apart` numbers further from one another than a node's numbers."""
    pairs, neighbours = batch
    random = torch.Generator().manual_seed(len(pairs))

    def normal(rows: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        numbers = torch.Size(shape).numel()
        made = torch.randn(rows, numbers + apart, generator=random, dtype=torch.float64).to(dtype)
        return made[:, :numbers].unflatten(1, shape) if len(shape) > 1 else made[:, :numbers]

    nodes = sorted({node for pair in pairs for node in pair if node >= 0}, reverse=True)
    row = {node: place + 1 for place, node in enumerate(nodes)}  # row 0 is nobody's; padding gets it
    src, dst = (torch.tensor([pair[side] for pair in pairs], dtype=ids) for side in range(2))
    around = torch.tensor(neighbours, dtype=torch.int64).view(2 * len(pairs), -1 if pairs else 1)
    heard = Receivers.of(torch.cat([src, dst]).long(), around, padded=True)
    features = normal(len(pairs), width, dtype=table) if mode == "mean" and width else None
    return {
        "memory": normal(NODES, dim, dtype=table),
        "memory_time": torch.arange(NODES).to(times),
        "received": torch.arange(NODES) % 7,
        "mails": normal(NODES, SLOTS, 2 * dim, dtype=table),
        "event_id": torch.arange(NODES * SLOTS).view(NODES, SLOTS) - 1000,
        "mail_time": torch.arange(NODES * SLOTS).view(NODES, SLOTS).to(times) + 100,
        "mail_features": None if features is None else normal(NODES, SLOTS, width, dtype=table),
        "src": src,
        "dst": dst,
        "batch_event_ids": torch.tensor([40 + k if pair[0] >= 0 else -1 for k, pair in enumerate(pairs)], dtype=ids),
        "times": (torch.arange(len(pairs)) // 2 + 1_600_000_000).to(times),
        "features": features,
        "hidden": normal(len(nodes) + 2, dim, dtype=hidden),
        "hidden_time": torch.arange(len(nodes) + 2).to(times) - 50,
        "src_rows": torch.tensor([row.get(pair[0], 0) for pair in pairs], dtype=ids),
        "dst_rows": torch.tensor([row.get(pair[1], 0) for pair in pairs], dtype=ids),
        "heard": heard.nodes.to(ids),
        "last": heard.last.to(ids),
        "owners": heard.owners.to(ids) if mode == "mean" else None,
        "deliveries": heard.mails.to(ids) if mode == "mean" else None,
        "mode": mode,
    }


def copied(given: dict[str, Any]) -> dict[str, Any]:
    """The same arguments with tables of their own, in the same strides."""
    made = dict(given)
    for name in TABLES:
        if given[name] is not None:
            table = torch.empty_strided(given[name].shape, given[name].stride(), dtype=given[name].dtype)
            made[name] = table.copy_(given[name])
    return made


def run(given: dict[str, Any]) -> Named:
    given = copied(given)
    deliver_mails(**given)
    return {name: given[name] for name in TABLES if given[name] is not None}


def walked(given: dict[str, Any], batch: tuple[list[tuple[int, int]], list[list[int]]]) -> Named:
    """The tables as the deliveries leave them one by one, in Python and in float64."""
    pairs, neighbours = batch
    tables = {
        name: given[name].to(torch.float64 if given[name].is_floating_point() else None, copy=True)
        for name in TABLES
        if given[name] is not None
    }
    mails: dict[int, list[tuple[int, list[float], list[float]]]] = {}
    hidden = given["hidden"].double()
    features = None if given["features"] is None else given["features"].double().tolist()
    for event, pair in enumerate(pairs):
        rows = int(given["src_rows"][event]), int(given["dst_rows"][event])
        for side, node in enumerate(pair):
            if node < 0:
                continue
            tables["memory"][node] = hidden[rows[side]]
            tables["memory_time"][node] = given["hidden_time"][rows[side]]
            row = [*hidden[rows[side]].tolist(), *hidden[rows[1 - side]].tolist()]
            for each in (node, *neighbours[side * len(pairs) + event]):
                if each >= 0:
                    mails.setdefault(each, []).append((event, row, features[event] if features else []))
    for node, told in mails.items():
        slot = int(given["received"][node]) % SLOTS
        tables["received"][node] += 1
        tables["event_id"][node, slot] = given["batch_event_ids"][told[-1][0]]
        tables["mail_time"][node, slot] = given["times"][told[-1][0]]
        for name, place in (("mails", 1), ("mail_features", 2)):
            if name in tables:
                rows = torch.tensor([mail[place] for mail in told], dtype=torch.float64)
                tables[name][node, slot] = rows[-1] if given["mode"] == "last" else rows.mean(0)
    return tables


def check(given: dict[str, Any], batch: tuple[list[tuple[int, int]], list[list[int]]]) -> None:
    expected, found = walked(given, batch), run(given)
    assert found.keys() == expected.keys()
    for name, table in found.items():
        assert table.dtype == given[name].dtype
        if given["mode"] == "mean" and name in ("mails", "mail_features"):
            # A sum of n numbers and its division round n times in the dtype of h, and once more into the table.
            most = torch.bincount(given["owners"][given["deliveries"] >= 0], minlength=1).max()
            rounding = float(most) * torch.finfo(given["hidden"].dtype).eps * float(expected[name].abs().max())
            eps = torch.finfo(table.dtype).eps
            torch.testing.assert_close(table.double(), expected[name], rtol=eps, atol=rounding, msg=name)
        else:  # copies, rounded to the table's type at most
            assert torch.equal(table, expected[name].to(table.dtype)), name


@MODES
@pytest.mark.usefixtures("way", "poisoned")
@pytest.mark.parametrize("batch", BATCHES.values(), ids=list(BATCHES))
def test_small_batches(batch: tuple[list[tuple[int, int]], list[list[int]]], mode: str) -> None:
    check(arguments(batch, mode), batch)


@MODES
@pytest.mark.usefixtures("way", "poisoned")
@pytest.mark.parametrize(("events", "fanout", "dim"), [(1, 1, 1), (17, 3, 5), (41, 2, 131)])
def test_sizes(events: int, fanout: int, dim: int, mode: str) -> None:
    batch = drawn(events, fanout)
    check(arguments(batch, mode, dim=dim), batch)


@MODES
@pytest.mark.usefixtures("way", "poisoned")
@pytest.mark.parametrize(
    "options",
    [
        {"ids": torch.int32, "times": torch.float64}, {"table": torch.float32, "hidden": torch.float32},
        {"table": torch.bfloat16, "hidden": torch.float32}, {"apart": 5}, {"width": 0},
    ],
    ids=str,
)  # fmt: skip
def test_types_and_layouts(options: dict[str, Any], mode: str) -> None:
    batch = drawn(9, 3)
    given = arguments(batch, mode, **options)
    if given["memory"].dtype == torch.bfloat16:  # the interpreter cuts off where a GPU rounds, so copies must fit
        given["hidden"] = given["hidden"].bfloat16().to(given["hidden"].dtype)
    check(given, batch)


@pytest.mark.usefixtures("way", "poisoned")
@pytest.mark.parametrize("config", ring_kernel.configs["float32"], ids=str)
def test_every_configuration(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ring_kernel.chosen, "float32", config)
    batch = drawn(23, 4)
    check(arguments(batch), batch)


@pytest.mark.usefixtures("way", "poisoned")
@pytest.mark.parametrize("config", mean_mails_kernel.configs["float32"], ids=str)
def test_every_configuration_of_the_mean(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a node that gets more mails than any configuration takes at a time."""
    monkeypatch.setitem(mean_mails_kernel.chosen, "float32", config)
    pairs, neighbours = drawn(17, 3)
    batch = pairs, [[5, *others] for _, *others in neighbours]
    given = arguments(batch, "mean")
    assert int(torch.bincount(given["owners"][given["deliveries"] >= 0]).max()) > 32
    check(given, batch)


@pytest.mark.usefixtures("way", "poisoned")
def test_nothing_delivered_has_the_mean_zero() -> None:
    deliveries = torch.tensor([-1, 1, -1])
    ends = torch.zeros(1, dtype=torch.int64)
    mails = Mails(torch.ones(1, 3), ends, ends, torch.ones(1, 2), torch.tensor([0, 1, 1]), deliveries, 3)
    means, kept = mean_mails(mails)
    assert kept is not None
    assert means.tolist() == [[0] * 6, [1] * 6, [0] * 6]
    assert kept.tolist() == [[0] * 2, [1] * 2, [0] * 2]


@MODES
def test_a_kernel_or_two_and_nothing_that_waits(mode: str) -> None:
    given = arguments(drawn(5, 2), mode)
    kernels, operations = launched(lambda: deliver_mails.launch(**given))
    assert kernels == ["mean_mails_kernel", "ring_kernel"][mode == "last" :]
    assert not operations & {*WAITING, "index_add_"}, "what waits, and sums in no fixed order"
    assert mode == "mean" or not operations


@MODES
def test_the_operation_passes_opcheck(mode: str) -> None:
    given = copied(arguments(drawn(5, 2), mode))
    torch.library.opcheck(torch.ops.mspipe_triton.deliver_mails.default, tuple(given.values()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "first"}, "mode must be 'last' or 'mean', not 'first'"),
        ({"owners": None}, "owners and deliveries go together, and mode 'mean' needs them"),
        ({"owners": None, "deliveries": None}, "owners and deliveries go together, and mode 'mean' needs them"),
        ({"features": None}, "features and mail_features go together, in mode 'mean' only"),
        ({"mode": "last"}, "features and mail_features go together, in mode 'mean' only"),
        ({"received": torch.zeros(NODES)}, "received is torch.float32; give int64"),
        ({"heard": torch.zeros(3)}, "heard is torch.float32; give int32 or int64"),
        ({"last": torch.zeros(3).long()}, r"last has shape \(3,\); give"),
        ({"mails": torch.zeros(NODES, SLOTS, 4).double()}, r"mails has shape \(30, 3, 4\); give \(30, 3, 8\)"),
        ({"mail_time": torch.zeros(NODES, SLOTS).double()}, "mail_time is torch.float64 beside memory_time"),
        ({"event_id": torch.zeros(SLOTS, NODES).long().t()}, r"event_id has strides \(1, 30\); give"),
        ({"event_id": torch.zeros(NODES, 0).long()}, r"event_id has shape \(30, 0\); give at least one slot per node"),
        ({"dst": torch.zeros(4).long()}, r"dst has shape \(4,\); give \(5,\)"),
        ({"hidden": torch.zeros(12, 4).half()}, "hidden is torch.float16; give float32 or float64"),
        ({"received": torch.zeros(NODES, device="meta").long()}, "received is on meta, not on cpu"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^deliver_mails: ({message})"):
        deliver_mails(**{**arguments(drawn(5, 2), "mean"), **change})


@pytest.mark.parametrize("name", ["src", "dst_rows", "heard", "last", "owners", "deliveries"])
def test_a_place_outside_is_refused_while_debugging(name: str) -> None:
    given = arguments(drawn(5, 2), "mean")
    given[name] = given[name].clone()
    given[name][0] = 99
    enable_debug()
    try:
        with pytest.raises(ValueError, match=f"deliver_mails: {name} holds 99, outside"):
            deliver_mails(**given)
    finally:
        enable_debug(False)
