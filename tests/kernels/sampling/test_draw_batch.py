"""draw_batch, by reference and by kernel in the interpreter, against a loop over events and their plain candidates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose, draw_words
from mspipe_triton.kernels import draw_batch, enable_debug
from mspipe_triton.kernels.runtime import launch
from mspipe_triton.kernels.sampling.draw_batch import batch_kernel
from tests.data.plain_candidates import plain_candidates
from tests.kernels.sampling.graph_case import WAITING, launches_of, operations_of

EVENTS, SEED, EPOCH, ITERATION = 23, 2**32 - 1, 3, 5
LARGE = 2**53 - 10  # the times pass 2⁵³, from where float64 does not hold every integer


def stream(times: torch.dtype = torch.int64) -> EventStream:
    """Make events with distinct sources and times, and with four repeated destinations."""
    number = torch.arange(EVENTS)
    moments = number + LARGE if times == torch.int64 else number.double() * 0.1 + 1e9
    return EventStream(number + 100, number % 19 + 200, moments)


def arguments(
    span: tuple[int, int], size: int, each: int = 1, times: torch.dtype = torch.int64, index: torch.dtype = torch.int64
) -> dict[str, Any]:
    events = stream(times)
    return {
        "src": events.src.to(index), "dst": events.dst.to(index), "times": events.t,
        "destinations": events.dst.unique().to(index), "span": torch.tensor(span),
        "draws": draw_words(SEED, Purpose.TRAIN_NEGATIVES, EPOCH, ITERATION), "size": size, "each": each,
    }  # fmt: skip


def expected(span: tuple[int, int], size: int, each: int, times: torch.dtype) -> tuple[list[Any], ...]:
    """Compute roots, root_times, events and count, event by event."""
    events, (first, end) = stream(times), (min(max(part, 0), EVENTS) for part in span)
    src, dst, moments = (part.tolist() for part in (events.src, events.dst, events.t))
    draws = [SEED, Purpose.TRAIN_NEGATIVES, EPOCH, ITERATION]
    candidates = plain_candidates(draws, dst[first : max(min(first + size, end), first)], each, set(dst))
    ends: tuple[list[Any], ...] = ([], [], [])
    event_times: list[Any] = []
    numbers = []
    for i in range(size):
        real = first + i < end
        event = first + i if real else -1
        nodes = ([src[event]], [dst[event]], candidates[i]) if real else ([-1], [-1], [-1] * each)
        for part, values in zip(ends, nodes, strict=True):
            part.extend(values)
        event_times.append(moments[event if real else max(end - 1, 0)])
        numbers.append(event)
    moments = event_times + event_times + [time for time in event_times for _ in range(each)]
    return [*ends[0], *ends[1], *ends[2]], moments, numbers, [sum(number >= 0 for number in numbers)]


def check(
    span: tuple[int, int], size: int, each: int = 1, times: torch.dtype = torch.int64, index: torch.dtype = torch.int64
) -> None:
    inputs = arguments(span, size, each, times, index)
    before = {name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    results = draw_batch(**inputs)
    assert [part.dtype for part in results] == [torch.int64, times, torch.int64, torch.int64]
    assert [part.shape for part in results] == [((2 + each) * size,), ((2 + each) * size,), (size,), (1,)]
    assert tuple(part.tolist() for part in results) == expected(span, size, each, times)
    assert all(torch.equal(inputs[name], value) for name, value in before.items()), "an input was mutated"


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize(("size", "each"), [(1, 1), (7, 1), (7, 3), (23, 1), (129, 2)])
def test_whole_and_partial_batches(size: int, each: int) -> None:
    for first in (0, 16, EVENTS - 1):
        check((first, EVENTS), size, each)
    check((4, 9), size, each)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize(
    "span", [(0, 0), (9, 9), (9, 4), (23, 23), (24, 23), (500, 23), (500, 4), (30, 400), (2**63 - 1, 2**63 - 1)]
)
def test_an_empty_or_past_span_has_no_events_and_finite_times(span: tuple[int, int]) -> None:
    check(span, 7, 2)
    roots, times, events, count = draw_batch(**arguments(span, 7, 2))
    assert set(roots.tolist()) == set(events.tolist()) == {-1}
    assert bool((times >= LARGE).all())
    assert count.tolist() == [0]


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("span", [(20, 400), (-2, 3), (-5, -2), (-(2**63), 2**63 - 1)])
def test_a_span_is_clipped_to_the_stream(span: tuple[int, int]) -> None:
    check(span, 7)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("times", [torch.int64, torch.float64])
def test_types(times: torch.dtype, index: torch.dtype) -> None:
    check((12, EVENTS), 20, 2, times, index)
    assert len(set(draw_batch(**arguments((0, EVENTS), EVENTS, 1, times))[1].tolist())) == EVENTS


@pytest.mark.usefixtures("backend", "poisoned")
def test_an_empty_batch_and_a_stream_of_one_event() -> None:
    assert [part.tolist() for part in draw_batch(**arguments((3, EVENTS), 0))] == [[], [], [], [0]]
    parts = arguments((0, 1), 2)
    one = parts | {name: parts[name][:1] for name in ("src", "dst", "times")} | {"destinations": parts["dst"][:2]}
    results = draw_batch(**one)
    assert [part.tolist() for part in results] == [[100, -1, 200, -1, 201, -1], [LARGE] * 6, [0, -1], [1]]


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("config", batch_kernel.configs["float32"], ids=str)
def test_every_configuration(config: launch.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batch_kernel.chosen, "float32", config)
    check((2, 20), 90, 2)


def test_one_launch_and_no_wait() -> None:
    inputs = arguments((12, EVENTS), 20, 2)
    assert launches_of(lambda: draw_batch.launch(**inputs)) == (["batch_kernel"], {"new_empty", "empty_like"})
    assert not operations_of(lambda: draw_batch.reference(**inputs)) & WAITING


@pytest.mark.parametrize("each", [1, 3])
def test_the_operation_passes_opcheck_and_compiles_as_one_graph(each: int) -> None:
    inputs = arguments((20, EVENTS), 5, each)
    torch.library.opcheck(torch.ops.mspipe_triton.draw_batch.default, tuple(inputs.values()))
    compiled = torch.compile(draw_batch, fullgraph=True, backend="aot_eager")(**inputs)
    assert all(torch.equal(*pair) for pair in zip(compiled, draw_batch(**inputs), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": torch.zeros(EVENTS)}, "times is torch.float32; give int64 or float64"),
        ({"src": torch.zeros(EVENTS)}, "src is torch.float32; give int32 or int64"),
        ({"dst": torch.zeros(4).long()}, r"dst has shape \(4,\); give \(23,\)"),
        (
            {"destinations": torch.zeros(1).long()},
            r"destinations has shape \(1,\); give at least two, because a candidate is never the event's own",
        ),
        (
            dict.fromkeys(("src", "dst", "times"), torch.zeros(0).long()),
            r"times has shape \(0,\); give at least one event",
        ),
        ({"destinations": torch.zeros(2, 1).long()}, r"destinations has shape \(2, 1\); give 1 dimensions"),
        ({"span": torch.zeros(2).int()}, "span is torch.int32; give int64"),
        ({"span": torch.zeros(3).long()}, r"span has shape \(3,\); give \(2,\)"),
        ({"draws": torch.zeros(3).long()}, r"draws has shape \(3,\); give \(4,\)"),
        ({"draws": torch.zeros(8).long()[::2]}, r"draws \(4,\) has strides \(2,\); its last must be 1"),
        ({"size": -1}, "size must be an integer of at least 0, not -1"),
        ({"each": 0}, "each must be an integer of at least 1, not 0"),
        ({"each": 1.5}, "each must be an integer of at least 1, not 1.5"),
        ({"src": torch.zeros(EVENTS, device="meta").long()}, "src is on meta, not on cpu"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^draw_batch: {message}"):
        draw_batch(**(arguments((0, EVENTS), 4) | change))


@pytest.mark.parametrize("wrong", [[205, 203], [203, 203, 205], [203, 204]], ids=["order", "twice", "missing"])
def test_debugging_finds_wrong_destinations(wrong: list[int]) -> None:
    dst, span = torch.tensor([203, 205]), torch.tensor([0, 2])
    arguments = (
        torch.tensor([1, 2]),
        dst,
        torch.tensor([7, 8]),
        torch.tensor(wrong),
        span,
        torch.tensor([0, 1, 2, 3]),
        2,
    )
    enable_debug()
    try:
        with pytest.raises(ValueError, match="destinations are not the distinct dst in ascending order"):
            draw_batch(*arguments)
    finally:
        enable_debug(False)
    assert draw_batch(*arguments)[0].shape == (6,)
