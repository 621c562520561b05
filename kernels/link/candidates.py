"""Candidates of link prediction: their rows, those of real events, and what the forward pass saves of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from mspipe_triton.kernels.runtime.launch import device_function, tl

if TYPE_CHECKING:
    from mspipe_triton.kernels.link.loss import LinkLoss


class Scored(NamedTuple):
    """loss [], scores [1 + K, B] and, if a backward pass will follow, the hidden rows h [(1 + K)B, D] and n times the
    loss's slopes by the scores [(1 + K)B], both in the order of `embedded` in torch, and of `scores` in the kernels."""

    loss: torch.Tensor
    scores: torch.Tensor
    hidden: torch.Tensor
    slopes: torch.Tensor


def sizes(args: LinkLoss) -> tuple[int, int, int]:
    """The number of events B, the width D of embeddings, and the width F of pairs' features, 0 if there are none."""
    rows, dim = args.embedded.shape
    return rows // (2 + args.negatives), dim, 0 if args.weight_pair is None else args.weight_pair.shape[1]


def real_part(count: torch.Tensor | None, events: int) -> tuple[torch.Tensor | None, int]:
    """The mask of real events [B], or None if all are real, and the divisor of their sums, in torch."""
    number = events if count is None else min(max(int(count), 0), events)
    valid = None if count is None or number == events else torch.arange(events, device=count.device) < number
    return valid, max(number, 1)


def by_candidate(numbers: torch.Tensor, negatives: int) -> torch.Tensor:
    """Reorder numbers [(1 + K)B] in the order of `embedded` by candidate, [1 + K, B]."""
    events = len(numbers) // (1 + negatives)
    if negatives == 1:  # both orders are the same
        return numbers.view(2, events)
    return torch.cat([numbers[:events].unsqueeze(0), numbers[events:].view(events, negatives).t()])


def by_row(numbers: torch.Tensor) -> torch.Tensor:
    """Reorder numbers by candidate [1 + K, B] as `embedded`, [(1 + K)B]."""
    if len(numbers) == 2:
        return numbers.view(-1)
    return torch.cat([numbers[0], numbers[1:].t().reshape(-1)])


@device_function
def candidate_row(i_u, c, events, NEGATIVES: tl.constexpr):
    """Rows of candidate c of events behind the sources in `embedded`: i for c = 0, B + iK + c − 1 for a negative."""
    return tl.where(c == 0, i_u, events + i_u * NEGATIVES + c - 1)
