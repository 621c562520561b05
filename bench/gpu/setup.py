"""The setting of the GPU scripts: where they run, their streams by their sizes, and sessions on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.cases.random_batch import GDELT, REDDIT, WIKI, Shape, random_batch
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, RunSettings, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.source import load_stream
from mspipe_triton.data.synthetic import SyntheticConfig, synthetic_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.training.resident import Resident
from mspipe_triton.training.way import Watch, silent

TARGETS = ("cuda", "stub", "cpu")
MODELS = ("tgn", "jodie", "apan")
EVERY = (*MODELS, "tgat")
STREAMS = {"WIKI": WIKI[1], "REDDIT": REDDIT[1], "GDELT": GDELT[1]}
SIZES = (200, 600, 2000, 4000)
# The ways to run a resident iteration, the shipped one first.
WAYS = {
    "captured, branch": RunSettings("resident"),
    "captured": RunSettings("resident", branch=False),
    "launched, branch": RunSettings("resident", captured=False),
    "launched": RunSettings("resident", captured=False, branch=False),
}
TINY = Shape("TINY", 60, 300, 7, 8, dim=8, times=8, fanout=3)
STUB_BATCHES = 3  # of an epoch where launches reach a stub

Row = tuple[str, dict[str, Any]]  # a section of the report, and a row for it
Rows = Iterator[Row]


@dataclass(frozen=True)
class Setup:
    """The setting of a script.

    Args:
        target: "cuda"; "stub", a stand-in for the driver, which takes launches and computes nothing; or "cpu", where
            kernels run in Triton's interpreter.
        quick: tiny streams and models, whose figures mean nothing.
        data: a file, or "synthetic": the stream on which precisions are compared.
        references: a folder with results of the CPU, or None: they are computed where they are needed.
        seed: of the kernel checks' inputs.
    """

    target: str = "cuda"
    quick: bool = False
    data: str = "synthetic"
    references: Path | None = None
    seed: int = 0

    @property
    def device(self) -> str:
        """The device of the tensors: "cuda" or "cpu"."""
        return "cuda" if self.gpu else "cpu"

    @property
    def gpu(self) -> bool:
        """True on a GPU."""
        return self.target == "cuda"

    @property
    def stub(self) -> bool:
        """True where launches reach a stub, so that nothing is computed and nothing can be judged."""
        return self.target == "stub"

    @property
    def precisions(self) -> dict[str, str]:
        """torch's setting of products in float32, by the precision's name; there is one on a CPU."""
        return {"float32": "highest"} if self.target == "cpu" else {"tf32": "high", "float32": "highest"}

    @property
    def fastest(self) -> str:
        """torch's setting of the fastest products in float32."""
        return next(iter(self.precisions.values()))

    def stop(self, events: int, size: int) -> int:
        """The end of an epoch of so many events in batches of a size, which a stub sees a few batches of."""
        return min(events, STUB_BATCHES * size) if self.stub else events

    def rounds(self, count: int) -> int:
        """The rounds of a measurement: as many as are asked for on a GPU, one elsewhere."""
        return count if self.gpu else 1

    def verdict(self, passed: bool) -> bool | None:
        """A check's result, which there is none of on a stub."""
        return None if self.stub else passed

    def synthetic(self) -> EventStream:
        """The built-in stream, as the report of the schedules has it."""
        return synthetic_stream(
            SyntheticConfig(events=400, users=40, items=20, edge_features=4)
            if self.quick
            else SyntheticConfig(events=40_000, edge_features=172)
        )

    def given_stream(self) -> EventStream:
        """The stream that `data` names."""
        return self.synthetic() if self.data == "synthetic" else _loaded(self.data)

    def shape(self, name: str, size: int) -> Shape:
        """A stream by its name, in batches of this size."""
        return TINY if self.quick else replace(STREAMS[name], batch=size)


@functools.lru_cache(maxsize=1)
def _loaded(path: str) -> EventStream:
    return load_stream(DataConfig(path=path))


@functools.lru_cache(maxsize=1)
def drawn(name: str, quick: bool) -> EventStream:
    """The events of the random stream of a name, either end first, with edge features, on the CPU."""
    shape = TINY if quick else STREAMS[name]
    csr = random_batch(shape).csr
    order = csr["event_ids"].argsort(stable=True)
    ends = csr["neighbours"][order].long().view(-1, 2)
    features = torch.randn(shape.events, shape.features, generator=torch.Generator().manual_seed(1))
    return EventStream(
        ends[:, 0].contiguous(), ends[:, 1].contiguous(), csr["times"][order[::2]], features, num_nodes=shape.nodes,
        name=name,
    )  # fmt: skip


def of_shape(kind: str, shape: Shape) -> dict[str, Any]:
    """`ModelConfig`'s arguments of a model at a shape's widths."""
    own = {"jodie": {}, "apan": {"fanout": shape.fanout, "slots": shape.fanout}}
    return {"model": kind, "dim": shape.dim, **own.get(kind, {"fanout": shape.fanout})}


def resident(
    stream: EventStream, device: str, size: int, model: dict[str, Any], settings: RunSettings | None = None,
    seed: int = 0, note: Callable[[str], None] = silent,
) -> Resident:  # fmt: skip
    """A run whose everything lies on a device; `note` is told what the user should see."""
    train = TrainConfig(batch_size=size, device=device, placement="device", seed=seed)
    config = RunConfig(model=ModelConfig(**model), train=train, settings=settings)
    return Resident(Session.create(config, stream), Watch(note))
