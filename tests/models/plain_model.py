"""What the oracles share: the iteration, its writes that are seen late, neighbours, layers, predictor and optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch

Time = int | float
Event = tuple[int, int, Time, torch.Tensor]


class Mail(NamedTuple):
    """What an event tells a node: the rows [D] of one end and of the other, its features [E], time and number."""

    own: torch.Tensor
    other: torch.Tensor
    features: torch.Tensor
    time: Time
    event: int


class PlainModel(ABC):
    """One node, one neighbour, one event at a time; shares nothing with the package but the parameters' names.

    A model adds `digest` and `embed`; `receivers` where a mail goes elsewhere than to an end of its event too.

    Args:
        parameters: by name, as the model under test has them; copied.
        fanout: how many of a node's latest events are its neighbours.
        start: the stream's first time.
        staleness: how many of the batches before have not been written yet when a batch reads.
        aggregator: what a node keeps of several mails in a batch, "last" or their "mean".
        node_features: [N, V], or None.

    Attributes:
        memory: row [D] and time of every node that has been written.
        mails: all that every node has received, the oldest first.
        hidden: h [D] of the nodes that the latest batch has touched.
        now: the time of that batch's first event.
    """

    NAMES: ClassVar[dict[str, str]] = {}
    """What the package calls a layer, by what it is called here; the same where it is missing."""

    def __init__(
        self, parameters: dict[str, torch.Tensor], dim: int, fanout: int, start: Time, staleness: int = 0,
        aggregator: str = "last", node_features: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        self.p = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
        self.dim, self.fanout, self.start, self.staleness = dim, fanout, start, staleness
        self.aggregator, self.node_features = aggregator, node_features
        exponents = [-9 * k / max(dim - 1, 1) for k in range(dim)]
        self.frequency = torch.tensor([10.0**exponent for exponent in exponents], dtype=torch.float64)
        self.optimizer = torch.optim.Adam(self.p.values(), lr=1e-3)
        self.history: list[Event] = []
        self.reset()

    def reset(self) -> None:
        """Forget the nodes' state, as at an epoch's start; batches begin with event 0 again."""
        self.memory: dict[int, tuple[torch.Tensor, Time]] = {}
        self.mails: dict[int, list[Mail]] = {}
        self.hidden: dict[int, torch.Tensor] = {}
        self.unwritten: list[tuple[dict[int, tuple[torch.Tensor, Time]], dict[int, Mail]]] = []
        self.events, self.now = 0, self.start

    def train_batch(self, events: list[Event], negatives: list[int], future: list[Event]) -> float:
        """One iteration; its loss. `future` holds all events that may be neighbours, the batch's own too."""
        positive, negative = self.logits(events, negatives, future)
        loss = -positive.sigmoid().log().mean() - (1 - negative.sigmoid()).log().mean()
        for value in self.p.values():
            value.grad = torch.zeros_like(
                value
            )  # so that the optimiser counts every batch as a step of every parameter
        loss.backward()
        self.optimizer.step()
        self.write(events)
        return loss.item()

    @torch.no_grad()
    def score_batch(
        self, events: list[Event], negatives: list[int], future: list[Event]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B] of the events and of their negatives, without training; then what the batch writes."""
        scores = self.logits(events, negatives, future)
        self.write(events)
        return scores

    def logits(
        self, events: list[Event], negatives: list[int], future: list[Event]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.history, self.hidden, self.now = future, {}, events[0][2]
        positive, negative = [], []
        for (src, dst, t, _), other in zip(events, negatives, strict=True):
            z = [self.embed(node, t) for node in (src, dst, other)]
            positive.append(self.score(z[0], z[1]))
            negative.append(self.score(z[0], z[2]))
        return torch.stack(positive), torch.stack(negative)

    def write(self, events: list[Event]) -> None:
        rows = {node: self.hidden[node].detach() for src, dst, *_ in events for node in (src, dst)}
        memory = {node: (row, self.digested_time(node)) for node, row in rows.items()}
        self.unwritten.append((memory, self.sent(events, rows)))
        self.events += len(events)
        if len(self.unwritten) > self.staleness:
            memory, sent = self.unwritten.pop(0)
            self.memory.update(memory)
            for node, mail in sent.items():
                self.mails.setdefault(node, []).append(mail)

    def sent(self, events: list[Event], rows: dict[int, torch.Tensor]) -> dict[int, Mail]:
        """One mail to every end of an event and to whoever hears of that end; a node keeps one mail of a batch."""
        delivered: dict[int, list[Mail]] = {}
        for number, (src, dst, t, features) in enumerate(events, self.events):
            for node, partner in ((src, dst), (dst, src)):
                mail = Mail(rows[node], rows[partner], features, t, number)
                for receiver in self.receivers(node, t):
                    delivered.setdefault(receiver, []).append(mail)
        return {node: self.kept(mails) for node, mails in delivered.items()}

    def receivers(self, node: int, t: Time) -> list[int]:
        """Who gets the mail of an event's end."""
        return [node]

    def kept(self, mails: list[Mail]) -> Mail:
        """The last of the mails, with the mean of their rows and features under "mean"."""
        last = mails[-1]
        if self.aggregator == "last":
            return last
        own, other, features = (torch.stack(column).mean(0) for column in list(zip(*mails, strict=True))[:3])
        return Mail(own, other, features, max(mail.time for mail in mails), last.event)

    def memory_of(self, node: int) -> tuple[torch.Tensor, Time]:
        return self.memory.get(node, (torch.zeros(self.dim, dtype=torch.float64), self.start))

    def digested_time(self, node: int) -> Time:
        """The time that a node's memory has when its mail is digested."""
        return self.mails[node][-1].time if node in self.mails else self.memory_of(node)[1]

    def updated(self, node: int) -> torch.Tensor:
        """h(u), once a batch."""
        if node not in self.hidden:
            self.hidden[node] = self.digest(node)
        return self.hidden[node]

    def row(self, node: int) -> torch.Tensor:
        """What embeddings are made of: h(u), with the projected features of u where nodes have features."""
        if self.node_features is None:
            return self.updated(node)
        return self.updated(node) + self.linear("node_projection", self.node_features[node])

    @abstractmethod
    def digest(self, node: int) -> torch.Tensor:
        """h(u) from memory and mails."""

    @abstractmethod
    def embed(self, node: int, t: Time) -> torch.Tensor:
        """The embedding of a node at a time."""

    def message(self, node: int) -> torch.Tensor:
        """A node's latest mail with its age when it came, [2·D + E + D]; zeros without mail."""
        if node not in self.mails:
            return torch.zeros(self.parameter("updater", "weight_ih").shape[1], dtype=torch.float64)
        mail = self.mails[node][-1]
        return torch.cat([mail.own, mail.other, mail.features, self.phi(mail.time - self.memory_of(node)[1])])

    def neighbours(self, node: int, t: Time) -> list[tuple[int, Time, torch.Tensor]]:
        """The latest `fanout` earlier events of a node: partner, time, features; the latest first."""
        found = []
        for src, dst, when, features in self.history:
            if when < t:
                found += [(dst, when, features)] * (src == node) + [(src, when, features)] * (dst == node)
        return found[::-1][: self.fanout]

    def phi(self, delta: Time) -> torch.Tensor:
        return torch.cos(self.frequency * delta)

    def parameter(self, layer: str, kind: str) -> torch.Tensor:
        return self.p[f"{self.NAMES.get(layer, layer)}.{kind}"]

    def linear(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        return self.parameter(layer, "weight") @ x + self.parameter(layer, "bias")

    def normed(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean()
        scaled = centred / (centred.square().mean() + 1e-5).sqrt()
        return scaled * self.parameter(layer, "weight") + self.parameter(layer, "bias")

    def attended(self, query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
        """Σ a_j v_j [K, D/K] with a = softmax of LeakyReLU(q·k_j), per head; query, keys and values [K, D/K]."""
        logits = (torch.stack(keys) * query).sum(2)
        weights = torch.softmax(torch.where(logits > 0, logits, 0.2 * logits), 0)
        return (weights.unsqueeze(2) * torch.stack(values)).sum(0)

    def score(self, src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
        together = self.linear("predictor.src", src) + self.linear("predictor.dst", dst)
        return self.linear("predictor.out", together.clamp(min=0)).squeeze(0)
