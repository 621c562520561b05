"""Device memory that resident training needs, computed from settings and sizes alone, and the placement that fits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil, floor, prod

import torch

from mspipe_triton.config import ModelConfig, RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.data.tgb import DEFAULT_NUMBER, candidates_per_event
from mspipe_triton.errors import ConfigError
from mspipe_triton.iteration.ranking import PAIRS
from mspipe_triton.iteration.session import needs_index
from mspipe_triton.kernels.link.pair_columns import COLUMNS
from mspipe_triton.models import Facts, TemporalModel, build_model
from mspipe_triton.nodes.mailbox import Table
from mspipe_triton.pipeline.schedules import RESIDENT

_NUMBER = 8  # bytes of an id or a time
# Bytes per root or slot while a batch is sampled: node, event, row, key, time and time difference; for deduplication
# the hash table (up to four entries each), slot, first occurrence and number.
_SAMPLED = 14 * _NUMBER
# Bytes per candidate while the distinct pairs are found: node, time, and a few keys and numbers of sorting.
_PAIRED = 14 * _NUMBER


@dataclass(frozen=True)
class Footprint:
    """Bytes of device memory that resident training needs, with all data of a run on the device.

    All parts but four are exact. `events` assumes one destination per node, or per event if there are fewer events,
    `pairs` one pair per event, and `candidates` three tenths of the events and one candidate per node, if TGB's
    protocol has no fewer, since counting them would mean reading the stream. `workspace` is an estimate: see `planned`.

    Args:
        graph: the T-CSR adjacency; events: src, dst and t, and the destinations that negatives are drawn from.
        pairs: the index of the events of every pair, if the run needs one, and the keys of historical negatives.
        candidates: of validation and test by TGB's protocol, if the run follows it.
        features: the tables of edge and node features; state: the nodes' tables.
        parameters: the model's parameters with gradients and Adam's two moments and steps, and its buffers.
        workspace: an iteration's batch, activations and gradients, and ranking.
    """

    graph: int
    events: int
    pairs: int
    candidates: int
    features: int
    state: int
    parameters: int
    workspace: int

    @staticmethod
    def of(config: RunConfig, stream: EventStream, ranks: int = 1) -> Footprint:
        """Compute the memory of each of a run's ranks on a stream, of which only shapes are read."""
        facts, candidates = Facts(stream.dim_edge, stream.dim_node), candidates_per_event(stream.name)
        return Footprint.planned(config, len(stream), stream.num_nodes, facts, candidates, ranks)

    @staticmethod
    def planned(
        config: RunConfig, events: int, nodes: int, facts: Facts, candidates: int = DEFAULT_NUMBER, ranks: int = 1
    ) -> Footprint:
        """Compute the memory of a run from the numbers of events and nodes and the widths of their features.

        `candidates` is the number per event by TGB's protocol; other runs do without. Each of the `ranks` has all
        tables, its share of the batch, and room for what the ranks exchange.

        The workspace is 1.5 times the tensors that a training iteration, the scoring of a batch and the ranking of one
        group of candidates hold at their capacities, each of the three in separate memory, as three captured graphs
        use it. Capacities assume that all roots and slots are distinct nodes. The sum counts sampling (of the batch
        and of the next one), the rows read per node, its message, gates and h, the attention's queries and contexts,
        edge rows, the predictor's products, the batch's writes, and in training also the gradients of all these.
        """
        with torch.random.fork_rng(devices=[]):  # the model is small, and gives exact sizes for registered recipes too
            model = build_model(config.model, facts)
        tables = model.mailbox.tables()
        feature, candidates = _itemsize(config.model.table_dtype), min(candidates, nodes)
        ranked = config.train.negatives if config.train.protocol == "default" else candidates
        parameters = list(model.parameters())
        return Footprint(
            graph=_NUMBER * (nodes + 1) + 2 * events * (4 + 4 + _NUMBER),
            events=3 * _NUMBER * events + _NUMBER * min(events, nodes),
            pairs=events * (PairIndex.BYTES * needs_index(config) + _NUMBER * (config.train.historical > 0)),
            candidates=0 if config.train.protocol == "default" else _NUMBER * candidates * (events * 3 // 10),
            features=feature * (events * facts.dim_edge + nodes * facts.dim_node),
            state=nodes * (_row(tables) + (_NUMBER if "received" in tables else 0)),  # with `NodeState.sent`
            parameters=4 * _bytes(parameters) + 4 * len(parameters) + _bytes(model.buffers()),
            workspace=_workspace(config, model, facts, ranked, ranks),
        )

    @property
    def total(self) -> int:
        """Bytes of all parts together."""
        return sum(asdict(self).values())

    @property
    def needed(self) -> int:
        """Bytes that must be free: the parts and a tenth more, for the allocator and for libraries."""
        return -(-self.total * 11 // 10)

    def to_json(self) -> dict[str, float]:
        """Return MiB by name of the part, and their `total`."""
        return {name: size / 2**20 for name, size in {**asdict(self), "total": self.total}.items()}

    def __str__(self) -> str:
        """Format the total, and each part of at least 0.1 MiB on its own line, the largest first."""
        parts = sorted(asdict(self).items(), key=lambda part: -part[1])
        lines = [f"{name} {_format(size, round)}" for name, size in parts if round(size * 10 / 2**20)]
        return "\n".join([f"{_format(self.total, round)} in all", *lines])


def choose_placement(config: RunConfig, footprint: Footprint, free_bytes: int) -> tuple[str, str | None]:
    """Choose "device" or "host" for memory and features, with a message if `auto` found too little device memory.

    `auto` means "host" on the CPU, and if the run names a schedule, since only schedule `auto` allows a resident run.

    Args:
        footprint: the run's needs; free_bytes: free device memory.

    Raises:
        ConfigError: placement "device" does not fit.
    """
    placement = _placement_without_memory(config)
    if placement is not None:
        return placement, None
    if footprint.needed <= free_bytes:
        return "device", None
    facts = f"{_format(footprint.needed, ceil)} are needed and {_format(free_bytes, floor)} are free"
    if config.train.placement == "device":
        raise ConfigError(f"placement device: {facts} for training on the device; use --placement host")
    return (
        "host",
        f"Memory for training on the device: {facts}, so memory and features stay on the host (--placement host).",
    )


def resolve_placement(config: RunConfig, stream: EventStream, ranks: int = 1) -> tuple[RunConfig, str | None]:
    """Return the config with placement "device" or "host", and a message if `auto` found too little device memory.

    Args:
        config: with "cpu" or "cuda" as device (see `resolve_device`).
        stream: the events.
        ranks: the number of those that share each batch.

    Raises:
        ConfigError: placement "device" needs more memory than is free on the GPU.
    """
    placement, line = _placement_without_memory(config), None
    if placement is None:
        gc.collect()  # frees the objects of tuning, including its graphs
        torch.cuda.empty_cache()
        placement, line = choose_placement(config, Footprint.of(config, stream, ranks), torch.cuda.mem_get_info()[0])
    train, settings = replace(config.train, placement=placement), config.settings
    schedule = _settings_schedule(config)
    if schedule != "auto" and (schedule == RESIDENT) != (placement == "device"):
        settings = None  # they come from a machine with more memory
    return replace(config, train=train, settings=settings), line


def _placement_without_memory(config: RunConfig) -> str | None:
    """Return the placement if it does not depend on free memory, else None."""
    train = config.train
    settings_schedule = _settings_schedule(config)
    schedule = train.schedule if settings_schedule == "auto" else settings_schedule
    by_memory = train.placement == "device" or (train.placement == "auto" and schedule in ("auto", RESIDENT))
    if train.device == "cuda" and by_memory:
        return None
    if train.placement == "auto":
        return "device" if settings_schedule == RESIDENT else "host"
    return train.placement


def _settings_schedule(config: RunConfig) -> str:
    """Return the schedule in `[settings]`, or "auto" without settings."""
    return "auto" if config.settings is None else config.settings.schedule


def _workspace(config: RunConfig, model: TemporalModel, facts: Facts, candidates: int, ranks: int) -> int:
    """Return the bytes of `Footprint.workspace`, if each event is ranked among `candidates`."""
    size, settings = config.train.batch_size, config.model
    number, share = _itemsize(settings.dtype), ceil(size / ranks)
    pairs, columns = size * (1 + candidates), COLUMNS if settings.pair_features else 0
    ranked, learned = min(pairs, PAIRS), config.train.train_negatives
    ranking = pairs * (_NUMBER + number) + ranked * (_PAIRED + number * (settings.dim + 2 * columns))
    receivers = 2 * size * (1 + settings.setting("fanout") if model.mailbox.hears else 1)
    writes = 2 * receivers * (_SAMPLED + number * (3 * settings.dim + facts.dim_edge))
    passes = sum(
        _pass_bytes(settings, model, facts, roots, learning)
        for roots, learning in (((2 + learned) * share, True), (3 * share, False), (ranked, False))
    )
    features = number * columns * 2 * share * (1 + learned)
    return (passes + ranking + writes + features + _exchange(settings, model, share, ranks)) * 3 // 2


def _exchange(config: ModelConfig, model: TemporalModel, share: int, ranks: int) -> int:
    """Return the bytes that training and scoring hold for exchanges: twice the ranks' messages, and the gradients."""
    if ranks == 1:
        return 0
    rows = 0 if model.updater is None else 2 * share * (_NUMBER + config.dim * _itemsize(config.dtype))
    return 2 * (2 * ranks + 1) * (_NUMBER + rows) + _bytes(model.parameters())


def _pass_bytes(config: ModelConfig, model: TemporalModel, facts: Facts, roots: int, learning: bool) -> int:
    """Return the bytes that one pass over R roots holds, with gradients if it is `learning`."""
    dim, edge, copies = config.dim, facts.dim_edge, 2 if learning else 1  # values, and gradients
    fanout, heads, number = config.setting("fanout"), config.setting("heads"), _itemsize(config.dtype)
    rows, points = roots, 0  # rows of the nodes' table, and points of all hops
    for _ in range(model.layers):
        rows, points = rows * (1 + fanout), points + rows

    tables = model.mailbox.tables()
    mails = prod(tables["event_id"].shape) if "event_id" in tables else 0
    record = _row(tables) + number * edge * mails
    queries = points + (rows if "mails" in tables else 0)
    message = getattr(getattr(model.updater, "message", None), "width", 0)
    width = 3 * dim + edge  # upper bound of a slot's input to the attention

    floats = rows * copies * (message + 6 * dim + facts.dim_node)  # message, four gates, h, h with its node features
    floats += queries * copies * (2 * heads * width + 8 * dim)  # absorbed query, context; query, values, output, norms
    floats += queries * heads * 3 * max(fanout, mails)  # logits, weights, slopes
    floats += points * fanout * (edge + copies * dim)  # edge rows, and neighbours' rows that are not added in place
    floats += roots * copies * 8 * dim  # the predictor's products, and the roots' embeddings
    return 2 * _SAMPLED * max(rows, points * (1 + fanout)) + rows * record + number * floats


def _row(tables: Mapping[str, Table]) -> int:
    """Return the bytes per node in all tables."""
    return sum(prod(shape) * (_NUMBER if dtype is None else dtype.itemsize) for shape, dtype, _ in tables.values())


def _itemsize(name: str) -> int:
    dtype: torch.dtype = getattr(torch, name)
    return dtype.itemsize


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _format(size: int, rounding: Callable[[float], int]) -> str:
    """Format bytes in GiB or MiB to one decimal place; needs are rounded up and free memory down, so they compare."""
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{rounding(size * 10 / unit) / 10:,.1f} {name}"
