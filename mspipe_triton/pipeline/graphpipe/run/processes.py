"""The part of a run that one process carries out, as torchrun or the launcher has started it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan
from mspipe_triton.pipeline.graphpipe.run.watch import STALLED, Watch

LAUNCHED = "MSPIPE_LAUNCHED"  # set in the environment of processes that the launcher watches
_CONNECT = timedelta(seconds=60)  # at most, to connect to the store
_CONNECT_HERE = timedelta(seconds=10)  # the same to that of the launcher, which is there before the processes

Result = TypeVar("Result")


def is_process() -> bool:
    """Return whether this is a process of a run: torchrun or the launcher has set its rank in the environment."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def stage_names(plan: PipelinePlan) -> dict[int, str]:
    """Return the name of every rank's stage."""
    return {rank: stage.name for stage in plan.stages for rank in stage.devices}


def choose_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto", "cuda" or "cpu": "auto" is the GPUs if each process of this host has one.

    Raises:
        ConfigError: there are fewer GPUs than processes of this host, and "cuda" asks for them.
    """
    if device == "cpu":
        return device
    processes = _number("LOCAL_WORLD_SIZE", _number("WORLD_SIZE"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus >= processes:
        return "cuda"
    if device == "cuda":
        raise ConfigError(f"device cuda: {processes} processes share {gpus} GPUs, and each needs one; use --device cpu")
    return "cpu"


def run_process(
    make_plan: Callable[[], PipelinePlan],
    work: Callable[[PipelinePlan, str], Result],
    device: str,
    say: Callable[[str], None],
    stalled: float = STALLED,
) -> Result:
    """Carry out this process's part of a run, and return its result once the parts of all processes are complete.

    The main thread calls this. If a process fails, it does not return: all exit, and one of them says why. See `Watch`.

    Args:
        make_plan: returns the plan; a process per device is needed.
        work: takes the plan and the device, "cpu" or "cuda"; `torch.distributed` is initialised.
        device: auto, cpu or cuda.
        say: prints a line.
        stalled: seconds without a beat after which a process counts as dead.

    Raises:
        ConfigError: the environment does not say where the store is.
    """
    rank, processes = _number("RANK"), _number("WORLD_SIZE")
    launched = LAUNCHED in os.environ
    store = _connect(_CONNECT_HERE if launched else _CONNECT)
    host = None if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else 0
    with Watch(store, rank, processes, None if launched else say, host, stalled) as watch:
        plan = make_plan()
        if plan.devices != processes:
            raise ConfigError(
                f"the plan needs a process per device, so {plan.devices}, and not {processes}; start torchrun with "
                f"--nproc-per-node {plan.devices}"
            )
        watch.stages = stage_names(plan)
        chosen = choose_device(device)
        if chosen == "cuda":
            torch.cuda.set_device(_number("LOCAL_RANK", rank))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if chosen == "cuda" else "gloo")
        result = work(plan, chosen)
    distributed.destroy_process_group()
    return result


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
