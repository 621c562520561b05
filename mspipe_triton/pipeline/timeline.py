"""Timelines: the measured stages of a few typical iterations, cut out of the middle of an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from mspipe_triton.pipeline.flight import Span, StageTimes

ITERATIONS = 6
_RECORDED = 64  # iterations from which the typical ones are chosen
_ANCHORS = ("train", "forward")


@dataclass(frozen=True)
class Timeline:
    """All stages that ran during some iterations of an epoch.

    Args:
        epoch: the epoch, counting from 1.
        iterations: the number of iterations that `seconds` lasts.
        seconds: the length of the timeline.
        spans: the stages that ran then, in seconds from its start; those at its ends reach beyond it.
    """

    epoch: int
    iterations: int
    seconds: float
    spans: tuple[Span, ...]

    @staticmethod
    def of(epoch: int, recorded: Sequence[Sequence[Span]], iterations: int = ITERATIONS) -> Timeline | None:
        """Cut out the iterations whose length is the median among all that follow each other in a recording.

        Args:
            epoch: the epoch. recorded: the spans of each iteration, in order. iterations: the number to cut out; fewer
                if fewer follow each other.

        Returns:
            The timeline; None if no two iterations follow each other.
        """
        starts = _starts(recorded)
        count = min(iterations, max((end - start for start, end in _runs(recorded)), default=0))
        if count == 0:
            return None
        places = [place for start, end in _runs(recorded) for place in range(start, end - count + 1)]
        places.sort(key=lambda place: starts[place + count] - starts[place])
        first = places[(len(places) - 1) // 2]
        begin, end = starts[first], starts[first + count]
        spans = [span for each in recorded for span in each if span.end > begin and span.start < end]
        shifted = (replace(span, start=span.start - begin, end=span.end - begin) for span in spans)
        return Timeline(epoch, count, end - begin, tuple(sorted(shifted, key=lambda span: span.start)))

    @staticmethod
    def read(content: Mapping[str, Any]) -> Timeline:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return Timeline(**{**content, "spans": tuple(Span(**span) for span in content["spans"])})

    def to_json(self) -> dict[str, Any]:
        """Return the content of a run's `timeline.json`."""
        return asdict(self)


@dataclass
class RecordedTimes(StageTimes):
    """Stage times of an epoch that also keep the spans of its middle iterations.

    Args:
        total: the epoch's number of iterations.
    """

    total: int = 0
    recorded: list[Sequence[Span]] = field(default_factory=list)

    def add(self, spans: Sequence[Span]) -> None:
        """Count an iteration."""
        super().add(spans)
        if abs(2 * self.iterations - self.total) <= _RECORDED:
            self.recorded.append(spans)


def _starts(recorded: Sequence[Sequence[Span]]) -> list[float]:
    """Return the time at which each iteration starts: that of training, or of its first stage if none overlap."""
    overlap = any(
        min(span.start for span in later) < max(span.end for span in earlier) for earlier, later in pairwise(recorded)
    )
    anchors = _ANCHORS if overlap else ()
    return [min((span.start for span in spans if span.stage in anchors), default=spans[0].start) for spans in recorded]


def _runs(recorded: Sequence[Sequence[Span]]) -> list[tuple[int, int]]:
    """Return the first and the last place of each stretch of iterations that follow each other."""
    breaks = [
        place
        for place, (earlier, later) in enumerate(pairwise(recorded), 1)
        if later[0].iteration != earlier[0].iteration + 1
    ]
    edges = [0, *breaks, len(recorded)]
    return [(start, stop - 1) for start, stop in pairwise(edges) if stop - start > 1]
