"""Views of records in tables on the device, used for static shapes instead of fetched copies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import torch

from mspipe_triton.kernels import fetch_mail


class Sources(NamedTuple):
    """Input of a memory updater for U nodes: tables, and the rows to read; rows are None if tables have one per node.

    memory, partner [·, D] by `rows` [U]; features [·, E] by `feature_rows` [U]; deltas [U], mail time − memory time;
    has_mail [U] bool; real [1], the number of real nodes, which come first, None for all U.
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
    """Input of attention over U mailboxes: mails [·, S, M] by `rows` [U], features [·, E] by `feature_rows` [U, S]."""

    mails: torch.Tensor
    rows: torch.Tensor | None
    features: torch.Tensor
    feature_rows: torch.Tensor | None


class TableRows:
    """Records of nodes [C] in place; the first `count` [1] nodes are real and the others are −1.

    The fields of a fetched record are gathered on access; padding has those of node 0.

    Args:
        tables: by name, [N, …]; features: the stream's edge table [·, E].
    """

    def __init__(
        self, tables: Mapping[str, torch.Tensor], nodes: torch.Tensor, count: torch.Tensor, features: torch.Tensor
    ) -> None:
        self.tables, self.nodes, self.count, self.features = tables, nodes, count, features

    @cached_property
    def places(self) -> torch.Tensor:
        """[C], the nodes' rows in the tables."""
        return self.nodes.clamp(min=0)

    def read(self, name: str) -> torch.Tensor:
        """Gather rows [C, …] of a table."""
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
        """[C, …, E], the features of the mails' events, or their stored mean."""
        if "mail_features" in self.tables:
            return self.read("mail_features")
        events = self.event_id
        return self.features.index_select(0, events.view(-1).clamp(min=0)).view(*events.shape, -1)


class MailRows(TableRows):
    """Records with one mail per node, as `LastMail`; `dtype` is that of the time differences."""

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
        """Input of a memory updater, which reads the tables themselves."""
        mean = self.tables.get("mail_features")
        features, rows = (self.features, self.events) if mean is None else (mean, self.nodes)
        memory, partner = self.tables["memory"], self.tables["partner"]
        return Sources(memory, partner, self.nodes, features, rows, self.deltas.to(dtype), self.has_mail, self.count)


class RingRows(TableRows):
    """Records with a ring of mails per node, as `MailRing`."""

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
        """[C] number of slots with a mail, which come first."""
        return self.received.clamp(max=self.tables["mails"].shape[1])

    @cached_property
    def digested_time(self) -> torch.Tensor:
        """[C] the memory's time after it digests this record's mails; unchanged without mail."""
        return torch.where(self.received > 0, self.mail_time.amax(1), self.memory_time)

    def sources(self) -> MailSources:
        """Input of the mailbox attention, which reads the tables themselves."""
        mails = self.tables["mails"]
        if "mail_features" in self.tables:
            return MailSources(mails, self.places, self.mail_features.flatten(0, 1), None)
        return MailSources(mails, self.places, self.features, self.event_id)
