"""Names of nodes in queries: the user's ids and kinds, their numbers, and what is said about unknown ones."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch

from mspipe_triton.data.ids import is_single
from mspipe_triton.data.live_ids import LiveIds
from mspipe_triton.data.origin import shown
from mspipe_triton.errors import DataError

SOURCE, DESTINATION = 0, 1


class Names:
    """Look-up of the nodes that queries name, among the ids so far."""

    def __init__(self, ids: LiveIds) -> None:
        self.ids = ids

    def numbers(self, ids: Any, end: int, name: str, blank: int | None = None) -> torch.Tensor:
        """Return the numbers [M] of ids.

        Args:
            end: SOURCE or DESTINATION, which is the kind of the ids if there are two.
            name: the argument, for messages.
            blank: the number of unknown ids; None refuses them.

        Raises:
            DataError: an id is unknown; the message says that it is new, or how it is spelt.
        """
        numbers = torch.from_numpy(self.ids.numbers(ids, end))
        unknown = numbers < 0
        if not bool(unknown.any()):
            return numbers
        if blank is None:
            place = int(unknown.nonzero()[0])
            self._refuse(ids if is_single(ids) else list(ids)[place], end, name)
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
        if name not in kinds:
            raise DataError(f"kind {name!r} is not one of {', '.join(kinds)}; nodes are of two kinds, so name one")
        return kinds.index(name)

    def all(self) -> list[Any]:
        """Return the ids of all nodes; with two kinds, pairs (kind, id)."""
        return self.ids.of(np.arange(len(self.ids)))

    def _refuse(self, each: Any, end: int, name: str) -> NoReturn:
        """Raise the error about an unknown id.

        Raises:
            DataError: always.
        """
        kind = f"{self.ids.kinds[end]} " if self.ids.kinds else ""
        spelling = self.ids.spelling(each, end)
        if isinstance(spelling, tuple):
            raise DataError(f"{name}: there is no {kind}{shown(each)}; {shown(spelling[1])} is of kind {spelling[0]}")
        if spelling is not None:
            raise DataError(f"{name}: there is no {kind or 'node '}{shown(each)}; do you mean {shown(spelling)}?")
        fix = "observe its events first" if name == "nodes" else "new=True (--new) takes it for a node without events"
        raise DataError(f"{name}: {kind}{shown(each)} is new, since no event so far has it; {fix}")
