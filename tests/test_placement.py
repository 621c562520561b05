"""Host tables and a fake device: transfers of rows, and the calls that wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from mspipe_triton import placement as placing
from mspipe_triton.errors import ConfigError
from mspipe_triton.nodes.mailbox import CompactMailbox, LastMail, Rows
from mspipe_triton.nodes.state import NodeState
from mspipe_triton.placement import Placement

CUDA = torch.device("cuda")
TABLES = {
    "rows": torch.randn(6, 3), "times": torch.arange(6), "slots": torch.arange(36).view(6, 2, 3),
}  # fmt: skip


class Pinned(torch.Tensor):
    """A tensor in host memory that the device can read."""


class OnDevice(torch.Tensor):
    """A tensor on the device."""

    is_cpu = False


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor)


@dataclass
class Device:
    """Log of the operations on a fake GPU."""

    log: list[str] = field(default_factory=list)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A fake GPU that pins, copies, gathers and waits; operations that a GPU would refuse raise."""
    device, empty, select = Device(), torch.empty, torch.Tensor.index_select

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        assert not isinstance(tensor, OnDevice), "a device tensor cannot be pinned"
        return tensor.as_subclass(Pinned)

    def to(tensor: torch.Tensor, where: torch.device, non_blocking: bool = False) -> torch.Tensor:
        assert where == CUDA
        assert isinstance(tensor, Pinned) or not non_blocking, "the copy would wait"
        device.log.append("copy")
        return plain(tensor).clone().as_subclass(OnDevice)

    def allocate(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        tensor = empty(*shape, **options)
        return tensor.as_subclass(Pinned) if pin_memory else tensor

    def index_select(table: torch.Tensor, dim: int, rows: torch.Tensor) -> torch.Tensor:
        assert isinstance(table, OnDevice) is isinstance(rows, OnDevice), "table and row numbers are on two devices"
        device.log.append("select")
        return select(plain(table), dim, plain(rows)).as_subclass(
            OnDevice if isinstance(table, OnDevice) else torch.Tensor
        )

    def kernel(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert isinstance(table, Pinned)
        assert isinstance(rows, OnDevice)
        device.log.append("kernel")
        return select(plain(table), 0, plain(rows)).as_subclass(OnDevice)

    class Stream:
        def synchronize(self) -> None:
            device.log.append("wait")

    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "index_select", index_select)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda where: Stream() if where == CUDA else None)
    monkeypatch.setattr(placing, "gather_rows", kernel)
    return device


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("how", "where", "log"),
    [
        ("copy", "host", ["copy"]),
        ("kernel", "host", ["copy", "kernel"]),
        ("copy", "device", ["copy", "select"]),
        ("kernel", "device", ["copy", "select"]),
    ],
)
def test_rows_get_to_the_device(gpu: Device, how: str, where: str, log: list[str], name: str) -> None:
    """The host gathers and copies, a kernel gathers, or the device selects from its own table."""
    placement, rows = Placement(CUDA, how), torch.tensor([5, 0, 5, 2])
    table = placement.placed(TABLES[name], where)
    assert isinstance(table, Pinned if where == "host" else OnDevice)
    del gpu.log[:]
    result = placement.gather(table, rows)
    assert gpu.log == log, "and nothing waits"
    assert isinstance(result, OnDevice)
    assert torch.equal(plain(result), TABLES[name][rows])


def test_row_numbers_are_copied_once_for_several_tables(gpu: Device) -> None:
    placement, rows = Placement(CUDA, "kernel"), torch.tensor([1, 4])
    tables = [placement.pin(table) for table in TABLES.values()]
    numbers = placement.numbers(rows)
    for table in tables:
        placement.gather(table, numbers)
    assert gpu.log == ["copy", "kernel", "kernel", "kernel"]
    assert Placement(CUDA).numbers(rows) is rows, "the host gathers with its own row numbers"


@pytest.mark.parametrize(("how", "log"), [("copy", []), ("kernel", ["wait"])])
def test_only_reads_by_the_device_are_waited_for(gpu: Device, how: str, log: list[str]) -> None:
    Placement(CUDA, how).settle()
    assert gpu.log == log


def test_a_device_tensor_is_not_loaded_again(gpu: Device) -> None:
    placement = Placement(CUDA)
    tensor = placement.load(torch.ones(2))
    assert placement.load(tensor) is tensor
    assert gpu.log == ["copy"]


@pytest.mark.parametrize("how", placing.GATHERS)
def test_on_the_cpu_all_gathers_are_the_same(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "gather_rows", None)
    placement, table, rows = Placement(how=how), TABLES["rows"], torch.tensor([3, 3, 0])
    assert all(placement.placed(table, where) is table for where in placing.PLACES)
    assert placement.numbers(rows) is rows
    assert torch.equal(placement.gather(table, rows), table[rows])
    assert placement.gather(table, rows).data_ptr() != table.data_ptr()
    placement.settle()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Placement(how="guess"), "gather 'guess' is not one of copy, kernel"),
        (lambda: Placement().placed(torch.ones(1), "disk"), "features 'disk' is not one of host, device"),
    ],
)
def test_unknown_gathers_and_places_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@dataclass(frozen=True)
class Late(Placement):
    """Placement whose gathers read only when they are waited for, and that calls a function just before."""

    queue: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    calls: list[Callable[[], None]] = field(default_factory=list)

    def gather(self, table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        result = torch.full((rows.numel(), *table.shape[1:]), -77, dtype=table.dtype)
        self.queue.append((table, rows, result))
        return result

    def settle(self) -> None:
        for number, (table, rows, result) in enumerate(self.queue):
            if number == 2 and self.calls:
                self.calls.pop()()
            result.copy_(table.index_select(0, rows))
        self.queue.clear()


def test_a_read_by_the_device_during_a_write_is_of_one_version() -> None:
    placement, nodes = Late(), torch.arange(4)
    state = NodeState.create(CompactMailbox(2, 0, torch.float64), 4, torch.tensor(0), placement)
    row, time = torch.full((2, 2), 7.0, dtype=torch.float64), torch.full((2,), 7)
    record = LastMail(row, time, row.clone(), time.clone(), time.clone(), torch.zeros(2, 0, dtype=torch.float64))
    state.publish(0, [Rows(torch.tensor([1, 3]), record._asdict())])
    placement.calls.append(lambda: state.write(0))
    record, version = state.read(nodes, nodes, torch.zeros(9, 0, dtype=torch.float64))
    assert version == 1
    for part in (record.memory, record.memory_time, record.partner, record.event_id, record.mail_time):
        assert (part[[1, 3]] == 7).all()
        assert not (part[[0, 2]] == 7).any()
    assert not record.memory[[0, 2]].any()
