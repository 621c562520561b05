"""Timelines: the measured stages of a few typical iterations, cut out of an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from mspipe_triton.pipeline.flight import Span

ITERATIONS = 6
_RECORDED = 72  # iterations that are kept
_DRAINING = 12  # of them that may lack others ahead of them
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


class Recorder:
    """Keep the spans of the latest iterations of an epoch, from which its timeline is cut.

    An epoch ends while the pipeline drains, so the timeline leaves the last iterations out.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._recorded = deque[Sequence[Span]](maxlen=_RECORDED)

    def add(self, epoch: int, spans: Sequence[Span]) -> None:
        """Add the spans of one iteration; those of other epochs are dropped."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._recorded.clear()
        self._recorded.append(spans)

    def timeline(self) -> Timeline | None:
        """Return the timeline of the latest epoch; None if too few iterations follow each other."""
        recorded = list(self._recorded)
        return Timeline.of(self.epoch, recorded[: len(recorded) - min(_DRAINING, len(recorded) // 4)])


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
