"""The neighbour samplers against brute force over Python lists; the uniform one also against its distribution."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mspipe_triton.kernels import sample_recent, sample_uniform

Number = int | float
Row = list[tuple[int, int, Number]]  # neighbour, event, Δt
UNIX = 1_600_000_000


@dataclass
class Stream:
    """Events in time order and the roots to sample for; a self-loop gives its node two entries."""

    nodes: int
    events: list[tuple[int, int, Number]]
    roots: list[tuple[int, Number]]
    fanout: int
    float_times: bool = False
    index: torch.dtype = torch.int64
    entries: list[list[tuple[int, int, Number]]] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = [[] for _ in range(self.nodes)]
        for event, (src, dst, time) in enumerate(self.events):
            self.entries[src].append((dst, event, time))
            self.entries[dst].append((src, event, time))

    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """T-CSR and roots, in the samplers' argument order."""
        kind = torch.float64 if self.float_times else torch.int64
        flat = [entry for entries in self.entries for entry in entries]
        starts = [sum(len(entries) for entries in self.entries[:node]) for node in range(self.nodes + 1)]
        return (
            torch.tensor(starts),
            torch.tensor([entry[0] for entry in flat], dtype=self.index),
            torch.tensor([entry[1] for entry in flat], dtype=self.index),
            torch.tensor([entry[2] for entry in flat], dtype=kind),
            torch.tensor([node for node, _ in self.roots], dtype=self.index),
            torch.tensor([time for _, time in self.roots], dtype=kind),
        )

    def earlier(self, node: int, time: Number) -> Row:
        """Entries strictly before a time, oldest first."""
        return [(other, event, time - t) for other, event, t in self.entries[node] if t < time]

    def recent(self) -> list[Row]:
        return [self.earlier(node, time)[::-1][: self.fanout] for node, time in self.roots]

    def uniform(self, draws: list[int], places: list[int] | None = None) -> list[Row]:
        rows = []
        for i, (node, time) in zip(places or range(len(self.roots)), self.roots, strict=True):
            past = self.earlier(node, time)
            slots = range(i * self.fanout, i * self.fanout + min(len(past), self.fanout))
            rows.append([past[first_word(draws, slot) * len(past) // 2**32] for slot in slots])
        return rows


def first_word(draws: list[int], position: int) -> int:
    """Compute the first word of Philox 4x32-10: key (seed, purpose), counter (position, epoch, iteration)."""
    k0, k1, x2, x3 = draws
    x1, x0 = divmod(position, 2**32)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * x2, 2**32)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return x0


def pad(rows: list[Row], fanout: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Turn rows into the four tensors; an exact Δt is rounded once, to `dtype`."""
    full = [[*row, *[(-1, -1, 0)] * (fanout - len(row))] for row in rows]
    columns = [torch.tensor([[slot[k] for slot in row] for row in full]).view(len(rows), fanout) for k in range(3)]
    counts = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return columns[0].long(), columns[1].long(), columns[2].to(dtype), counts


def check(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for name, ours, theirs in zip(("neighbours", "events", "deltas", "counts"), actual, expected, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), f"{name}: {ours} instead of {theirs}"


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw few nodes, many ties, self-loops, nodes without events, and roots before, at, between and after events."""
    nodes = draw(st.integers(1, 6))
    float_times = draw(st.booleans())
    node, step = st.integers(0, nodes - 1), 0.25 if float_times else 1
    time: Number = draw(st.sampled_from([0, UNIX, -7])) + (0.0 if float_times else 0)
    first, events = time, []
    for src, dst, gap in draw(st.lists(st.tuples(node, node, st.integers(0, 3)), max_size=40)):
        time += gap * step
        events.append((src, dst, time))
    moments = st.sampled_from([first - 5 * step, first, time, time + step, time + 10**6, *[t for _, _, t in events]])
    roots = draw(st.lists(st.tuples(node, moments), max_size=12))
    index = draw(st.sampled_from([torch.int64, torch.int32]))
    return Stream(nodes, events, roots, draw(st.integers(1, 12)), float_times, index)


def random_stream(roots: int, seed: int = 0) -> Stream:
    """Make 300 events among 17 of 20 nodes; every three events have one time."""
    generator = random.Random(seed)
    events = [(generator.randrange(17), generator.randrange(17), UNIX + i // 3) for i in range(300)]
    times = [(generator.randrange(20), UNIX + generator.randint(-2, 103)) for _ in range(roots)]
    return Stream(20, events, times, 10)


@settings(deadline=None, max_examples=200)
@given(stream=streams(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_recent_against_brute_force(stream: Stream, dtype: torch.dtype) -> None:
    actual = sample_recent(*stream.arguments(), stream.fanout, dtype)
    check(actual, pad(stream.recent(), stream.fanout, dtype))


@settings(deadline=None, max_examples=200)
@given(stream=streams(), dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 2**32 - 1))
def test_uniform_against_brute_force_with_the_same_words(stream: Stream, dtype: torch.dtype, seed: int) -> None:
    draws = [seed, 2, 1, 5]
    actual = sample_uniform(*stream.arguments(), stream.fanout, torch.tensor(draws), dtype)
    check(actual, pad(stream.uniform(draws), stream.fanout, dtype))


def test_places_choose_the_draws() -> None:
    """A part of the roots, in another order, has the draws of the whole list; far places are no numbers of 32 bits."""
    stream, draws = random_stream(40), torch.tensor([9, 2, 0, 4])
    whole = sample_uniform(*stream.arguments(), stream.fanout, draws)
    places = torch.tensor([31, 2, 3, 39, 0, 17])
    *graph, roots, times = stream.arguments()
    part = sample_uniform(*graph, roots[places], times[places], stream.fanout, draws, places=places)
    check(part, tuple(each[places] for each in whole))
    far = [2**33 + 5 * number for number in range(40)]
    actual = sample_uniform(*stream.arguments(), stream.fanout, draws, places=torch.tensor(far))
    check(actual, pad(stream.uniform(draws.tolist(), far), stream.fanout, torch.float32))


@settings(deadline=None, max_examples=100)
@given(stream=streams())
def test_every_uniform_draw_is_an_earlier_entry_of_its_root(stream: Stream) -> None:
    sample = sample_uniform(*stream.arguments(), stream.fanout, torch.tensor([3, 2, 1, 0]), torch.float64)
    others, events, deltas, counts = (tensor.tolist() for tensor in sample)
    for i, (node, time) in enumerate(stream.roots):
        past = stream.earlier(node, time)
        assert counts[i] == min(len(past), stream.fanout)
        assert set(list(zip(others[i], events[i], deltas[i], strict=True))[: counts[i]]) <= set(past)


@pytest.mark.parametrize("roots", [0, 1, 123, 257])
def test_sizes(roots: int) -> None:
    stream = random_stream(roots)
    check(sample_recent(*stream.arguments(), 10), pad(stream.recent(), 10, torch.float32))
    draws = [9, 2, 0, 4]
    expected = pad(stream.uniform(draws), 10, torch.float32)
    check(sample_uniform(*stream.arguments(), 10, torch.tensor(draws)), expected)


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("roots", [0, 1, 123])
def test_a_stream_without_events(uniform: bool, roots: int) -> None:
    stream = Stream(3, [], [(i % 3, UNIX) for i in range(roots)], 4)
    sample = (
        sample_uniform(*stream.arguments(), 4, torch.tensor([1, 2, 3, 4]))
        if uniform
        else sample_recent(*stream.arguments(), 4)
    )
    check(sample, pad([[] for _ in range(roots)], 4, torch.float32))


@pytest.mark.parametrize("roots", [(0, UNIX - 1), (0, UNIX), (1, UNIX + 10**9)])
def test_roots_before_at_and_after_all_events(roots: tuple[int, int]) -> None:
    stream = Stream(2, [(0, 1, UNIX), (0, 1, UNIX), (1, 1, UNIX + 1)], [roots], 12)
    _, events, _, counts = sample_recent(*stream.arguments(), 12)
    expected = [2, 2, 1, 0] if roots[1] > UNIX + 1 else []
    assert counts.tolist() == [len(expected)]
    assert events[0].tolist() == expected + [-1] * (12 - len(expected))


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("float_times", [False, True])
def test_unix_seconds_are_subtracted_before_rounding(uniform: bool, float_times: bool) -> None:
    gaps = [16777217, 16777216, 16777215, 63, 1]
    for dtype in (torch.float32, torch.float64):
        for gap in gaps:
            stream = Stream(2, [(0, 1, UNIX)], [(0, UNIX + gap)], 1, float_times)
            sample = (
                sample_uniform(*stream.arguments(), 1, torch.tensor([1, 2, 3, 4]), dtype)
                if uniform
                else sample_recent(*stream.arguments(), 1, dtype)
            )
            rounded = gap - (dtype == torch.float32 and gap == 16777217)  # float32 holds every other gap exactly
            assert sample[2].dtype == dtype
            assert sample[2].item() == rounded


def test_uniform_repeats_itself_and_changes_with_each_word() -> None:
    arguments = random_stream(123).arguments()
    events = sample_uniform(*arguments, 10, torch.tensor([1, 2, 3, 4]))[1]
    assert torch.equal(events, sample_uniform(*arguments, 10, torch.tensor([1, 2, 3, 4]))[1])
    for word in range(4):
        draws = torch.tensor([1, 2, 3, 4])
        draws[word] += 1
        other = sample_uniform(*arguments, 10, draws)[1]
        assert not torch.equal(events, other)
        assert torch.equal(events >= 0, other >= 0)


def tail(statistic: float, degrees: int) -> float:
    """P(χ² > statistic) for an even number of degrees of freedom, for which it is a finite sum."""
    half, term, total = statistic / 2, 1.0, 0.0
    for i in range(degrees // 2):
        total += term
        term *= half / (i + 1)
    return math.exp(-half) * total


def chi_square(numbers: torch.Tensor, cells: int) -> float:
    expected = numbers.numel() / cells
    return float(((torch.bincount(numbers, minlength=cells) - expected) ** 2 / expected).sum())


def test_uniform_draws_are_uniform_and_neighbouring_slots_independent() -> None:
    stream = Stream(2, [(0, 1, time) for time in range(9)], [(0, 7)] * 4000, 7)  # 7 of the 9 entries are earlier
    events = sample_uniform(*stream.arguments(), 7, torch.tensor([2024, 2, 0, 0]))[1]
    pairs = events[:, 0:6:2] * 7 + events[:, 1:6:2]
    for numbers, cells in ((events.reshape(-1), 7), (pairs.reshape(-1), 49)):
        # One in a million on either side: too uneven, or too even to be random.
        assert 1e-6 < tail(chi_square(numbers, cells), cells - 1) < 1 - 1e-6


def test_chi_square_bound_notices_a_missing_entry() -> None:
    numbers = torch.arange(28_000) % 6  # the seventh is never drawn
    assert tail(chi_square(numbers, 7), 6) < 1e-6


@pytest.mark.parametrize("uniform", [False, True])
def test_inputs_are_unchanged(uniform: bool) -> None:
    arguments = random_stream(123).arguments()
    before = [tensor.clone() for tensor in arguments]
    if uniform:
        sample_uniform(*arguments, 3, torch.tensor([1, 2, 3, 4]))
    else:
        sample_recent(*arguments, 3)
    assert all(torch.equal(old, new) for old, new in zip(before, arguments, strict=True))
