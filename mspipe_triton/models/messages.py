"""The message function that all built-in models with one mail a node share, and how another one is applied."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mspipe_triton.config import ModelConfig
from mspipe_triton.kernels import encode_time
from mspipe_triton.mailbox import LastMail
from mspipe_triton.models.layers import TimeEncoder
from mspipe_triton.models.model import Facts


class Concatenation(nn.Module):
    """[memory ‖ partner ‖ mail features ‖ φ(mail time − memory time)]; the memory operations build it themselves."""

    def __init__(self, config: ModelConfig, facts: Facts) -> None:
        super().__init__()
        self.width = 3 * config.dim + facts.dim_edge

    def forward(self, record: LastMail, time: TimeEncoder) -> torch.Tensor:
        """Messages [U, W] of the nodes with mail; of the others the rows mean nothing."""
        deltas = (record.mail_time - record.memory_time).to(time.frequency.dtype)
        encoded = encode_time(deltas, time.frequency, time.phase)
        return torch.cat([record.memory, record.partner, record.mail_features, encoded], 1)


def message_of(message: Callable[..., torch.Tensor], record: LastMail, time: TimeEncoder) -> torch.Tensor:
    """Messages [U, W] of a message function, 0 for nodes without mail."""
    return torch.where(record.has_mail.unsqueeze(1), message(record, time), 0.0)
