"""Pipelined runs on processes of this machine, one after the other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.run.settings import RunSettings
from mspipe_triton.pipeline.graphpipe.run.worker import work


def train(
    plans: Sequence[PipelinePlan],
    model: str,
    data: str,
    settings: RunSettings,
    checkpoint: Path | None = None,
    profile: bool = False,
) -> list[dict[str, Any]]:
    """Carry out plans of equally many devices, in turn, and return the JSON of their results.

    Args:
        plans: there is a process per device.
        model: names a callable that returns the module and example inputs.
        data: names a callable that returns mini-batches.
        settings: of every run.
        checkpoint: folder of the checkpoints of a single plan; None for none.
        profile: also measure the operators one by one.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            _process, (Path(folder), plans, model, data, settings, checkpoint, profile), plans[0].devices
        )
        return json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))


def _process(
    rank: int,
    folder: Path,
    plans: Sequence[PipelinePlan],
    model: str,
    data: str,
    settings: RunSettings,
    checkpoint: Path | None,
    profile: bool,
) -> None:
    torch.set_num_threads(1)
    devices = plans[0].devices
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), devices), rank=rank, world_size=devices)
    results = [work(plan, model, data, settings, checkpoint=checkpoint, profile=profile) for plan in plans]
    if rank == 0:
        text = json.dumps([each.to_json() for each in results if each is not None])
        (folder / "results.json").write_text(text, encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
