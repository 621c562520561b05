"""Timelines: which iterations are cut out, and what is recorded of an epoch's end."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from mspipe_triton.pipeline.flight import Span
from mspipe_triton.pipeline.timeline import Recorder, Timeline


def iteration(number: int, start: float, length: float, ahead: float = 0.0) -> list[Span]:
    """An iteration that is sampled `ahead` of its start, and trained for `length`."""
    sample = Span("sample", "sampler", number, start - ahead, start - ahead + 0.5, 0.5)
    return [sample, Span("train", "compute", number, start + 0.5, start + 0.5 + length, length)]


def epoch(lengths: Sequence[float], ahead: float) -> list[list[Span]]:
    """Iterations that follow each other."""
    spans, start = [], 10.0
    for number, length in enumerate(lengths):
        spans.append(iteration(number, start, length, ahead))
        start += 0.5 + length
    return spans


@pytest.mark.parametrize(("ahead", "opening"), [(0.0, "sample"), (3.0, "train")])
def test_the_iterations_of_median_length_are_cut_out(ahead: float, opening: str) -> None:
    recorded = epoch([9.0, 1.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0], ahead)
    timeline = Timeline.of(3, recorded, 2)
    assert timeline is not None
    assert (timeline.epoch, timeline.iterations) == (3, 2)
    # The pairs of iterations last 10, 2, 2, 3, 4, 7 and half a second more for each.
    assert timeline.seconds == pytest.approx(3 + 2 * 0.5)
    first = next(span for span in timeline.spans if span.start == 0)
    assert first.stage == opening
    assert first.iteration == 3
    assert all(span.end > 0 and span.start < timeline.seconds for span in timeline.spans)
    assert [span.start for span in timeline.spans] == sorted(span.start for span in timeline.spans)


def test_other_iterations_that_run_meanwhile_are_in_it() -> None:
    timeline = Timeline.of(1, epoch([1.0] * 9, 3.0), 2)
    assert timeline is not None
    trained = {span.iteration for span in timeline.spans if span.stage == "train"}
    sampled = {span.iteration for span in timeline.spans if span.stage == "sample"}
    assert max(sampled) > max(trained)


def test_iterations_that_do_not_follow_each_other_make_no_timeline() -> None:
    first, second = epoch([1.0, 1.0], 0.0)
    assert Timeline.of(1, [first], 2) is None
    assert Timeline.of(1, [], 2) is None
    assert Timeline.of(1, [second, first], 2) is None, "a new block starts with iteration 0 again"
    short = Timeline.of(1, [second, first, second], 2)
    assert short is not None
    assert short.iterations == 1


def test_a_timeline_survives_json() -> None:
    timeline = Timeline.of(1, epoch([1.0, 2.0, 3.0], 0.0), 2)
    assert timeline is not None
    assert Timeline.read(json.loads(json.dumps(timeline.to_json()))) == timeline
    with pytest.raises(KeyError):
        Timeline.read({})
    with pytest.raises(TypeError):
        Timeline.read({"spans": [], "other": 1})


@pytest.mark.parametrize(("total", "first", "last"), [(3, 0, 2), (9, 0, 6), (1000, 928, 987)])
def test_the_end_of_an_epoch_is_left_out(total: int, first: int, last: int) -> None:
    recorder = Recorder()
    for number, spans in enumerate(epoch([1.0] * 5, 0.0)):  # of an epoch before
        recorder.add(1, spans)
        assert (recorder.timeline() is None) == (number == 0)
    for spans in epoch([1.0] * total, 0.0):
        recorder.add(2, spans)
    timeline = recorder.timeline()
    assert timeline is not None
    assert timeline.epoch == 2
    assert timeline.iterations == min(6, last - first)
    assert {span.iteration for span in timeline.spans} <= set(range(first, last + 1))


def test_nothing_is_recorded_in_a_run_without_stages() -> None:
    assert Recorder().timeline() is None
