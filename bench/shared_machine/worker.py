"""Blocks of training iterations in processes of their own, which wait for each other's blocks without using a core."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from mspipe_triton.config import DataConfig, RunConfig, TrainConfig
from mspipe_triton.data.source import load_stream
from mspipe_triton.iteration.session import Session
from mspipe_triton.pipeline.contention import WINDOW
from mspipe_triton.pipeline.flight import StageTimes
from mspipe_triton.settings import process_settings, run_settings
from mspipe_triton.training.way import carry_out

Facts = dict[str, Any]
_LONGEST = 300  # seconds after which a busy process ends by itself
_MANY = 20_000  # iterations


@dataclass(frozen=True)
class Block:
    """Iterations to train, from a new pipeline on.

    Args:
        adapts: follow the use of the machine; False keeps the number of threads.
        iterations: to measure, at most; seconds: the same in time. settle: seconds of training before that.
    """

    adapts: bool
    iterations: int = _MANY
    seconds: float = 60.0
    settle: float = 0.0


def run_block(session: Session, block: Block) -> Facts:
    """Train a block.

    Returns:
        `ms` per iteration, mean; `iterations`; `threads` at the end; `dropped`, the time of the first use of fewer
        threads on the clock that all processes of a machine share, or None.
    """
    most = session.settings.threads
    torch.set_num_threads(most)
    way = carry_out(session)
    if not block.adapts:
        way.contention.interval = math.inf
    time.sleep(1.5 * WINDOW)  # a run has read the machine's use before its first iteration
    count, start, dropped, begin = 0, 0.0, None, time.monotonic()
    with closing(way.train_stretch(0, _MANY, StageTimes())) as iterations:
        for _ in iterations:
            now = time.monotonic()
            if dropped is None and way.contention.threads < most:
                dropped = now
            if not start:
                start = now if now - begin >= block.settle else 0.0
                continue
            count += 1
            if count == block.iterations or now - start >= block.seconds:
                break
    return {
        "ms": 1e3 * (now - start) / count,
        "iterations": count,
        "threads": way.contention.threads,
        "dropped": dropped,
    }


def serve(connection: Connection, data: str, batch_size: int) -> None:
    """Create a session, compile by training a few iterations, and train the blocks that come, until there are none."""
    config = RunConfig(
        data=DataConfig(path=data), train=TrainConfig(device="cpu", placement="host", batch_size=batch_size)
    )
    config = replace(config, settings=run_settings(config))
    with process_settings(config):
        session = Session.create(config, load_stream(config.data))
        run_block(session, Block(False, iterations=10))
        assert config.settings is not None
        connection.send({"stream": session.stream.name, "settings": asdict(config.settings)})
        while (block := connection.recv()) is not None:
            connection.send(run_block(session, block))


@contextmanager
def workers(count: int, data: str, batch_size: int) -> Iterator[tuple[list[Connection], Facts]]:
    """Start processes that train blocks, and yield connections to them, with the stream and settings of the runs."""
    context = get_context("spawn")
    with ExitStack() as stack:
        ends, facts = list[Connection](), Facts()
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, data, batch_size), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(here.send, None)
            there.close()  # so that a dead process ends the wait for its answer
            facts = here.recv()
            ends.append(here)
        yield ends, facts


def train(ends: Sequence[Connection], block: Block) -> list[Facts]:
    """Train a block in all of these processes at once."""
    for end in ends:
        end.send(block)
    return [end.recv() for end in ends]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep as many other processes busy, one thread each."""
    program = f"import signal\nsignal.alarm({_LONGEST})\nprint(flush=True)\nwhile True: pass"
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for each in processes:
            assert each.stdout is not None
            each.stdout.readline()
        yield
    finally:
        for each in processes:
            each.kill()
            each.communicate()
