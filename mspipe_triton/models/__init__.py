"""The models, by the names that `--model` takes."""

from __future__ import annotations

from mspipe_triton.config import ModelConfig
from mspipe_triton.models.tgn import TGN

REGISTRY = {"tgn": TGN}


def build_model(config: ModelConfig, dim_edge: int, dim_node: int) -> TGN:
    """The model that `config.model` names, for edge and node features of the given widths."""
    return REGISTRY[config.model](config, dim_edge, dim_node)
