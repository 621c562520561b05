"""Our TGN behind the interface of the comparison's peers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.iteration.scene import Batch
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.kernels.runtime.fusion import compile_seconds, enable_fusion
from mspipe_triton.settings import compiler

Draws = Callable[[int], torch.Tensor]


class OursTGN:
    """TGN of this package; an epoch's seconds do not include the compile time of fused loops."""

    def __init__(self, stream: EventStream, dim: int, fanout: int, lr: float, seed: int) -> None:
        config = RunConfig(model=ModelConfig(dim=dim, fanout=fanout), train=TrainConfig(lr=lr, seed=seed, batch_size=1))
        enable_fusion(compiler() is not None)
        self.session = Session.create(config, stream)

    def train_epoch(self, stop: int, batch_size: int, negatives: Draws) -> float:
        """Train on events [0, stop) from an empty memory; returns wall seconds."""
        session = self.session
        start, compiling = time.perf_counter(), compile_seconds()
        session.state.reset()
        session.model.train()
        for _ in in_turn(Stages(session).training(), _batches(0, stop, batch_size, negatives)):
            pass
        return time.perf_counter() - start - (compile_seconds() - compiling)

    def evaluate(
        self, start: int, stop: int, batch_size: int, negatives: Draws, candidates: Draws | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Logits of positives, negatives and candidates per batch, continuing from the current memory."""
        self.session.model.eval()
        self.session.state.settle()
        stages = Stages(self.session).scoring()
        items = _batches(start, stop, batch_size, negatives, candidates)
        scores = [work.outcome for work in in_turn(stages, items)]
        ranked = [] if candidates is None else [each.ranked for each in scores]
        return [each.logits[0] for each in scores], [each.logits[1] for each in scores], ranked

    def snapshot(self) -> Any:
        """Copy everything that training changes."""
        return copy.deepcopy((self.session.model.state_dict(), self.session.state.state_dict()))

    def restore(self, saved: Any) -> None:
        """Go back to a snapshot."""
        self.session.model.load_state_dict(saved[0])
        self.session.state.load_state_dict(saved[1])


def _batches(start: int, stop: int, size: int, negatives: Draws, candidates: Draws | None = None) -> Iterator[Batch]:
    for index, begin in enumerate(range(start, stop, size)):
        others = None if candidates is None else candidates(index)
        yield Batch(index, 0, begin, min(begin + size, stop), size, negatives(index).view(-1, 1), others)
