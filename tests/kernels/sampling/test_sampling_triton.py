"""The samplers' kernels in Triton's interpreter against their references, bit for bit, and their registration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import sample_recent, sample_uniform
from mspipe_triton.kernels.runtime import checks, launch

Graph = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
UNIX = 1_600_000_000
DRAWS = [2**32 - 1, 2, 7, 123]
NAMES = ("neighbours", "events", "deltas", "counts")
TIMES = (torch.int64, torch.float64)
INDEX = (torch.int64, torch.int32)

needs_triton = pytest.mark.skipif(launch.triton is None, reason="triton has no wheel for this platform")


def graph(
    nodes: int,
    entries: int,
    roots: int,
    seed: int = 0,
    times: torch.dtype = torch.int64,
    index: torch.dtype = torch.int64,
) -> Graph:
    """Make a T-CSR with tied times, whose last node has no entry, and roots, every seventh of them padding. With up to
    600 entries, bfloat16 holds every time difference exactly."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, size: int) -> torch.Tensor:
        return torch.randint(high, (size,), generator=generator)

    owner, moment = integers(max(nodes - 1, 1), entries), integers(entries // 3 + 1, entries) + UNIX
    order = moment.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    indptr = torch.zeros(nodes + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(owner, minlength=nodes).cumsum(0)
    targets, scale = integers(nodes, roots), 0.25 if times == torch.float64 else 1
    targets[6::7] = -1 - integers(3, targets[6::7].numel())
    root_times = integers(entries // 3 + 5, roots) + UNIX - 2
    return (
        indptr, integers(nodes, entries).to(index), torch.arange(entries)[order].to(index),
        (moment[order] * scale).to(times), targets.to(index), (root_times * scale).to(times),
    )  # fmt: skip


def check_same(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for name, ours, theirs in zip(NAMES, actual, expected, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        assert torch.equal(ours, theirs), f"{name}: {ours} instead of {theirs}"


def check(case: Graph, fanout: int, dtype: torch.dtype = torch.float32) -> None:
    """Check both samplers' kernels against their references."""
    check_same(sample_recent.launch(*case, fanout, dtype), sample_recent.reference(*case, fanout, dtype))
    draws = torch.tensor(DRAWS)
    expected = sample_uniform.reference(*case, fanout, draws, dtype)
    check_same(sample_uniform.launch(*case, fanout, draws, dtype), expected)
    places = 2**32 + 7 * torch.arange(case[4].numel()).flip(0)
    expected = sample_uniform.reference(*case, fanout, draws, dtype, places)
    check_same(sample_uniform.launch(*case, fanout, draws, dtype, places), expected)


@needs_triton
@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(0, 40), st.integers(0, 40)),
    seed=st.integers(0, 2**32 - 1),
    fanout=st.integers(1, 12),
    times=st.sampled_from(TIMES),
    index=st.sampled_from(INDEX),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_graph(
    shape: tuple[int, int, int], seed: int, fanout: int, times: torch.dtype, index: torch.dtype, dtype: torch.dtype
) -> None:
    check(graph(*shape, seed, times, index), fanout, dtype)


@needs_triton
@pytest.mark.parametrize(
    ("roots", "fanout"), [(0, 10), (1, 10), (33, 10), (33, 16), (65, 1), (65, 17), (65, 40), (123, 3)]
)
@pytest.mark.usefixtures("poisoned")
def test_sizes(roots: int, fanout: int) -> None:
    check(graph(20, 600, roots), fanout)


@needs_triton
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("index", INDEX)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.usefixtures("poisoned")
def test_types(times: torch.dtype, index: torch.dtype, dtype: torch.dtype) -> None:
    check(graph(20, 300, 40, 1, times, index), 10, dtype)


@needs_triton
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the interpreter truncates bfloat16
def test_large_times_are_subtracted_before_rounding(times: torch.dtype, dtype: torch.dtype) -> None:
    gaps = torch.tensor([1, 63, 257, 16777215, 16777216, 16777217, 16777219, 2**31 + 129, 1_700_000_001])
    indptr, one = torch.tensor([0, 1]), torch.zeros(1, dtype=torch.int64)
    case = (indptr, one, one, (one + UNIX).to(times), torch.zeros_like(gaps), (gaps + UNIX).to(times))
    check(case, 1, dtype)
    deltas = sample_recent.launch(*case, 1, dtype)[2]
    assert torch.equal(deltas[:, 0], gaps.to(dtype))


@needs_triton
@pytest.mark.parametrize("roots", [0, 1, 33])
@pytest.mark.usefixtures("poisoned")
def test_a_graph_without_entries(roots: int) -> None:
    check(graph(3, 0, roots), 4)


@needs_triton
@pytest.mark.usefixtures("poisoned")
def test_roots_without_neighbours() -> None:
    indptr, neighbours, events, times, roots, moments = graph(20, 300, 40)
    early = torch.full_like(moments, UNIX)  # no entry is strictly before the earliest one
    isolated = torch.full_like(roots, 19)
    padding = torch.full_like(roots, -1)
    for case in ((roots, early), (isolated, moments), (padding, moments)):
        check((indptr, neighbours, events, times, *case), 10)
        samples = sample_recent.launch(indptr, neighbours, events, times, *case, 10, torch.float32)
        assert not samples[3].any()
        assert bool((samples[0] == -1).all())


@needs_triton
@pytest.mark.usefixtures("poisoned")
def test_padding_does_not_change_other_roots() -> None:
    indptr, neighbours, events, times, roots, moments = graph(20, 300, 40)
    clamped = roots.clamp(min=0)
    table, draws = (indptr, neighbours, events, times), torch.tensor(DRAWS)
    for padded, full in (
        (sample_recent.launch(*table, roots, moments, 5, torch.float32), sample_recent(*table, clamped, moments, 5)),
        (
            sample_uniform.launch(*table, roots, moments, 5, draws, torch.float32),
            sample_uniform(*table, clamped, moments, 5, draws),
        ),
    ):
        check_same(tuple(part[roots >= 0] for part in padded), tuple(part[roots >= 0] for part in full))
        assert bool((padded[0][roots < 0] == -1).all())
        assert not padded[2][roots < 0].any()


@needs_triton
@pytest.mark.parametrize("draws", [[0, 0, 0, 0], [2**32 - 1] * 4, [1, 2, 3, 4]])
def test_draws(draws: list[int]) -> None:
    case, words = graph(5, 900, 40), torch.tensor(draws)
    expected = sample_uniform.reference(*case, 10, words)
    check_same(sample_uniform.launch(*case, 10, words, torch.float32), expected)


@needs_triton
@pytest.mark.parametrize("number", range(3))
def test_every_configuration(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recent_kernel", "uniform_kernel"):
        kernel = launch.KERNELS[name]
        monkeypatch.setitem(kernel.chosen, "float32", kernel.configs["float32"][number])
    check(graph(20, 300, 65), 10)


@pytest.mark.usefixtures("interpreter", "poisoned")
def test_public_functions_run_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    case, draws = graph(20, 300, 40), torch.tensor(DRAWS)
    expected = sample_recent.reference(*case, 10), sample_uniform.reference(*case, 10, draws)
    names = []
    start = launch.Kernel.launch

    def record(kernel: launch.Kernel, *arguments: Any, **constants: Any) -> None:
        names.append(kernel.name)
        start(kernel, *arguments, **constants)

    monkeypatch.setattr(launch.Kernel, "launch", record)
    check_same(sample_recent(*case, 10), expected[0])
    check_same(sample_uniform(*case, 10, draws), expected[1])
    assert names == ["recent_kernel", "uniform_kernel"]


@pytest.mark.parametrize("roots", [0, 9])
@pytest.mark.parametrize("entries", [0, 50])
def test_operations_pass_opcheck(roots: int, entries: int) -> None:
    case, draws = graph(5, entries, roots), torch.tensor(DRAWS)
    torch.library.opcheck(torch.ops.mspipe_triton.sample_recent.default, (*case, 3, torch.float32))
    for places in (None, torch.arange(roots).flip(0)):
        torch.library.opcheck(torch.ops.mspipe_triton.sample_uniform.default, (*case, 3, draws, torch.float64, places))


def test_both_compile_as_one_graph() -> None:
    case, draws = graph(5, 50, 9), torch.tensor(DRAWS)

    def sample(roots: torch.Tensor, moments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        recent = sample_recent(*case[:4], roots, moments, 3)
        return (*recent, *sample_uniform(*case[:4], roots, moments, 3, draws, torch.float64))

    expected = sample(*case[4:])
    actual = torch.compile(sample, fullgraph=True, backend="aot_eager")(*case[4:])
    check_same(actual[:4], expected[:4])
    check_same(actual[4:], expected[4:])


ARGUMENTS = ("indptr", "neighbours", "event_ids", "times", "roots", "root_times", "fanout", "draws", "dtype")


def valid_arguments() -> dict[str, Any]:
    return dict(zip(ARGUMENTS, (*graph(5, 50, 9), 3, torch.tensor(DRAWS), torch.float32), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fanout": 0}, "fanout must be an integer of at least 1, not 0"),
        ({"fanout": 2.5}, "fanout must be an integer of at least 1, not 2.5"),
        ({"indptr": torch.zeros(0, dtype=torch.int64)}, r"indptr has shape \(0,\); give \[N \+ 1\]"),
        ({"dtype": torch.int64}, "dtype must be a floating type, not torch.int64"),
        ({"indptr": torch.zeros(6, dtype=torch.int32)}, r"indptr is torch.int32; give int64, as with indptr.to"),
        ({"roots": torch.zeros(9)}, "roots is torch.float32; give int32 or int64"),
        ({"root_times": torch.zeros(9)}, "root_times is torch.float32, times are torch.int64; give both one dtype"),
        (
            {"root_times": torch.zeros(8, dtype=torch.int64)},
            r"roots, root_times are \[\(9,\), \(8,\)\]; give vectors",
        ),
        (
            {"roots": torch.zeros(1, 9).long(), "root_times": torch.zeros(1, 9).long()},
            r"roots, root_times are \[\(1, 9\), \(1, 9\)\]; give vectors",
        ),
        (
            {"event_ids": torch.zeros(49, dtype=torch.int64)},
            r"event_ids, times are \[\(50,\), \(49,\), \(50,\)\]; give",
        ),
        ({"neighbours": torch.zeros(100, dtype=torch.int64)[::2]}, r"strides \(2,\).*neighbours.contiguous"),
        (
            {"root_times": torch.zeros(9, dtype=torch.int64, device="meta")},
            "root_times is on meta, not on cpu; move it",
        ),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments = valid_arguments() | changes
    with pytest.raises(ValueError, match=f"^sample_uniform: .*{message}"):
        sample_uniform(**arguments)
    del arguments["draws"]
    with pytest.raises(ValueError, match=f"^sample_recent: .*{message}"):
        sample_recent(**arguments)


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), r"draws has shape \(3,\); give the four words"),
        (torch.zeros(4, 1, dtype=torch.int64), r"draws has shape \(4, 1\); give the four words"),
        (torch.zeros(4, dtype=torch.int32), r"draws is torch.int32; give int64, as with draws.to"),
        (torch.zeros(8, dtype=torch.int64)[::2], r"draws \(4,\) has strides \(2,\).*draws.contiguous"),
        (torch.zeros(4, dtype=torch.int64, device="meta"), "draws is on meta, not on cpu; move it with .to"),
    ],
)
def test_bad_draws_are_refused(draws: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^sample_uniform: {message}"):
        sample_uniform(**(valid_arguments() | {"draws": draws}))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (torch.zeros(8, dtype=torch.int64), r"places has shape \(8,\), roots has \(9,\); give a place for each root"),
        (torch.zeros(9, dtype=torch.int32), r"places is torch.int32; give int64, as with places.to"),
        (torch.zeros(18, dtype=torch.int64)[::2], r"places \(9,\) has strides \(2,\).*places.contiguous"),
        (torch.zeros(9, dtype=torch.int64, device="meta"), "places is on meta, not on cpu; move it with .to"),
    ],
)
def test_bad_places_are_refused(places: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^sample_uniform: {message}"):
        sample_uniform(**(valid_arguments() | {"places": places}))


def test_debugging_finds_a_root_outside_the_graph() -> None:
    arguments = valid_arguments() | {"roots": torch.tensor([0, -1, 5, 1, 1, 1, 1, 1, 1])}
    checks.enable_debug()
    try:
        with pytest.raises(ValueError, match=r"sample_uniform: roots holds 5, outside \[.*, 5\)"):
            sample_uniform(**arguments)
    finally:
        checks.enable_debug(False)
