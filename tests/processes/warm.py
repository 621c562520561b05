"""Imports of the pool's processes, done once before they are forked: torch loads much of itself on its first export."""

from __future__ import annotations

import torch
import torch.distributed
from torch import nn

import mspipe_triton.iteration.session
import mspipe_triton.pipeline.graphpipe.run.trainer
import mspipe_triton.training.staged  # noqa: F401

torch.set_num_threads(1)
torch.export.export(nn.Linear(2, 1), (torch.zeros(2, 2),), strict=False)
