"""Common part of the oracles: the iteration, its delayed writes, neighbours, layers, predictor and optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch

from tests.kernels.link.plain_pair_features import plain_pair_features

Time = int | float
Event = tuple[int, int, Time, torch.Tensor]


class Mail(NamedTuple):
    """An event's mail: rows [D] of the endpoint that sends it and of its partner, features [E], time and number."""

    sender: torch.Tensor
    partner: torch.Tensor
    features: torch.Tensor
    time: Time
    event: int


class PlainModel(ABC):
    """A model of one node, one neighbour, one event at a time; it shares only parameter names with the package.

    A subclass adds `digest` and `embed`, and `receivers` if a mail goes to more nodes than an endpoint of its event.

    Args:
        parameters: the parameters of the model under test by name; copied.
        fanout: number of a node's latest events that give its neighbours.
        start: the stream's first time.
        staleness: number of preceding batches that are not written yet when a batch reads.
        aggregator: "last" or "mean" of a node's mails in a batch.
        node_features: [N, V], or None.

    Attributes:
        memory: row [D] and time of every written node.
        mails: all mails that every node has received, the oldest first.
        hidden: h [D] of the nodes in the latest batch.
        now: the time of that batch's first event.
    """

    NAMES: ClassVar[dict[str, str]] = {}
    """The package's name of a layer by its name here, if they differ."""

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
        """Clear the nodes' state, as at the start of an epoch; batches begin with event 0 again."""
        self.memory: dict[int, tuple[torch.Tensor, Time]] = {}
        self.mails: dict[int, list[Mail]] = {}
        self.hidden: dict[int, torch.Tensor] = {}
        self.unwritten: list[tuple[dict[int, tuple[torch.Tensor, Time]], dict[int, Mail]]] = []
        self.events, self.now = 0, self.start

    def train_batch(
        self, events: list[Event], negatives: list[list[int]], future: list[Event],
        log_weights: torch.Tensor | None = None,
    ) -> float:  # fmt: skip
        """Run an iteration and return its loss; `future` holds all events that may give neighbours, the batch's too.

        The loss is the binary cross-entropy, or with log weights [B, K] of the negatives, that of the softmax.
        """
        scores = self.logits(events, negatives, future)
        if log_weights is None:
            loss = -scores[:, 0].sigmoid().log().mean() - (1 - scores[:, 1:].sigmoid()).log().mean()
        else:
            weights = torch.cat([torch.zeros(len(events), 1), log_weights.double()], 1)
            loss = -(scores[:, 0].exp() / (scores.exp() * weights.exp()).sum(1)).log().mean()
        for value in self.p.values():
            # A zero gradient, so that the optimiser counts every batch as a step of every parameter.
            value.grad = torch.zeros_like(value)
        loss.backward()
        self.optimizer.step()
        self.write(events)
        return loss.item()

    @torch.no_grad()
    def score_batch(self, events: list[Event], negatives: list[list[int]], future: list[Event]) -> torch.Tensor:
        """Compute logits [B, 1 + K] of the events and of their negatives without training, then write the batch."""
        scores = self.logits(events, negatives, future)
        self.write(events)
        return scores

    def logits(self, events: list[Event], negatives: list[list[int]], future: list[Event]) -> torch.Tensor:
        self.history, self.hidden, self.now = future, {}, events[0][2]
        rows = []
        for (src, dst, t, _), others in zip(events, negatives, strict=True):
            source = self.embed(src, t)
            rows.append(torch.stack([self.score(source, src, node, t) for node in (dst, *others)]))
        return torch.stack(rows)

    def write(self, events: list[Event]) -> None:
        rows = {node: self.hidden[node].detach() for src, dst, *_ in events for node in (src, dst)}
        memory = {node: (row, self.digested_time(node)) for node, row in rows.items()}
        self.unwritten.append((memory, self.batch_mails(events, rows)))
        self.events += len(events)
        if len(self.unwritten) > self.staleness:
            memory, mails = self.unwritten.pop(0)
            self.memory.update(memory)
            for node, mail in mails.items():
                self.mails.setdefault(node, []).append(mail)

    def batch_mails(self, events: list[Event], rows: dict[int, torch.Tensor]) -> dict[int, Mail]:
        """Send a mail per endpoint of every event to its receivers; return the one mail that each node keeps."""
        by_receiver: dict[int, list[Mail]] = {}
        for number, (src, dst, t, features) in enumerate(events, self.events):
            for node, partner in ((src, dst), (dst, src)):
                mail = Mail(rows[node], rows[partner], features, t, number)
                for receiver in self.receivers(node, t):
                    by_receiver.setdefault(receiver, []).append(mail)
        return {node: self.aggregate(mails) for node, mails in by_receiver.items()}

    def receivers(self, node: int, t: Time) -> list[int]:
        """Nodes that receive the mail of an event's endpoint."""
        return [node]

    def aggregate(self, mails: list[Mail]) -> Mail:
        """The last mail; under "mean", with the mean of the mails' rows and features."""
        last = mails[-1]
        if self.aggregator == "last":
            return last
        sender, partner, features = (torch.stack(column).mean(0) for column in list(zip(*mails, strict=True))[:3])
        return Mail(sender, partner, features, max(mail.time for mail in mails), last.event)

    def memory_of(self, node: int) -> tuple[torch.Tensor, Time]:
        return self.memory.get(node, (torch.zeros(self.dim, dtype=torch.float64), self.start))

    def digested_time(self, node: int) -> Time:
        """Time of a node's memory after its mail is digested."""
        return self.mails[node][-1].time if node in self.mails else self.memory_of(node)[1]

    def update(self, node: int) -> torch.Tensor:
        """Compute h(u), once per batch."""
        if node not in self.hidden:
            self.hidden[node] = self.digest(node)
        return self.hidden[node]

    def hidden_row(self, node: int) -> torch.Tensor:
        """h(u), plus the projected features of u if nodes have features: the input of embeddings."""
        if self.node_features is None:
            return self.update(node)
        return self.update(node) + self.linear("node_projection", self.node_features[node])

    @abstractmethod
    def digest(self, node: int) -> torch.Tensor:
        """Compute h(u) from memory and mails."""

    @abstractmethod
    def embed(self, node: int, t: Time) -> torch.Tensor:
        """Compute the embedding of a node at a time."""

    def message(self, node: int) -> torch.Tensor:
        """A node's latest mail with its age on arrival, [2·D + E + D]; zeros without mail."""
        if node not in self.mails:
            return torch.zeros(self.parameter("updater", "weight_ih").shape[1], dtype=torch.float64)
        mail = self.mails[node][-1]
        return torch.cat([mail.sender, mail.partner, mail.features, self.phi(mail.time - self.memory_of(node)[1])])

    def neighbours(self, node: int, t: Time) -> list[tuple[int, Time, torch.Tensor]]:
        """The latest `fanout` earlier events of a node: partner, time, features; the latest first."""
        neighbours = []
        for src, dst, t_v, features in self.history:
            if t_v < t:
                neighbours += [(dst, t_v, features)] * (src == node) + [(src, t_v, features)] * (dst == node)
        return neighbours[::-1][: self.fanout]

    def phi(self, delta: Time) -> torch.Tensor:
        return torch.cos(self.frequency * delta)

    def parameter(self, layer: str, kind: str) -> torch.Tensor:
        return self.p[f"{self.NAMES.get(layer, layer)}.{kind}"]

    def linear(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        return self.parameter(layer, "weight") @ x + self.parameter(layer, "bias")

    def layer_norm(self, layer: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean()
        scaled = centred / (centred.square().mean() + 1e-5).sqrt()
        return scaled * self.parameter(layer, "weight") + self.parameter(layer, "bias")

    def attend(self, query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
        """Σ a_j v_j [K, D/K] with a = softmax of LeakyReLU(q·k_j), per head; query, keys and values [K, D/K]."""
        logits = (torch.stack(keys) * query).sum(2)
        weights = torch.softmax(torch.where(logits > 0, logits, 0.2 * logits), 0)
        return (weights.unsqueeze(2) * torch.stack(values)).sum(0)

    def score(self, source: torch.Tensor, src: int, dst: int, t: Time) -> torch.Tensor:
        hidden = self.linear("predictor.src", source) + self.linear("predictor.dst", self.embed(dst, t))
        if "predictor.pair.weight" in self.p:
            past = [event[:3] for event in self.history if event[2] < t]
            features = torch.tensor(plain_pair_features(past, src, dst, t, len(past)), dtype=torch.float64)
            hidden = hidden + self.parameter("predictor.pair", "weight") @ features
        return self.linear("predictor.out", torch.relu(hidden)).squeeze(0)
