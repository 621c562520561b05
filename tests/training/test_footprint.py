"""Planned device memory of resident training: the real bytes of its tables, and the placement that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mspipe_triton.config import ModelConfig, RunConfig, TrainConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.data.negatives import Purpose
from mspipe_triton.data.tgb import tgb_candidates
from mspipe_triton.errors import ConfigError
from mspipe_triton.execution import RunSettings
from mspipe_triton.iteration.scene import batches
from mspipe_triton.iteration.session import Session
from mspipe_triton.iteration.staged import Stages, in_turn
from mspipe_triton.models import Facts
from mspipe_triton.training.footprint import Footprint, choose_placement, resolve_placement

BATCH, GIB = 100, 2**30
MODELS = {
    "tgn": ModelConfig(dim=8, fanout=3),
    "jodie": ModelConfig(model="jodie", dim=8, dtype="float64", aggregator="mean", time_encoder="learned"),
    "apan": ModelConfig(model="apan", dim=8, fanout=3, slots=4, aggregator="mean"),
    "tgat": ModelConfig(model="tgat", dim=8, fanout=3),
    "tgn in bf16": ModelConfig(dim=8, fanout=3, precision="bf16"),
}


def run_of(model: ModelConfig, **train_settings: Any) -> RunConfig:
    """A run whose neighbours have one row per slot, as its capacity assumes."""
    settings = RunSettings("serial", deduplicate="roots", fused=False)
    train = TrainConfig(batch_size=BATCH, schedule="serial", negatives=1, **train_settings)
    return RunConfig(model=model, train=train, settings=settings)


def nbytes(*tensors: torch.Tensor | None) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def run_a_batch(run: Session, stages: dict[str, Callable[[Any], Any]], candidates: int = 0) -> None:
    """Run the last training batch, by when the slots of most nodes are filled."""
    stop, each = run.split.train_end, run.config.train.train_negatives if "train" in stages else 1
    run.state.settle()
    items = batches(stop - BATCH, stop, BATCH, run.negatives, Purpose.EVAL_NEGATIVES, 0, candidates, each)
    for _ in in_turn(stages, items):
        pass


def peak(run: Session, stages: dict[str, Callable[[Any], Any]], candidates: int = 0) -> int:
    """Return the most bytes that torch allocated at a time for a batch."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorder:
        run_a_batch(run, stages, candidates)
    assert recorder.profiler is not None
    events = recorder.profiler.kineto_results.events()
    changes = sorted((each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_are_the_bytes_of_a_sessions_tensors(small_stream: EventStream, name: str) -> None:
    config = run_of(MODELS[name])
    stream = replace(small_stream, node_features=torch.ones(small_stream.num_nodes, 5 if name == "tgat" else 0))
    planned, run = Footprint.of(config, stream), Session.create(config, stream)
    graph, model = run.sampler.adjacency, run.model
    assert planned.graph == nbytes(graph.indptr, graph.neighbours, graph.event_ids, graph.times)
    room = 8 * min(len(stream), stream.num_nodes)
    assert planned.events == nbytes(run.stream.src, run.stream.dst, run.stream.t) + room
    assert nbytes(run.negatives.destinations) <= room
    assert planned.features == nbytes(run.stream.edge_features, run.stream.node_features)
    assert planned.state == nbytes(*run.state.tables.values(), run.state.sent)
    run_a_batch(run, Stages(run).training())
    moments = [part for each in run.optimizer.state.values() for part in each.values()]
    values = [*model.parameters(), *model.buffers()]
    assert planned.parameters == nbytes(*values, *(each.grad for each in model.parameters()), *moments)


@pytest.mark.parametrize(
    ("kind", "pair_features", "number"), [("random", False, 0), ("random", True, 84), ("mixed", False, 92)]
)
def test_the_pairs_are_planned_as_if_all_were_distinct(
    small_stream: EventStream, kind: str, pair_features: bool, number: int
) -> None:
    config = run_of(replace(MODELS["tgn"], pair_features=pair_features), train_negatives=4, negative_kind=kind)
    planned, run = Footprint.of(config, small_stream), Session.create(config, small_stream)
    assert planned.pairs == number * len(small_stream)
    tables = [] if run.index is None else [run.index.pairs, *([] if run.meetings is None else [run.meetings])]
    repeated = sum(8 * (len(small_stream) - table.numel()) for table in tables)
    assert planned.pairs == repeated + (0 if run.index is None else run.index.nbytes) + nbytes(run.meetings)


@pytest.mark.parametrize(("name", "number"), [("tgbl-coin", 20), ("somewhere", 100)])
def test_the_candidates_of_tgbs_protocol_are_planned(small_stream: EventStream, name: str, number: int) -> None:
    stream = replace(small_stream, name=name)
    plain = run_of(MODELS["tgn"])
    config = plain.with_flags({"protocol": "tgb", "negatives": TrainConfig.negatives})
    planned = Footprint.of(config, stream)
    tables = [tgb_candidates(stream, stream.split(), split, 0).nodes for split in ("val", "test")]
    number = min(number, stream.num_nodes)
    assert nbytes(*tables) <= planned.candidates == 8 * number * (len(stream) * 3 // 10)
    assert Footprint.of(plain, stream).candidates == 0


RANKING = {"loss": "softmax", "train_negatives": 5, "negative_kind": "mixed"}


@pytest.mark.sample(2)
@pytest.mark.parametrize("train_settings", [{}, RANKING], ids=["", "softmax, 5 negatives"])
@pytest.mark.parametrize("name", ["tgn", "jodie", "apan", "tgat"])
def test_the_workspace_is_one_and_a_half_times_the_passes_memory(name: str, train_settings: dict[str, Any]) -> None:
    random = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 1000, (2, 12_000), generator=random)  # so that roots differ, and slots are filled
    stream = EventStream(src, dst, torch.arange(12_000), torch.randn(12_000, 16, generator=random))
    config = run_of(replace(MODELS[name], dim=32), **train_settings)
    run = Session.create(config, stream)
    training, scoring = Stages(run).training(), Stages(run).scoring()
    passes = peak(run, training) + peak(run, scoring) + peak(run, scoring, config.train.negatives)
    assert 1.5 * passes < Footprint.of(config, stream).workspace


@pytest.mark.parametrize(
    "more",
    [
        {"batch_size": 700}, {"negatives": 9}, {"train_negatives": 2}, {"dim": 102}, {"fanout": 11}, {"layers": 2},
        {"dtype": "float64"},
    ],
    ids=str,
)  # fmt: skip
def test_the_workspace_grows_with_the_settings_but_not_with_the_stream(more: dict[str, int | str]) -> None:
    base, facts = RunConfig(train=TrainConfig(negatives=8)), Facts(16)
    small = Footprint.planned(base, 1000, 100, facts).workspace
    assert Footprint.planned(base, 10**6, 10**5, facts).workspace == small
    assert Footprint.planned(base.with_flags(more), 1000, 100, facts).workspace > small


@pytest.mark.parametrize("name", ["tgn", "tgat"])
def test_a_rank_needs_its_share_of_the_workspace_and_room_for_exchanges(name: str) -> None:
    """With a batch of one event the share is all of it, and the exchange is the difference."""
    settings, parameters = MODELS[name], Footprint.planned(run_of(MODELS[name]), 1000, 100, Facts(16)).parameters
    single = RunConfig(model=settings, train=TrainConfig(batch_size=1, negatives=1))
    one, four = (Footprint.planned(single, 1000, 100, Facts(16), ranks=ranks).workspace for ranks in (1, 4))
    messages = 2 * 9 * (8 + (2 * (8 + 8 * 4) if name == "tgn" else 0))
    assert messages < (four - one) / 1.5 < messages + parameters / 4
    wide = run_of(settings).with_flags({"batch_size": 6000})
    one, four = (Footprint.planned(wide, 1000, 100, Facts(16), ranks=ranks).workspace for ranks in (1, 4))
    assert four < one


def test_a_stream_of_a_billion_events_is_planned_without_being_built() -> None:
    events, nodes = 10**9, 10**8
    planned = Footprint.planned(RunConfig(), events, nodes, Facts(172, 64))
    assert planned.graph == 8 * (nodes + 1) + 32 * events
    assert planned.events == 24 * events + 8 * nodes
    assert planned.features == 4 * (172 * events + 64 * nodes)
    assert planned.state == nodes * (2 * 100 * 4 + 3 * 8)
    assert planned.total == sum(asdict(planned).values())
    assert planned.to_json() == {
        name: size / 2**20 for name, size in {**asdict(planned), "total": planned.total}.items()
    }


def test_the_text_has_the_sum_and_the_parts_above_0_the_largest_first() -> None:
    sizes = {
        "events": 10**5,
        "pairs": 0,
        "candidates": 0,
        "features": 10,
        "state": 12 * GIB,
        "parameters": 0,
        "workspace": GIB // 2,
    }
    text = str(Footprint(graph=3 * 2**20, **sizes))
    parts = ["state 12.0 GiB", "workspace 512.0 MiB", "graph 3.0 MiB", "events 0.1 MiB"]
    assert text.splitlines() == ["12.5 GiB in all", *parts]


# 11 with a tenth
NEEDS = Footprint(GIB, events=GIB, pairs=GIB, candidates=0, features=4 * GIB, state=GIB, parameters=GIB, workspace=GIB)


def on_gpu(placement: str = "auto", schedule: str = "auto", settings: RunSettings | None = None) -> RunConfig:
    staleness = 1 if schedule == "fixed" else -1
    train = TrainConfig(device="cuda", placement=placement, schedule=schedule, staleness=staleness)
    return RunConfig(train=train, settings=settings)


@pytest.mark.parametrize("settings", [None, RunSettings("resident"), RunSettings()])
def test_auto_is_the_device_if_everything_and_a_tenth_more_fits(settings: RunSettings | None) -> None:
    assert NEEDS.needed == 11 * GIB
    assert choose_placement(on_gpu(settings=settings), NEEDS, 11 * GIB) == ("device", None)
    placement, line = choose_placement(on_gpu(settings=settings), NEEDS, 11 * GIB - 1)
    assert placement == "host"
    assert line == (
        "Memory for training on the device: 11.0 GiB are needed and 10.9 GiB are free, so memory and features stay on "
        "the host (--placement host)."
    )


def test_placement_device_without_enough_memory_is_refused() -> None:
    assert choose_placement(on_gpu("device"), NEEDS, 11 * GIB) == ("device", None)
    with pytest.raises(ConfigError) as caught:
        choose_placement(on_gpu("device"), NEEDS, 800 * 2**20)
    assert str(caught.value) == (
        "placement device: 11.0 GiB are needed and 800.0 MiB are free for training on the device; use --placement host"
    )


@pytest.mark.parametrize(
    ("config", "placement"),
    [
        (RunConfig(), "host"),
        (RunConfig(train=TrainConfig(device="cpu", placement="device")), "device"),
        (on_gpu("host"), "host"),
        *((on_gpu(schedule=name), "host") for name in ("serial", "prefetch", "mspipe", "exact", "fixed")),
        (on_gpu(settings=RunSettings("exact")), "host"),
        (on_gpu(schedule="exact", settings=RunSettings()), "host"),
        (RunConfig(settings=RunSettings("resident")), "device"),
    ],
)
def test_memory_does_not_matter_on_the_cpu_or_under_a_schedule_of_stages(config: RunConfig, placement: str) -> None:
    for free in (0, 100 * GIB):
        assert choose_placement(config, NEEDS, free) == (placement, None)


def test_the_placement_replaces_auto(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    free = Footprint.of(RunConfig(), small_stream).needed
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free, 2 * free))
    assert resolve_placement(on_gpu(), small_stream) == (on_gpu("device"), None)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free - 1, 2 * free))
    config, line = resolve_placement(on_gpu(), small_stream)
    assert config == on_gpu("host")
    assert line is not None
    with pytest.raises(ConfigError, match="use --placement host"):
        resolve_placement(on_gpu("device"), small_stream)


def test_on_the_cpu_no_memory_is_measured(small_stream: EventStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.cuda.mem_get_info")
    for placement, resolved in (("auto", "host"), ("host", "host"), ("device", "device")):
        config, line = resolve_placement(RunConfig(train=TrainConfig(placement=placement)), small_stream)
        assert (config.train.placement, line) == (resolved, None)
