"""The part of a run that one process carries out, as torchrun or the launcher has started it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from mspipe_triton.errors import ConfigError
from mspipe_triton.processes.watch import STALLED, Watch

LAUNCHED = "MSPIPE_LAUNCHED"  # set in the environment of processes that the launcher watches
_CONNECT = timedelta(seconds=60)  # at most, to connect to the store
_CONNECT_HERE = timedelta(seconds=10)  # the same to that of the launcher, which is there before the processes
_EXCHANGE = timedelta(days=1)  # at most, to wait for a slow process: the watch finds dead ones

Result = TypeVar("Result")


def is_process() -> bool:
    """Return whether this is a process of a run: torchrun or the launcher has set its rank in the environment."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return the rank of this process.

    Raises:
        ConfigError: the environment has no such number.
    """
    return _number("RANK")


def world_size() -> int:
    """Return the number of processes of the run.

    Raises:
        ConfigError: the environment has no such number.
    """
    return _number("WORLD_SIZE")


def choose_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto", "cuda" or "cpu": "auto" is the GPUs if each process of this host has one.

    Raises:
        ConfigError: there are fewer GPUs than processes of this host, and "cuda" asks for them.
    """
    if device == "cpu":
        return device
    processes = _number("LOCAL_WORLD_SIZE", world_size())
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus >= processes:
        return "cuda"
    if device == "cuda":
        raise ConfigError(f"device cuda: {processes} processes share {gpus} GPUs, and each needs one; use --device cpu")
    return "cpu"


def run_process(work: Callable[[Watch], Result], say: Callable[[str], None], stalled: float = STALLED) -> Result:
    """Carry out this process's part of a run, and return its result once the parts of all processes are complete.

    The main thread calls this. If a process fails, it does not return: all exit, and one of them says why. See `Watch`.

    Args:
        work: takes the watch; it may start the process group, which ends with it.
        say: prints a line.
        stalled: seconds without a beat after which a process counts as dead.

    Raises:
        ConfigError: the environment does not say where the store is.
    """
    launched = LAUNCHED in os.environ
    store = _connect(_CONNECT_HERE if launched else _CONNECT)
    host = None if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0
    restarts = _number("TORCHELASTIC_RESTART_COUNT", 0)
    with Watch(store, rank(), world_size(), None if launched else say, host, stalled, restarts) as watch:
        result = work(watch)
    if distributed.is_initialized():
        gc.collect()  # NCCL waits for the end of all CUDA graphs that have captured its exchanges
        distributed.destroy_process_group()
    return result


def start_group(device: str, watch: Watch) -> str:
    """Start the process group of `torch.distributed`, on a GPU per process or on CPUs. All processes call this.

    Args:
        device: auto, cpu or cuda.
        watch: this process's.

    Returns:
        The device, "cpu" or "cuda"; the GPU of this process is then torch's current one.

    Raises:
        ConfigError: there are fewer GPUs than processes of this host, and "cuda" asks for them.
    """
    chosen = choose_device(device)
    if chosen == "cuda":
        torch.cuda.set_device(_number("LOCAL_RANK", watch.rank))
    backend = "cpu:gloo,cuda:nccl" if chosen == "cuda" else "gloo"
    store = watch.store()
    store.set_timeout(_EXCHANGE)
    distributed.init_process_group(backend, store=store, rank=watch.rank, world_size=watch.processes, timeout=_EXCHANGE)
    return chosen


def _connect(timeout: timedelta) -> Store:
    """Connect to the store of the run; process 0 hosts it unless the launcher does."""
    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
    except ValueError as error:  # of a variable that is missing
        raise ConfigError(f"{error}; start the processes with torchrun") from None
    except RuntimeError:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConfigError(f"there is no launcher at {place}; start the processes with torchrun") from None
    assert isinstance(store, Store)
    return store


def _number(name: str, default: int | None = None) -> int:
    """Return a whole number of the environment."""
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise ConfigError(f"{name}={text!r} in the environment is not a number; start the processes with torchrun")
    return int(text)
