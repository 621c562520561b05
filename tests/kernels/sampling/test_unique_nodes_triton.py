"""unique_nodes' kernels in Triton's interpreter against the reference, bit for bit, and their registration."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import unique_nodes
from mspipe_triton.kernels.runtime import checks, launch
from mspipe_triton.kernels.runtime.launch import pow2
from mspipe_triton.kernels.sampling.unique_nodes import SPAN, unique_insert_kernel

KERNELS = ("unique_insert_kernel", "unique_count_kernel", "unique_number_kernel", "unique_inverse_kernel")
NODES = st.lists(st.one_of(st.integers(-3, 12), st.sampled_from([2**31 - 1, 10**6, 10**6 - 1, 123_456])), max_size=60)

needs_triton = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


def check_same(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for name, ours, theirs in zip(("ids", "inverse", "count"), actual, expected, strict=True):
        assert ours.dtype == theirs.dtype == torch.int64, name
        assert ours.tolist() == theirs.tolist(), name


def by_dict(nodes: list[int], capacity: int) -> tuple[torch.Tensor, ...]:
    """Compute the documented result, for a capacity that is too small as well."""
    row: dict[int, int] = {}
    rank = [row.setdefault(node, len(row)) if node >= 0 else 0 for node in nodes]
    ids = (list(row) + [-1] * capacity)[:capacity]
    parts = (ids, [r if r < capacity else 0 for r in rank], [len(row)])
    return tuple(torch.tensor(part, dtype=torch.int64) for part in parts)


def check(nodes: torch.Tensor, capacity: int) -> None:
    """Compare with the documented result and the reference, whose table is as long as the largest node."""
    before = nodes.clone()
    result = unique_nodes.launch(nodes, capacity)
    check_same(result, by_dict(nodes.tolist(), capacity))
    assert torch.equal(nodes, before), "the input was mutated"
    if max(before.tolist(), default=0) <= 10**6:
        check_same(result, unique_nodes.reference(nodes, capacity))


def colliding_nodes(hash_value: int, count: int, bits: int) -> torch.Tensor:
    """Make nodes of one hash in a table of 2^bits slots: multiples of the multiplier's inverse."""
    low, inverse = hash_value << (32 - bits), pow(0x9E3779B9, -1, 2**32)
    nodes = [product * inverse % 2**32 for product in range(low, low + 4 * count + 8)]
    nodes = [node for node in nodes if node < 2**31][:count]
    assert {node * 0x9E3779B9 % 2**32 >> (32 - bits) for node in nodes} == {hash_value}
    assert len(nodes) == count
    return torch.tensor(nodes)


@needs_triton
@settings(deadline=None, max_examples=40)
@given(nodes=NODES, capacity=st.integers(0, 70), dtype=st.sampled_from([torch.int64, torch.int32]))
def test_any_list(nodes: list[int], capacity: int, dtype: torch.dtype) -> None:
    check(torch.tensor(nodes, dtype=dtype), capacity)


@needs_triton
@pytest.mark.parametrize("length", [0, 1, 129, SPAN + 1])
@pytest.mark.parametrize(("highest", "dtype"), [(40, torch.int64), (2**31 - 1, torch.int64), (2**31 - 1, torch.int32)])
@pytest.mark.usefixtures("poisoned")
def test_sizes(length: int, highest: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(length + highest)
    check(torch.randint(-1, highest + 1, (length,), generator=generator).to(dtype), length)


@needs_triton
@pytest.mark.parametrize("length", [1, SPAN + 1])
@pytest.mark.usefixtures("poisoned")
def test_all_equal_all_distinct_and_all_padding(length: int) -> None:
    for nodes in (torch.full((length,), 7), torch.arange(length).flip(0), torch.full((length,), -3)):
        check(nodes, length)
        check(nodes, length + SPAN + 1)


@needs_triton
@pytest.mark.parametrize("length", [0, 123])
@pytest.mark.parametrize("capacity", [0, 1, SPAN + 1])
@pytest.mark.usefixtures("poisoned")
def test_ids_beyond_the_count_are_minus_one(length: int, capacity: int) -> None:
    check(torch.full((length,), -1), capacity)


@needs_triton
@pytest.mark.parametrize("last", [False, True], ids=["first slot", "last slot"])
@pytest.mark.usefixtures("poisoned")
def test_nodes_of_one_hash(last: bool) -> None:
    """Insert 70 nodes of one hash twice; probing continues past the slot, and wraps around from the last slot."""
    bits = pow2(2 * 140).bit_length() - 1
    nodes = colliding_nodes((1 << bits) - 1 if last else 0, 70, bits)
    nodes = torch.cat([nodes, nodes.flip(0)])
    check(nodes, 75)
    table, slots = torch.full((1 << bits,), -1), torch.empty(140, dtype=torch.int32)
    unique_insert_kernel.launch((2,), unique_insert_kernel.config(), nodes, table, slots, 140, BITS=bits)
    start = (1 << bits) - 1 if last else 0
    run = {(start + step) % (1 << bits) for step in range(70)}
    assert set(slots.tolist()) == run
    assert set(torch.nonzero(table >= 0).view(-1).tolist()) == run


@needs_triton
@pytest.mark.usefixtures("poisoned")
def test_the_smallest_position_of_a_node_wins_in_any_order() -> None:
    """On a GPU a later position may insert a node first; a table that holds later positions gives the same entries."""
    nodes = torch.tensor([5, 9, 5, 5, 9, 2])
    table, slots = torch.full((16,), -1), torch.empty(6, dtype=torch.int32)
    config = unique_insert_kernel.config()
    unique_insert_kernel.launch((1,), config, nodes, table, slots, 6, BITS=4)
    later_table = torch.where(table >= 0, table + 1000, -1)
    again = torch.empty_like(slots)
    unique_insert_kernel.launch((1,), config, nodes, later_table, again, 6, BITS=4)
    assert torch.equal(table, later_table)
    assert torch.equal(slots, again)
    assert (table[slots.long()] & 0xFFFFFFFF).tolist() == [0, 1, 0, 0, 1, 5]


@needs_triton
@pytest.mark.parametrize("capacity", [0, 40, SPAN, SPAN + 88])
@pytest.mark.usefixtures("poisoned")
def test_a_small_capacity_keeps_the_first_nodes_and_counts_all(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = torch.arange(SPAN + 89).repeat(2) * 3
    ids, inverse, count = unique_nodes.launch(nodes, capacity)
    assert count.tolist() == [SPAN + 89]
    assert ids.tolist() == (torch.arange(capacity) * 3).tolist()
    assert inverse.tolist() == [i if i < capacity else 0 for i in range(SPAN + 89)] * 2
    check_same((ids, inverse, count), unique_nodes.reference(nodes, capacity))
    # The same launch into the head of a longer buffer does not touch the rest.
    buffer = torch.full((capacity + 50,), -5)
    outputs = buffer[:capacity], torch.empty_like(nodes), torch.empty(1, dtype=torch.int64)
    monkeypatch.setattr(sys.modules[unique_nodes.__module__], "_empty", lambda *_: outputs)
    unique_nodes.launch(nodes, capacity)
    assert buffer.tolist() == [*ids.tolist(), *[-5] * 50]


@needs_triton
@pytest.mark.parametrize("number", range(3))
def test_every_configuration(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNELS:
        kernel = launch.KERNELS[name]
        monkeypatch.setitem(kernel.chosen, "float32", kernel.configs["float32"][number])
    check(torch.arange(700) * 7 % 301 - 1, 700)


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_the_public_function_runs_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    start = launch.Kernel.launch

    def record(kernel: launch.Kernel, *arguments: Any, **constants: Any) -> None:
        names.append(kernel.name)
        start(kernel, *arguments, **constants)

    monkeypatch.setattr(launch.Kernel, "launch", record)
    nodes = [4, -1, 9, 4, 4, 0, 9]
    check_same(unique_nodes(torch.tensor(nodes), 5), by_dict(nodes, 5))
    assert tuple(names) == KERNELS


@pytest.mark.parametrize("nodes", [[], [-1], [3, 3, -1, 0, 5]])
def test_the_operation_passes_opcheck(nodes: list[int]) -> None:
    for dtype in (torch.int64, torch.int32):
        torch.library.opcheck(torch.ops.mspipe_triton.unique_nodes.default, (torch.tensor(nodes, dtype=dtype), 6))


def test_it_compiles_as_one_graph_for_any_length() -> None:
    compiled = torch.compile(lambda nodes: unique_nodes(nodes, nodes.numel()), fullgraph=True, backend="aot_eager")
    for length in (5, 9, 17):
        nodes = torch.arange(length) % 4 - 1
        check_same(compiled(nodes), unique_nodes.reference(nodes, length))


@pytest.mark.parametrize(
    ("nodes", "capacity", "message"),
    [
        (torch.zeros(3), 3, "nodes is torch.float32; give int32 or int64, as with nodes.to"),
        (torch.zeros(2, 3, dtype=torch.int64), 6, r"nodes is \(2, 3\); give a vector, as with nodes.reshape"),
        (torch.zeros(6, dtype=torch.int64)[::2], 3, r"nodes \(3,\) has strides \(2,\).*nodes.contiguous"),
        (torch.zeros(3, dtype=torch.int64), -1, "capacity must be an integer ≥ 0, not -1"),
    ],
)
def test_bad_arguments_are_refused(nodes: torch.Tensor, capacity: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^unique_nodes: {message}"):
        unique_nodes(nodes, capacity)


def test_debugging_finds_a_node_that_is_too_large() -> None:
    checks.enable_debug()
    try:
        with pytest.raises(ValueError, match="unique_nodes: nodes holds 2147483648, outside"):
            unique_nodes(torch.tensor([1, 2**31, -1]), 3)
    finally:
        checks.enable_debug(False)
