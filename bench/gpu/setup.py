"""Setup of the GPU scripts: their target, their streams by size, and resident runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.cases.random_batch import GDELT, REDDIT, WIKI, Shape, random_batch
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.way import Watch, silent

TARGETS = ("cuda", "stub", "cpu")
MODELS = ("tgn", "jodie", "apan")
ALL_MODELS = (*MODELS, "tgat")
STREAMS = {"WIKI": WIKI[1], "REDDIT": REDDIT[1], "GDELT": GDELT[1]}
SIZES = (200, 600, 2000, 4000)
# Ways to run a resident iteration, the shipped one first.
WAYS = {
    "captured, branch": RunSettings("resident"),
    "captured": RunSettings("resident", branch=False),
    "launched, branch": RunSettings("resident", captured=False),
    "launched": RunSettings("resident", captured=False, branch=False),
}
TINY = Shape("TINY", 60, 300, 7, 8, dim=8, times=8, fanout=3)
STUB_BATCHES = 3  # per epoch, where launches reach a stub

Row = tuple[str, dict[str, Any]]  # a section of the report, and its row
Rows = Iterator[Row]


@dataclass(frozen=True)
class Setup:
    """Setup of a script.

    Args:
        target: "cuda"; "stub", a fake driver that accepts launches and computes nothing; or "cpu", where kernels run in
            Triton's interpreter.
        quick: use tiny streams and models, whose figures mean nothing.
        data: stream on which precisions are compared: a file, or "synthetic".
        references: folder of CPU results, or None to compute them when needed.
        seed: of the kernel checks' inputs.
    """

    target: str = "cuda"
    quick: bool = False
    data: str = "synthetic"
    references: Path | None = None
    seed: int = 0

    @property
    def device(self) -> str:
        """Device of the tensors: "cuda" or "cpu"."""
        return "cuda" if self.gpu else "cpu"

    @property
    def gpu(self) -> bool:
        """True on a GPU."""
        return self.target == "cuda"

    @property
    def stub(self) -> bool:
        """True if launches reach a stub, which computes nothing that could be checked."""
        return self.target == "stub"

    @property
    def precisions(self) -> dict[str, str]:
        """Map each precision to torch's float32 matmul setting; a CPU has one precision."""
        return {"float32": "highest"} if self.target == "cpu" else {"tf32": "high", "float32": "highest"}

    @property
    def fastest(self) -> str:
        """torch's setting for the fastest float32 matmul."""
        return next(iter(self.precisions.values()))

    def stop(self, events: int, size: int) -> int:
        """Return the end of an epoch of `events` in batches of `size`; a stub runs a few batches only."""
        return min(events, STUB_BATCHES * size) if self.stub else events

    def rounds(self, count: int) -> int:
        """Return the rounds of a measurement: `count` on a GPU, else one."""
        return count if self.gpu else 1

    def verdict(self, passed: bool) -> bool | None:
        """Return a check's result, or None on a stub."""
        return None if self.stub else passed

    def synthetic(self) -> EventStream:
        """Generate the built-in stream, at the size of the schedules' report."""
        return synthetic_stream(
            SyntheticConfig(events=400, users=40, items=20, edge_features=4)
            if self.quick
            else SyntheticConfig(events=40_000, edge_features=172)
        )

    def data_stream(self) -> EventStream:
        """Return the stream that `data` names."""
        return self.synthetic() if self.data == "synthetic" else _load(self.data)

    def shape(self, name: str, size: int) -> Shape:
        """Return the shape of a named stream, in batches of `size`."""
        return TINY if self.quick else replace(STREAMS[name], batch=size)


@functools.lru_cache(maxsize=1)
def _load(path: str) -> EventStream:
    return load_stream(DataConfig(path=path))


@functools.lru_cache(maxsize=1)
def random_stream(name: str, quick: bool) -> EventStream:
    """Generate a named random stream on the CPU, with edge features; the endpoints of an event are in either order."""
    shape = TINY if quick else STREAMS[name]
    csr = random_batch(shape).csr
    order = csr["event_ids"].argsort(stable=True)
    ends = csr["neighbours"][order].long().view(-1, 2)
    features = torch.randn(shape.events, shape.features, generator=torch.Generator().manual_seed(1))
    return EventStream(
        ends[:, 0].contiguous(), ends[:, 1].contiguous(), csr["times"][order[::2]], features, num_nodes=shape.nodes,
        name=name,
    )  # fmt: skip


def model_arguments(kind: str, shape: Shape) -> dict[str, Any]:
    """Return `ModelConfig`'s arguments for a model with a shape's widths."""
    sizes = {"jodie": {}, "apan": {"fanout": shape.fanout, "slots": shape.fanout}}
    return {"model": kind, "dim": shape.dim, **sizes.get(kind, {"fanout": shape.fanout})}


def resident(
    stream: EventStream, device: str, size: int, model: dict[str, Any], settings: RunSettings | None = None,
    seed: int = 0, note: Callable[[str], None] = silent,
) -> Resident:  # fmt: skip
    """Build a resident run on a device; `note` receives messages for the user."""
    train = TrainConfig(batch_size=size, device=device, placement="device", seed=seed)
    config = RunConfig(model=ModelConfig(**model), train=train, settings=settings)
    return Resident(Session.create(config, stream), Watch(note))
