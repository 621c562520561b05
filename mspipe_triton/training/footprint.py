"""Device memory that resident training needs, planned from settings and sizes alone, and the placement by it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil, floor, prod

import torch

from mspipe_triton.config import ModelConfig, RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.errors import ConfigError
from mspipe_triton.iteration.scene import ranked_columns
from mspipe_triton.models import Facts, TemporalModel, build_model
from mspipe_triton.nodes.mailbox import Table
from mspipe_triton.pipeline.schedules import RESIDENT

_NUMBER = 8  # bytes of an id or a time
# Bytes of a root or a slot while a batch is sampled: node, event, row, key, time and its difference, and what finds the
# distinct ones among them: their hash table (up to four entries each), slot, first occurrence and number.
_SAMPLED = 14 * _NUMBER


@dataclass(frozen=True)
class Footprint:
    """Bytes of device memory that resident training needs: everything of a run lies on the device.

    All parts but two are exact. `events` counts a destination a node, or an event where those are fewer, since telling
    the distinct ones takes reading the stream. `workspace` is an estimate: see `planned`.

    Args:
        graph: the T-CSR adjacency; events: src, dst and t, and the destinations that negatives are drawn from.
        features: the tables of edge and node features; state: the nodes' tables.
        parameters: the model's with gradients and Adam's two moments and steps, and its buffers.
        workspace: of an iteration's batch, activations and gradients, and of ranking.
    """

    graph: int
    events: int
    features: int
    state: int
    parameters: int
    workspace: int

    @staticmethod
    def of(config: RunConfig, stream: EventStream) -> Footprint:
        """What a run on a stream needs; of the stream only shapes are read."""
        return Footprint.planned(config, len(stream), stream.num_nodes, Facts(stream.dim_edge, stream.dim_node))

    @staticmethod
    def planned(config: RunConfig, events: int, nodes: int, facts: Facts) -> Footprint:
        """What a run needs on a stream of so many events and nodes with features of these widths.

        The workspace is 1.5 times the tensors that a training iteration, the scoring of a batch and the ranking of one
        group of candidates hold at their capacities, each of the three in memory of its own, as three captured graphs
        have it. A capacity takes every root and every slot for a node of its own. Counted are sampling (of the batch
        and of the next), the rows read of a node, its message, gates and h, queries and contexts of the attention,
        edge rows, the predictor's products and what the batch writes, and in training their gradients as well.
        """
        with torch.random.fork_rng(devices=[]):  # small, and exact for a recipe from outside the package too
            model = build_model(config.model, facts)
        tables = model.mailbox.tables()
        feature = _itemsize(config.model.table_dtype)
        trained = list(model.parameters())
        return Footprint(
            graph=_NUMBER * (nodes + 1) + 2 * events * (4 + 4 + _NUMBER),
            events=3 * _NUMBER * events + _NUMBER * min(events, nodes),
            features=feature * (events * facts.dim_edge + nodes * facts.dim_node),
            state=nodes * (_row(tables) + (_NUMBER if "received" in tables else 0)),  # with `NodeState.sent`
            parameters=4 * _bytes(trained) + 4 * len(trained) + _bytes(model.buffers()),
            workspace=_workspace(config, model, facts),
        )

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(asdict(self).values())

    @property
    def needed(self) -> int:
        """The bytes that must be free: a tenth more than the parts, for the allocator and the libraries' own."""
        return -(-self.total * 11 // 10)

    def to_json(self) -> dict[str, float]:
        """MiB by name of the part, and their `total`."""
        return {name: size / 2**20 for name, size in {**asdict(self), "total": self.total}.items()}

    def __str__(self) -> str:
        """Their sum, and the parts that are a tenth of a MiB or more, one a line, the largest first."""
        parts = sorted(asdict(self).items(), key=lambda part: -part[1])
        lines = [f"{name} {_shown(size, round)}" for name, size in parts if round(size * 10 / 2**20)]
        return "\n".join([f"{_shown(self.total, round)} in all", *lines])


def choose_placement(config: RunConfig, footprint: Footprint, free_bytes: int) -> tuple[str, str | None]:
    """Where memory and features lie, "device" or "host", and a line for the user where `auto` lacked the room.

    `auto` is "host" on the CPU, and where the run names a schedule, since only `auto` may stand for resident training.

    Args:
        footprint: of the run; free_bytes: of the device's memory.

    Raises:
        ConfigError: placement "device" does not fit.
    """
    settled = _settled(config)
    if settled is not None:
        return settled, None
    if footprint.needed <= free_bytes:
        return "device", None
    facts = f"{_shown(footprint.needed, ceil)} are needed and {_shown(free_bytes, floor)} are free"
    if config.train.placement == "device":
        raise ConfigError(f"placement device: {facts} for training on the device; take --placement host")
    return (
        "host",
        f"Memory for training on the device: {facts}, so memory and features stay on the host (--placement host).",
    )


def resolve_placement(config: RunConfig, stream: EventStream) -> tuple[RunConfig, str | None]:
    """The settings with "device" or "host" as placement, and a line for the user where `auto` lacked the room.

    Args:
        config: with "cpu" or "cuda" as device (see `resolve_device`).
        stream: the events.

    Raises:
        ConfigError: placement "device" does not fit the memory that is free on the GPU.
    """
    placement, line = _settled(config), None
    if placement is None:
        gc.collect()  # what tuning has left, its graphs too, is free
        torch.cuda.empty_cache()
        placement, line = choose_placement(config, Footprint.of(config, stream), torch.cuda.mem_get_info()[0])
    train, settings = replace(config.train, placement=placement), config.settings
    own = _own_schedule(config)
    if own != "auto" and (own == RESIDENT) != (placement == "device"):
        settings = None  # made on a machine with more room
    return replace(config, train=train, settings=settings), line


def _settled(config: RunConfig) -> str | None:
    """The placement where free memory has no say in it, or None."""
    train = config.train
    own = _own_schedule(config)
    schedule = train.schedule if own == "auto" else own
    by_memory = train.placement == "device" or (train.placement == "auto" and schedule in ("auto", RESIDENT))
    if train.device == "cuda" and by_memory:
        return None
    if train.placement == "auto":
        return "device" if own == RESIDENT else "host"
    return train.placement


def _own_schedule(config: RunConfig) -> str:
    """The schedule that `[settings]` name; "auto" where there are none."""
    return "auto" if config.settings is None else config.settings.schedule


def _workspace(config: RunConfig, model: TemporalModel, facts: Facts) -> int:
    """Bytes of `Footprint.workspace`."""
    size, negatives, settings = config.train.batch_size, config.train.negatives, config.model
    number = _itemsize(settings.dtype)
    ranked = size * min(negatives, ranked_columns(size))
    candidates = size * negatives * (_NUMBER + number)
    heard = 2 * size * (1 + settings.setting("fanout") if model.mailbox.hears else 1)
    written = 2 * heard * (_SAMPLED + number * (3 * settings.dim + facts.dim_edge))
    passes = sum(
        _passed(settings, model, facts, roots, learning)
        for roots, learning in ((3 * size, True), (3 * size, False), (ranked, False))
    )
    return (passes + candidates + written) * 3 // 2


def _passed(config: ModelConfig, model: TemporalModel, facts: Facts, roots: int, learning: bool) -> int:
    """Bytes that one pass over R roots holds, with gradients where it is `learning`."""
    dim, edge, both = config.dim, facts.dim_edge, 2 if learning else 1
    fanout, heads, number = config.setting("fanout"), config.setting("heads"), _itemsize(config.dtype)
    rows, points = roots, 0  # of the nodes' table, and of all hops together
    for _ in range(model.layers):
        rows, points = rows * (1 + fanout), points + rows

    tables = model.mailbox.tables()
    mails = prod(tables["event_id"].shape) if "event_id" in tables else 0
    read = _row(tables) + number * edge * mails
    attending = points + (rows if "mails" in tables else 0)
    message = getattr(getattr(model.updater, "message", None), "width", 0)
    wide = 3 * dim + edge  # at least what attention sees of a slot

    floats = rows * both * (message + 6 * dim + facts.dim_node)  # message, four gates, h, h with its node features
    floats += attending * both * (2 * heads * wide + 8 * dim)  # absorbed query, context; query, values, output, norms
    floats += attending * heads * 3 * max(fanout, mails)  # logits, weights, slopes
    floats += points * fanout * (edge + both * dim)  # edge rows, and the neighbours' where they are not added in place
    floats += roots * both * 8 * dim  # the predictor's products, and the roots' embeddings
    return 2 * _SAMPLED * max(rows, points * (1 + fanout)) + rows * read + number * floats


def _row(tables: Mapping[str, Table]) -> int:
    """Bytes that a node has in all tables."""
    return sum(prod(shape) * (_NUMBER if dtype is None else dtype.itemsize) for shape, dtype, _ in tables.values())


def _itemsize(name: str) -> int:
    dtype: torch.dtype = getattr(torch, name)
    return dtype.itemsize


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _shown(size: int, rounded: Callable[[float], int]) -> str:
    """Bytes in GiB or MiB to one decimal place; rounded up what is needed and down what is free stay comparable."""
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{rounded(size * 10 / unit) / 10:,.1f} {name}"
