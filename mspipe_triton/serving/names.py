"""Names of nodes in queries: the user's ids and kinds, their numbers, and what is said about unknown ones."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import numpy as np
import torch

from mspipe_triton.data.ids import is_single
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import DataError
from mspipe_triton.serving.inputs import column, plain_list
from mspipe_triton.serving.live import Live

SOURCE, DESTINATION = 0, 1


class Names:
    """Look-up of the nodes that queries name, among those that have an event so far.

    Args:
        ids: of all nodes. live: the live session, which has the events. read: the ids were read from a table of
            events; an earlier state of the run then has ids of nodes that have no event yet.
    """

    def __init__(self, ids: LiveIds, live: Live, read: bool) -> None:
        self.ids, self.live = ids, live
        self.partial = read and not bool(live.has_events(torch.arange(len(ids))).all())

    def numbers(self, ids: Any, end: int, name: str, blank: int | None = None) -> torch.Tensor:
        """Return the numbers [M] of ids.

        Args:
            end: SOURCE or DESTINATION, which is the kind of the ids if there are two.
            name: the argument, for messages.
            blank: the number of ids that no node has; None refuses them.

        Raises:
            DataError: an id is unknown; the message says that it is new, or how it is spelt. Or it is no id.
        """
        ids = column(ids)
        try:
            numbers = torch.from_numpy(self.ids.numbers(ids, end))
        except DataError as error:
            raise DataError(re.sub("^find: ", f"{name}: ", str(error))) from error
        unknown = numbers < 0
        if self.partial and blank is None:
            unknown |= ~self.live.has_events(numbers.clamp(min=0))
        if not bool(unknown.any()):
            return numbers
        if blank is None:
            place = int(unknown.nonzero()[0])
            self._refuse(ids if is_single(ids) else plain_list(ids)[place], end, name)
        self.ids.check(ids, end, name)
        return numbers.masked_fill(unknown, blank)

    def kind(self, name: str | None) -> int:
        """Return the end whose nodes are of a kind, 0 if there is one kind.

        Raises:
            DataError: the kind is missing, or there is none of that name.
        """
        kinds = self.ids.kinds
        if not kinds:
            if name is not None:
                raise DataError(f"kind is {name!r}, but all nodes are of one kind; omit kind")
            return SOURCE
        if name is None:
            raise DataError(f"kind is missing, and nodes are of two kinds; name {kinds[0]} or {kinds[1]}")
        if name not in kinds:
            raise DataError(f"kind {name!r} is not one of {', '.join(kinds)}")
        return kinds.index(name)

    def all(self, kind: int | None = None) -> torch.Tensor:
        """Return the numbers [K] of all nodes that have an event, ascending, or of those of a kind."""
        numbers = torch.from_numpy(np.arange(len(self.ids)) if kind is None else self.ids.of_kind(kind))
        return numbers[self.live.has_events(numbers)] if self.partial else numbers

    @property
    def count(self) -> int:
        """Number of all nodes that have an event."""
        return self.all().numel() if self.partial else len(self.ids)

    def _refuse(self, each: Any, end: int, name: str) -> NoReturn:
        """Raise the error about an unknown id.

        Raises:
            DataError: always.
        """
        kind = f"{self.ids.kinds[end]} " if self.ids.kinds else ""
        later = self.ids.numbers(each, end)[0] >= 0  # a node of the run, but of events after this state
        spelling = None if later else self.ids.spelling(each, end)
        if isinstance(spelling, tuple):
            raise DataError(f"{name}: there is no {kind}{shown(each)}; {shown(spelling[1])} is of kind {spelling[0]}")
        if spelling is not None:
            question = f"do you mean {shown(spelling)}?"
            new = "" if name == "nodes" else " If it is new, new=True takes it for a node without events"
            raise DataError(f"{name}: there is no {kind or 'node '}{shown(each)}; {question}{new}")
        self.ids.check(each, end, name)
        fix = "observe its events first" if name == "nodes" else "new=True takes it for a node without events"
        raise DataError(f"{name}: {kind}{shown(each)} is new, since no event so far has it; {fix}")
