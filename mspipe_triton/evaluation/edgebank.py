"""EdgeBank (Poursafaei et al., 2022): memorise every pair seen, and predict exactly these pairs."""

from __future__ import annotations

import torch

from mspipe_triton.data.events import EventStream


class EdgeBank:
    """Unlimited memory: a pair scores 1 if it occurred at an earlier time, else 0."""

    def __init__(self, stream: EventStream) -> None:
        self.nodes = stream.num_nodes
        pairs = stream.src * self.nodes + stream.dst
        self.keys, inverse = torch.unique(pairs, return_inverse=True)
        first = torch.full_like(self.keys, len(stream)).scatter_reduce_(0, inverse, torch.arange(len(stream)), "amin")
        self.first = stream.t[first]

    def score(self, src: torch.Tensor, dst: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Score pairs (src, dst) at times t, all of shapes that broadcast to [...], which is the scores'."""
        pairs = src * self.nodes + dst
        place = torch.searchsorted(self.keys, pairs).clamp_(max=self.keys.numel() - 1)
        matches: torch.Tensor = (self.keys[place] == pairs) & (self.first[place] < t)
        return matches.float()
