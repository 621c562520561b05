"""Fast training of memory-based temporal graph neural networks on event streams."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mspipe_triton.lazy import load_lazily

if TYPE_CHECKING:
    from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
    from mspipe_triton.data.events import EventStream
    from mspipe_triton.data.pair_index import PairIndex
    from mspipe_triton.data.readers import read_stream
    from mspipe_triton.data.synthetic import synthetic_stream
    from mspipe_triton.errors import MspipeError
    from mspipe_triton.evaluation.evaluate import evaluate_run
    from mspipe_triton.serving.loading import load
    from mspipe_triton.serving.predictor import Predictor
    from mspipe_triton.training.continuation import continuation
    from mspipe_triton.training.seeds import train_seeds
    from mspipe_triton.training.trainer import train

__version__ = "0.1.0"

IMPORTED = time.perf_counter()  # when this process imported the package

_HERE = Path(__file__).resolve().parent
# In a checkout `kernels/` and `tuning/` are beside this folder, not inside it.
if not (_HERE / "kernels").is_dir():
    __path__.append(str(_HERE.parent))

_PUBLIC = {
    "DataConfig": "mspipe_triton.config",
    "EventStream": "mspipe_triton.data.events",
    "ModelConfig": "mspipe_triton.config",
    "MspipeError": "mspipe_triton.errors",
    "Predictor": "mspipe_triton.serving.predictor",
    "PairIndex": "mspipe_triton.data.pair_index",
    "continuation": "mspipe_triton.training.continuation",
    "evaluate_run": "mspipe_triton.evaluation.evaluate",
    "RunConfig": "mspipe_triton.config",
    "TrainConfig": "mspipe_triton.config",
    "load": "mspipe_triton.serving.loading",
    "read_stream": "mspipe_triton.data.readers",
    "synthetic_stream": "mspipe_triton.data.synthetic",
    "train": "mspipe_triton.training.trainer",
    "train_seeds": "mspipe_triton.training.seeds",
}

__all__ = [
    "DataConfig",
    "EventStream",
    "ModelConfig",
    "MspipeError",
    "PairIndex",
    "Predictor",
    "RunConfig",
    "TrainConfig",
    "continuation",
    "evaluate_run",
    "load",
    "read_stream",
    "synthetic_stream",
    "train",
    "train_seeds",
]


__getattr__, __dir__ = load_lazily(__name__, _PUBLIC)
