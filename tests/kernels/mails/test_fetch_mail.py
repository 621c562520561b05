"""fetch_mail, by reference and by kernel in the interpreter, against Python numbers and against `LastMail`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.kernels import enable_debug, fetch_mail
from mspipe_triton.kernels.mails.fetch import mail_kernel
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.nodes.mailbox import LastMail
from tests.kernels.sampling.graph_case import WAITING, launches_of, operations_of

LARGE = 2**53  # where float64 no longer has every integer


def tables(times: torch.dtype, nodes: int = 9) -> dict[str, torch.Tensor]:
    """Make tables in which every third node has no mail; time differences are small, and eighths in float64."""
    number = torch.arange(nodes)
    memory, mail = number * 1000, number * 1001 + 1 + number % 2
    if times == torch.int64:
        memory, mail = memory + LARGE + 1, mail + LARGE + 1
    else:
        memory, mail = memory.double() / 8 + 1e9, mail.double() / 8 + 1e9
    event_id = torch.where(number % 3 < 2, number * 10, -1)
    return {"memory_time": memory, "event_id": event_id, "mail_time": mail}


def check(nodes: list[int], times: torch.dtype, dtype: torch.dtype, index: torch.dtype = torch.int64) -> None:
    table = tables(times)
    memory, event, mail = (part.tolist() for part in table.values())
    events = [event[node] if node >= 0 else -1 for node in nodes]
    has_mail = [number >= 0 for number in events]
    deltas = [mail[node] - memory[node] if full else 0 for node, full in zip(nodes, has_mail, strict=True)]
    digested_time = [(mail if full else memory)[max(node, 0)] for node, full in zip(nodes, has_mail, strict=True)]
    results = fetch_mail(torch.tensor(nodes, dtype=index), **table, dtype=dtype)
    assert [part.dtype for part in results] == [torch.int64, dtype, torch.bool, times]
    expected = [events, torch.tensor(deltas, dtype=dtype).tolist(), has_mail, digested_time]
    assert [part.tolist() for part in results] == expected
    assert all(torch.equal(*pair) for pair in zip(table.values(), tables(times).values(), strict=True))


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("times", [torch.int64, torch.float64])
def test_types(times: torch.dtype, dtype: torch.dtype, index: torch.dtype) -> None:
    check([7, 0, 3, 1, 1, -1, 8, -7], times, dtype, index)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("count", [0, 1, 123, 129])
def test_sizes(count: int) -> None:
    check([node * 5 % 11 - 2 for node in range(count)], torch.int64, torch.float32)


@pytest.mark.usefixtures("backend", "poisoned")
def test_padding_has_no_mail_and_the_time_of_the_first_node() -> None:
    events, deltas, has_mail, digested_time = fetch_mail(torch.full((3,), -1), **tables(torch.int64))
    assert (events.tolist(), deltas.tolist(), has_mail.tolist()) == ([-1] * 3, [0.0] * 3, [False] * 3)
    assert digested_time.tolist() == [LARGE + 1] * 3


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_are_subtracted_before_they_are_rounded(dtype: torch.dtype) -> None:
    gaps = torch.tensor([1, 16777217, 2**31 + 129, 1_700_000_001])
    memory = torch.full_like(gaps, LARGE + 1)
    deltas = fetch_mail(torch.arange(4), memory, torch.arange(4), memory + gaps, dtype)[1]
    assert torch.equal(deltas, gaps.to(dtype))


@pytest.mark.usefixtures("backend")
def test_it_agrees_with_a_fetched_record() -> None:
    nodes, table = torch.tensor([4, 2, 0, 5, 3]), tables(torch.int64)
    rows = {name: part.index_select(0, nodes) for name, part in table.items()}
    record = LastMail(**rows, memory=torch.empty(5, 0), partner=torch.empty(5, 0), mail_features=torch.empty(5, 0))
    events, deltas, has_mail, digested_time = fetch_mail(nodes, **table)
    assert torch.equal(has_mail, record.has_mail)
    assert torch.equal(digested_time, record.digested_time)
    assert torch.equal(events[has_mail], record.event_id[has_mail])
    assert torch.equal(deltas[has_mail], (record.mail_time - record.memory_time).float()[has_mail])


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("config", mail_kernel.configs["float32"], ids=str)
def test_every_configuration(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mail_kernel.chosen, "float32", config)
    check([node * 5 % 11 - 2 for node in range(300)], torch.float64, torch.float32)


def test_one_launch_and_no_wait() -> None:
    arguments = (torch.tensor([4, -1, 2]), *tables(torch.int64).values(), torch.float32)
    assert launches_of(lambda: fetch_mail.launch(*arguments)) == (["mail_kernel"], {"new_empty"})
    assert not operations_of(lambda: fetch_mail.reference(*arguments)) & WAITING


@pytest.mark.parametrize("times", [torch.int64, torch.float64])
def test_the_operation_passes_opcheck_and_compiles_as_one_graph(times: torch.dtype) -> None:
    arguments = (torch.tensor([4, -1, 2]), *tables(times).values(), torch.float64)
    torch.library.opcheck(torch.ops.mspipe_triton.fetch_mail.default, arguments)
    compiled = torch.compile(fetch_mail, fullgraph=True, backend="aot_eager")(*arguments)
    assert all(torch.equal(*pair) for pair in zip(compiled, fetch_mail(*arguments), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": torch.zeros(3)}, "nodes is torch.float32; give int32 or int64"),
        ({"nodes": torch.zeros(3, 1).long()}, r"nodes has shape \(3, 1\); give 1 dimensions"),
        ({"nodes": torch.zeros(6).long()[::2]}, r"nodes \(3,\) has strides \(2,\); its last must be 1"),
        ({"memory_time": torch.zeros(9)}, "memory_time is torch.float32; give int64 or float64"),
        ({"mail_time": torch.zeros(9).double()}, "mail_time is torch.float64 beside memory_time in torch.int64"),
        ({"mail_time": torch.zeros(8).long()}, r"mail_time has shape \(8,\); give \(9,\)"),
        ({"event_id": torch.zeros(9).int()}, "event_id is torch.int32; give int64"),
        ({"event_id": torch.zeros(9, 1).long()}, r"event_id has shape \(9, 1\); give \(9,\)"),
        ({"event_id": torch.zeros(9, device="meta").long()}, "event_id is on meta, not on cpu"),
        ({"dtype": torch.bfloat16}, "dtype must be torch.float32 or torch.float64, not torch.bfloat16"),
        (tables(torch.int64, 0), r"memory_time has shape \(0,\); give tables with a row for every node"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"nodes": torch.tensor([1, 2, -1]), **tables(torch.int64)}
    with pytest.raises(ValueError, match=f"^fetch_mail: {message}"):
        fetch_mail(**(arguments | change))


def test_debugging_finds_a_node_outside_the_tables() -> None:
    enable_debug()
    try:
        with pytest.raises(ValueError, match=r"fetch_mail: nodes holds 9, outside"):
            fetch_mail(torch.tensor([1, 9, -1]), **tables(torch.int64))
    finally:
        enable_debug(False)
