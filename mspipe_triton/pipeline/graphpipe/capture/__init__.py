"""Operator graphs of `torch.nn.Module`s, with costs that are measured or estimated."""

from __future__ import annotations

from mspipe_triton.pipeline.graphpipe.capture.build import capture
from mspipe_triton.pipeline.graphpipe.capture.load import Model, load_model

__all__ = ["Model", "capture", "load_model"]
