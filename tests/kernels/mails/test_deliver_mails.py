"""deliver_mails, by reference and by kernel in the interpreter, against a dictionary updated mail by mail."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.kernels import deliver_mails, enable_debug
from mspipe_triton.kernels.mails.deliver import ring_kernel
from mspipe_triton.kernels.mails.mean import Mails, mean_mails, mean_mails_kernel
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.nodes.mailbox import Receivers
from tests.kernels.comparing import Tensors
from tests.kernels.sampling.graph_case import WAITING, launches_of

NODES, SLOTS = 30, 3
TABLES = ("memory", "memory_time", "received", "mails", "event_id", "mail_time", "mail_features")
MODES = pytest.mark.parametrize("mode", ["last", "mean"])

BATCHES: dict[str, tuple[list[tuple[int, int]], list[list[int]]]] = {
    "one event without neighbours": ([(1, 2)], [[-1, -1], [-1, -1]]),
    "a self-loop": ([(3, 3)], [[4, -1], [3, 3]]),
    "ends that are neighbours": ([(1, 2), (2, 1), (1, 5)], [[2, 5], [2, 2], [1, -1], [1, 7], [1, 1], [-1, -1]]),
    "padding at the end": ([(1, 2), (2, 6), (-1, -1)], [[9, 8], [9, -1], [-1, -1], [9, 2], [8, 1], [-1, -1]]),
    "only padding": ([(-1, -1), (-1, -1)], [[-1]] * 4),
    "no event": ([], []),
}


def random_batch(events: int, fanout: int) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Draw events and neighbours from few nodes, so that they repeat."""
    random = torch.Generator().manual_seed(events)
    pairs = torch.randint(0, NODES, (events, 2), generator=random).tolist()
    return [(src, dst) for src, dst in pairs], torch.randint(-1, NODES, (2 * events, fanout), generator=random).tolist()


def make_arguments(
    batch: tuple[list[tuple[int, int]], list[list[int]]], mode: str = "last", dim: int = 4, width: int = 3,
    ids: torch.dtype = torch.int64, times: torch.dtype = torch.int64, table: torch.dtype = torch.float64,
    hidden: torch.dtype = torch.float64, gap: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Make the operation's arguments; a node's numbers in a table are followed by a gap of `gap` numbers."""
    pairs, neighbours = batch
    random = torch.Generator().manual_seed(len(pairs))

    def normal(rows: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        numbers = torch.Size(shape).numel()
        table = torch.randn(rows, numbers + gap, generator=random, dtype=torch.float64).to(dtype)
        return table[:, :numbers].unflatten(1, shape) if len(shape) > 1 else table[:, :numbers]

    nodes = sorted({node for pair in pairs for node in pair if node >= 0}, reverse=True)
    row = {node: place + 1 for place, node in enumerate(nodes)}  # row 0 is for padding
    src, dst = (torch.tensor([pair[side] for pair in pairs], dtype=ids) for side in range(2))
    around = torch.tensor(neighbours, dtype=torch.int64).view(2 * len(pairs), -1 if pairs else 1)
    receivers = Receivers.of(torch.cat([src, dst]).long(), around, padded=True)
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
        "heard": receivers.nodes.to(ids),
        "last": receivers.last.to(ids),
        "owners": receivers.owners.to(ids) if mode == "mean" else None,
        "deliveries": receivers.mails.to(ids) if mode == "mean" else None,
        "mode": mode,
    }


def copy_tables(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copy the arguments' tables with their strides."""
    copies = dict(arguments)
    for name in TABLES:
        if arguments[name] is not None:
            table = torch.empty_strided(arguments[name].shape, arguments[name].stride(), dtype=arguments[name].dtype)
            copies[name] = table.copy_(arguments[name])
    return copies


def run(arguments: dict[str, Any]) -> Tensors:
    arguments = copy_tables(arguments)
    deliver_mails(**arguments)
    return {name: arguments[name] for name in TABLES if arguments[name] is not None}


def walk(arguments: dict[str, Any], batch: tuple[list[tuple[int, int]], list[list[int]]]) -> Tensors:
    """Deliver the mails one by one in Python, and return the tables in float64."""
    pairs, neighbours = batch
    tables = {
        name: arguments[name].to(torch.float64 if arguments[name].is_floating_point() else None, copy=True)
        for name in TABLES
        if arguments[name] is not None
    }
    mails: dict[int, list[tuple[int, list[float], list[float]]]] = {}
    hidden = arguments["hidden"].double()
    features = None if arguments["features"] is None else arguments["features"].double().tolist()
    for event, pair in enumerate(pairs):
        rows = int(arguments["src_rows"][event]), int(arguments["dst_rows"][event])
        for side, node in enumerate(pair):
            if node < 0:
                continue
            tables["memory"][node] = hidden[rows[side]]
            tables["memory_time"][node] = arguments["hidden_time"][rows[side]]
            row = [*hidden[rows[side]].tolist(), *hidden[rows[1 - side]].tolist()]
            for receiver in (node, *neighbours[side * len(pairs) + event]):
                if receiver >= 0:
                    mails.setdefault(receiver, []).append((event, row, features[event] if features else []))
    for node, deliveries in mails.items():
        slot = int(arguments["received"][node]) % SLOTS
        tables["received"][node] += 1
        tables["event_id"][node, slot] = arguments["batch_event_ids"][deliveries[-1][0]]
        tables["mail_time"][node, slot] = arguments["times"][deliveries[-1][0]]
        for name, place in (("mails", 1), ("mail_features", 2)):
            if name in tables:
                rows = torch.tensor([mail[place] for mail in deliveries], dtype=torch.float64)
                tables[name][node, slot] = rows[-1] if arguments["mode"] == "last" else rows.mean(0)
    return tables


def check(arguments: dict[str, Any], batch: tuple[list[tuple[int, int]], list[list[int]]]) -> None:
    expected, actual = walk(arguments, batch), run(arguments)
    assert actual.keys() == expected.keys()
    for name, table in actual.items():
        assert table.dtype == arguments[name].dtype
        if arguments["mode"] == "mean" and name in ("mails", "mail_features"):
            # The mean of n numbers rounds n times in the dtype of h, and once more into the table.
            most = torch.bincount(arguments["owners"][arguments["deliveries"] >= 0], minlength=1).max()
            rounding = float(most) * torch.finfo(arguments["hidden"].dtype).eps * float(expected[name].abs().max())
            eps = torch.finfo(table.dtype).eps
            torch.testing.assert_close(table.double(), expected[name], rtol=eps, atol=rounding, msg=name)
        else:  # copies, at most rounded to the table's type
            assert torch.equal(table, expected[name].to(table.dtype)), name


@MODES
@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("batch", BATCHES.values(), ids=list(BATCHES))
def test_small_batches(batch: tuple[list[tuple[int, int]], list[list[int]]], mode: str) -> None:
    check(make_arguments(batch, mode), batch)


@pytest.mark.sample(2)
@MODES
@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize(("events", "fanout", "dim"), [(1, 1, 1), (17, 3, 5), (41, 2, 131)])
def test_sizes(events: int, fanout: int, dim: int, mode: str) -> None:
    batch = random_batch(events, fanout)
    check(make_arguments(batch, mode, dim=dim), batch)


@pytest.mark.sample(2)
@MODES
@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize(
    "options",
    [
        {"ids": torch.int32, "times": torch.float64}, {"table": torch.float32, "hidden": torch.float32},
        {"table": torch.bfloat16, "hidden": torch.float32}, {"gap": 5}, {"width": 0},
    ],
    ids=str,
)  # fmt: skip
def test_types_and_layouts(options: dict[str, Any], mode: str) -> None:
    batch = random_batch(9, 3)
    arguments = make_arguments(batch, mode, **options)
    if arguments["memory"].dtype == torch.bfloat16:  # the interpreter truncates where a GPU rounds, so copies must fit
        arguments["hidden"] = arguments["hidden"].bfloat16().to(arguments["hidden"].dtype)
    check(arguments, batch)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("config", ring_kernel.configs["float32"], ids=str)
def test_every_configuration(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ring_kernel.chosen, "float32", config)
    batch = random_batch(23, 4)
    check(make_arguments(batch), batch)


@pytest.mark.sample(2)
@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("config", mean_mails_kernel.configs["float32"], ids=str)
def test_every_configuration_of_the_mean(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver more mails to one node than any configuration reads at a time."""
    monkeypatch.setitem(mean_mails_kernel.chosen, "float32", config)
    pairs, neighbours = random_batch(17, 3)
    batch = pairs, [[5, *others] for _, *others in neighbours]
    arguments = make_arguments(batch, "mean")
    assert int(torch.bincount(arguments["owners"][arguments["deliveries"] >= 0]).max()) > 32
    check(arguments, batch)


@pytest.mark.usefixtures("backend", "poisoned")
def test_the_mean_of_no_mails_is_zero() -> None:
    deliveries = torch.tensor([-1, 1, -1])
    ends = torch.zeros(1, dtype=torch.int64)
    mails = Mails(torch.ones(1, 3), ends, ends, torch.ones(1, 2), torch.tensor([0, 1, 1]), deliveries, 3)
    means, features = mean_mails(mails)
    assert features is not None
    assert means.tolist() == [[0] * 6, [1] * 6, [0] * 6]
    assert features.tolist() == [[0] * 2, [1] * 2, [0] * 2]


@MODES
def test_one_or_two_launches_and_no_wait(mode: str) -> None:
    arguments = make_arguments(random_batch(5, 2), mode)
    kernels, operations = launches_of(lambda: deliver_mails.launch(**arguments))
    assert kernels == ["mean_mails_kernel", "ring_kernel"][mode == "last" :]
    assert not operations & {*WAITING, "index_add_"}, "an operation waits, or sums in no fixed order"
    assert mode == "mean" or not operations


@MODES
def test_the_operation_passes_opcheck(mode: str) -> None:
    arguments = copy_tables(make_arguments(random_batch(5, 2), mode))
    torch.library.opcheck(torch.ops.mspipe_triton.deliver_mails.default, tuple(arguments.values()))


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
        deliver_mails(**{**make_arguments(random_batch(5, 2), "mean"), **change})


@pytest.mark.parametrize("name", ["src", "dst_rows", "heard", "last", "owners", "deliveries"])
def test_debugging_finds_an_index_outside_its_table(name: str) -> None:
    arguments = make_arguments(random_batch(5, 2), "mean")
    arguments[name] = arguments[name].clone()
    arguments[name][0] = 99
    enable_debug()
    try:
        with pytest.raises(ValueError, match=f"deliver_mails: {name} holds 99, outside"):
            deliver_mails(**arguments)
    finally:
        enable_debug(False)
