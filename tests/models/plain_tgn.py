"""An oracle: TGN with a full mailbox and projected attention, node by node, from the equations alone."""

from __future__ import annotations

import torch

Event = tuple[int, int, int, torch.Tensor]


class PlainTGN:
    """One node, one neighbour, one event at a time; shares nothing with the package but the parameters' names.

    Args:
        parameters: by name, as the model under test has them; copied.
        start: the stream's first time.
        staleness: how many of the batches before have not been written yet when a batch reads.
    """

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, heads: int, fanout: int, start: int, staleness: int = 0
    ) -> None:
        self.p = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
        self.dim, self.heads, self.fanout, self.start = dim, heads, fanout, start
        self.frequency = torch.tensor([10.0 ** (-9 * k / (dim - 1)) for k in range(dim)], dtype=torch.float64)
        self.memory: dict[int, tuple[torch.Tensor, int]] = {}
        self.mail: dict[int, tuple[torch.Tensor, int]] = {}
        self.history: list[Event] = []
        self.unwritten: list[tuple[dict[int, tuple[torch.Tensor, int]], dict[int, tuple[torch.Tensor, int]]]] = []
        self.staleness = staleness
        self.optimizer = torch.optim.Adam(self.p.values(), lr=1e-3)

    def train_batch(self, events: list[Event], negatives: list[int], future: list[Event]) -> float:
        """One iteration; `history` must hold all events that may be neighbours, so the batch's own come in `future`."""
        self.history = future
        self.hidden: dict[int, torch.Tensor] = {}
        positive, negative = [], []
        for (src, dst, t, _), other in zip(events, negatives, strict=True):
            z = [self.embed(node, t) for node in (src, dst, other)]
            positive.append(self.score(z[0], z[1]))
            negative.append(self.score(z[0], z[2]))
        loss = -torch.stack(positive).sigmoid().log().mean() - (1 - torch.stack(negative).sigmoid()).log().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        rows = {node: self.hidden[node].detach() for src, dst, *_ in events for node in (src, dst)}
        memory, mail = {}, {}
        for node, row in rows.items():
            memory[node] = (row, self.mail[node][1] if node in self.mail else self.memory_of(node)[1])
        for src, dst, t, features in events:
            for node, partner in ((src, dst), (dst, src)):
                mail[node] = (torch.cat([rows[node], rows[partner], features]), t)
        self.unwritten.append((memory, mail))
        if len(self.unwritten) > self.staleness:
            memory, mail = self.unwritten.pop(0)
            self.memory.update(memory)
            self.mail.update(mail)
        return loss.item()

    def memory_of(self, node: int) -> tuple[torch.Tensor, int]:
        return self.memory.get(node, (torch.zeros(self.dim, dtype=torch.float64), self.start))

    def phi(self, delta: int) -> torch.Tensor:
        return torch.cos(self.frequency * delta)

    def updated(self, node: int) -> torch.Tensor:
        """The GRU cell on the node's full mail, or on zeros."""
        if node not in self.hidden:
            memory, time = self.memory_of(node)
            weight, bias = self.p["updater.cell.weight_ih"], self.p["updater.cell.bias_ih"]
            message = torch.zeros(weight.shape[1], dtype=torch.float64)
            if node in self.mail:
                mail, sent = self.mail[node]
                message = torch.cat([mail, self.phi(sent - time)])
            given = (weight @ message + bias).chunk(3)
            own = (self.p["updater.cell.weight_hh"] @ memory + self.p["updater.cell.bias_hh"]).chunk(3)
            r, z = torch.sigmoid(given[0] + own[0]), torch.sigmoid(given[1] + own[1])
            n = torch.tanh(given[2] + r * own[2])
            self.hidden[node] = (1 - z) * n + z * memory
        return self.hidden[node]

    def neighbours(self, node: int, t: int) -> list[tuple[int, int, torch.Tensor]]:
        """The latest `fanout` earlier events of a node: partner, time, features; the latest first."""
        found = []
        for src, dst, when, features in self.history:
            if when < t:
                found += [(dst, when, features)] * (src == node) + [(src, when, features)] * (dst == node)
        return found[::-1][: self.fanout]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.p[f"{name}.weight"] @ x + self.p[f"{name}.bias"]

    def embed(self, node: int, t: int) -> torch.Tensor:
        root = self.updated(node)
        width = self.dim // self.heads
        q = self.linear("attention.query", torch.cat([root, self.phi(0)])).view(self.heads, width)
        rows = [torch.cat([self.updated(v), e, self.phi(t - when)]) for v, when, e in self.neighbours(node, t)]
        out = torch.zeros(self.heads, width, dtype=torch.float64)
        if rows:
            k = torch.stack([self.linear("attention.key", x) for x in rows]).view(-1, self.heads, width)
            v = torch.stack([self.linear("attention.value", x) for x in rows]).view(-1, self.heads, width)
            logits = (k * q).sum(2)
            logits = torch.where(logits > 0, logits, 0.2 * logits)
            out = (torch.softmax(logits, 0).unsqueeze(2) * v).sum(0)
        mixed = self.linear("attention.output", torch.cat([out.reshape(-1), root])).clamp(min=0)
        centred = mixed - mixed.mean()
        scaled = centred / (centred.square().mean() + 1e-5).sqrt()
        return scaled * self.p["attention.norm.weight"] + self.p["attention.norm.bias"]

    def score(self, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        together = self.linear("predictor.src", src) + self.linear("predictor.dst", dst)
        return self.linear("predictor.out", together.clamp(min=0)).squeeze(0)
