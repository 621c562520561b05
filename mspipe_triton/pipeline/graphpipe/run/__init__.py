"""Pipelined runs: the stages of a plan train a module on processes of `torch.distributed`.

Importing this package does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mspipe_triton.lazy import load_lazily

if TYPE_CHECKING:
    from mspipe_triton.pipeline.graphpipe.run.checkpoint import load_checkpoint, module_state, save_checkpoint
    from mspipe_triton.pipeline.graphpipe.run.result import Comparison, RunResult, StageResult
    from mspipe_triton.pipeline.graphpipe.run.trainer import StageTrainer, StepReport

_PUBLIC = {
    "Comparison": "result",
    "RunResult": "result",
    "StageResult": "result",
    "StageTrainer": "trainer",
    "StepReport": "trainer",
    "load_checkpoint": "checkpoint",
    "module_state": "checkpoint",
    "save_checkpoint": "checkpoint",
}

__all__ = [
    "Comparison",
    "RunResult",
    "StageResult",
    "StageTrainer",
    "StepReport",
    "load_checkpoint",
    "module_state",
    "save_checkpoint",
]

__getattr__, __dir__ = load_lazily(__name__, {name: f"{__name__}.{module}" for name, module in _PUBLIC.items()})
