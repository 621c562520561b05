"""Records as rows of tables on the device: what static shapes have in the place of fetched copies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import torch

from mspipe_triton.kernels import fetch_mail


class Sources(NamedTuple):
    """What a memory updater reads U nodes' mail from: tables, and the rows to read, None where there is one a node.

    memory, partner [·, D] by `rows` [U]; features [·, E] by `feature_rows` [U]; deltas [U], mail time − memory time;
    has_mail [U] bool; real [1], how many of the U nodes are real, the first ones, None for all.
    """

    memory: torch.Tensor
    partner: torch.Tensor
    rows: torch.Tensor | None
    features: torch.Tensor
    feature_rows: torch.Tensor | None
    deltas: torch.Tensor
    has_mail: torch.Tensor
    real: torch.Tensor | None


class MailSources(NamedTuple):
    """Where attention reads U mailboxes: mails [·, S, M] by `rows` [U], features [·, E] by `feature_rows` [U, S]."""

    mails: torch.Tensor
    rows: torch.Tensor | None
    features: torch.Tensor
    feature_rows: torch.Tensor | None


class TableRows:
    """The records of nodes [C], of which the first `count` [1] are real and the others −1, where they lie.

    The fields of a fetched record are there too, gathered when they are asked for; padding has node 0's.

    Args:
        tables: by name, [N, …]; features: the stream's edge table [·, E].
    """

    def __init__(
        self, tables: Mapping[str, torch.Tensor], nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor
    ) -> None:
        self.tables, self.nodes, self.count, self.features = tables, nodes, count, features

    @cached_property
    def places(self) -> torch.Tensor:
        """[C], the rows in the tables."""
        return self.nodes.clamp(min=0)

    def read(self, name: str) -> torch.Tensor:
        """Rows [C, …] of a table."""
        return self.tables[name].index_select(0, self.places)

    @property
    def memory(self) -> torch.Tensor:
        """[C, D]."""
        return self.read("memory")

    @property
    def memory_time(self) -> torch.Tensor:
        """[C]."""
        return self.read("memory_time")

    @property
    def mail_time(self) -> torch.Tensor:
        """[C, …]."""
        return self.read("mail_time")

    @property
    def event_id(self) -> torch.Tensor:
        """[C, …], −1 without mail and in padding."""
        events = self.read("event_id")
        return torch.where((self.nodes >= 0).view(-1, *[1] * (events.dim() - 1)), events, -1)

    @property
    def mail_features(self) -> torch.Tensor:
        """[C, …, E], those of the mails' events, or the stored mean."""
        if "mail_features" in self.tables:
            return self.read("mail_features")
        events = self.event_id
        return self.features.index_select(0, events.view(-1).clamp(min=0)).view(*events.shape, -1)


class MailRows(TableRows):
    """The rows of one mail a node, as `LastMail`; `dtype` is that of the time differences."""

    def __init__(
        self, tables: Mapping[str, torch.Tensor], nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        super().__init__(tables, nodes, count, features)
        self.events, self.deltas, self.has_mail, self.digested_time = fetch_mail(
            nodes, tables["memory_time"], tables["event_id"], tables["mail_time"], dtype
        )

    @property
    def partner(self) -> torch.Tensor:
        """[C, D]."""
        return self.read("partner")

    def sources(self, dtype: torch.dtype) -> Sources:
        """The tables themselves."""
        mean = self.tables.get("mail_features")
        features, rows = (self.features, self.events) if mean is None else (mean, self.nodes)
        memory, partner = self.tables["memory"], self.tables["partner"]
        return Sources(memory, partner, self.nodes, features, rows, self.deltas.to(dtype), self.has_mail, self.count)


class RingRows(TableRows):
    """The rows of a ring of mails a node, as `MailRing`."""

    @cached_property
    def received(self) -> torch.Tensor:
        """[C], 0 in padding."""
        return torch.where(self.nodes >= 0, self.read("received"), 0)

    @cached_property
    def mail_time(self) -> torch.Tensor:
        """[C, S]."""
        return self.read("mail_time")

    @property
    def mails(self) -> torch.Tensor:
        """[C, S, 2D]."""
        return self.read("mails")

    @property
    def filled(self) -> torch.Tensor:
        """[C] how many slots hold a mail; they come first."""
        return self.received.clamp(max=self.tables["mails"].shape[1])

    @cached_property
    def digested_time(self) -> torch.Tensor:
        """[C] the time that memory has once this record's mails are digested; unchanged without mail."""
        return torch.where(self.received > 0, self.mail_time.amax(1), self.memory_time)

    def sources(self) -> MailSources:
        """The tables themselves."""
        mails = self.tables["mails"]
        if "mail_features" in self.tables:
            return MailSources(mails, self.places, self.mail_features.flatten(0, 1), None)
        return MailSources(mails, self.places, self.features, self.event_id)
