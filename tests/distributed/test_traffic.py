"""Bytes that ranks exchange per iteration: counted, passed to torch and received, against a formula of the stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from mspipe_triton.data.events import EventStream
from mspipe_triton.distributed.ranks import Ranks
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.training.staged import Staged
from tests.distributed.cases import UNPAIRED, Case, session
from tests.distributed.plain_ends import most_rows
from tests.distributed.sockets import received_bytes
from tests.distributed.streams import hub, real
from tests.processes.pool import Pool

COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_single", "all_reduce", "all_to_all", "all_to_all_single",
    "barrier", "broadcast", "gather", "reduce", "reduce_scatter", "scatter", "send", "recv", "isend", "irecv",
)  # fmt: skip
HEADERS = 2048  # bytes: above those of Gloo's messages to and from one other rank in one exchange


@dataclass(frozen=True)
class Bytes:
    """Bytes of each iteration of an epoch: gathered and reduced, as counted and as torch's functions get them.

    `received` are those of the whole epoch on the process's connections.
    """

    gathered: list[int]
    reduced: list[int]
    calls: list[list[tuple[str, int]]]
    received: int


@contextmanager
def recording(calls: list[tuple[str, int]]) -> Iterator[None]:
    """Record each of torch's collective functions that is called, and the bytes of its last tensor."""

    def recorded(name: str, function: Any) -> Any:
        def call(*tensors: Any, **options: Any) -> Any:
            calls.append((name, tensors[-1].numel() * tensors[-1].element_size()))
            return function(*tensors, **options)

        return call

    plain = {name: getattr(distributed, name) for name in COLLECTIVES if hasattr(distributed, name)}
    for name, function in plain.items():
        setattr(distributed, name, recorded(name, function))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(distributed, name, function)


def measure(case: Case) -> Bytes:
    """Train an epoch under `serial`, where each iteration's exchanges end before the next one's begin."""
    ranks = Ranks.of_group(torch.device("cpu"))
    way, calls = Staged(session(case, ranks)), list[tuple[str, int]]()
    gathered, reduced, by_iteration = [], [], []
    distributed.barrier()
    before = received_bytes()
    with recording(calls):
        start = ranks.traffic.gathered, ranks.traffic.reduced
        for _ in way.run(way.training_batches(1, case.stop), 1, StageTimes()):
            gathered.append(ranks.traffic.gathered - start[0])
            reduced.append(ranks.traffic.reduced - start[1])
            by_iteration.append(list(calls))
            start = ranks.traffic.gathered, ranks.traffic.reduced
            calls.clear()
    return Bytes(gathered, reduced, by_iteration, received_bytes() - before)


def measure_all(cases: list[Case]) -> list[Bytes]:
    return [measure(case) for case in cases]


def expected_bytes(case: Case, stop: int, world: int) -> list[int]:
    """Compute the gathered bytes of each iteration from the stream alone.

    Each of N ranks sends a loss of 8 bytes and, in a model with memory, for R nodes a time of 8 bytes and D numbers;
    each of these three parts fills a multiple of 8 bytes.
    """
    width = {"float32": 4, "float64": 8}[case.model["dtype"]] * case.model["dim"]
    totals = []
    for start in range(0, stop, case.size):
        columns = (
            column[start : min(start + case.size, stop)].tolist() for column in (case.stream.src, case.stream.dst)
        )
        rows = most_rows(*columns, case.size, world)
        memory = rows * 8 + -(-rows * width // 8) * 8
        totals.append(world * (8 + (memory if case.model.get("model") != "tgat" else 0)))
    return totals


def gradient_bytes(case: Case) -> int:
    """Return the bytes of the parameters that get a gradient in one process."""
    way = Staged(session(case))
    way.train_epoch(1, stop=case.size)
    gradients = [each.grad for each in way.session.model.parameters() if each.grad is not None]
    return sum(each.numel() * each.element_size() for each in gradients)


def check(processes: Pool, world: int, cases: list[Case]) -> None:
    by_rank = processes(world, measure_all, cases, limit=300.0)
    for number, case in enumerate(cases):
        stop = session(case).split.train_end if case.stop is None else case.stop
        gathered, reduced = expected_bytes(case, stop, world), gradient_bytes(case)
        assert reduced
        for measured in (results[number] for results in by_rank):
            assert measured.gathered == gathered
            assert measured.reduced == [reduced] * len(gathered)
            for total, calls in zip(gathered, measured.calls, strict=True):
                (gather, message), (reduce, size) = calls
                assert gather.startswith("all_gather")
                assert (message * world, reduce, size) == (total, "all_reduce", reduced)
            # Gloo's rings: a message of each other rank, and 2 (N − 1) / N of the gradients.
            payload = (sum(gathered) + 2 * reduced * len(gathered)) * (world - 1) // world
            assert 0 <= measured.received - payload <= HEADERS * (world - 1) * 2 * len(gathered)


def varied(stream: EventStream, **options: Any) -> list[Case]:
    """Return cases of unlike rows: an odd number of float32, a model without memory, one whose mail goes further."""
    serial = {"schedule": "serial"}
    odd = {**UNPAIRED, "dim": 5, "heads": 1, "dtype": "float32"}
    apan, tgat = {**UNPAIRED, "model": "apan"}, {**UNPAIRED, "model": "tgat", "layers": 1}
    return [Case(stream, model, serial, **options) for model in (odd, apan, tgat)]


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 4])
def test_bytes_are_those_of_the_formula(processes: Pool, world: int) -> None:
    """The last batch has 35 of 77 events, and the shares of the last case have one event or none."""
    few = Case(hub(100), {**UNPAIRED, "aggregator": "mean"}, {"schedule": "serial"}, size=3, stop=25)
    check(processes, world, [*varied(hub()), few])


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_bytes_of_a_real_epoch(processes: Pool, real_data: Path, world: int) -> None:
    check(processes, world, varied(real(real_data, 59_835), size=600))
