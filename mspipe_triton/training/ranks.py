"""Ranks at the entry of a run: the group that they form, their device, and what all must have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.distributed_c10d import get_backend_config

import mspipe_triton
from mspipe_triton.choices import either
from mspipe_triton.config import RunConfig
from mspipe_triton.data.source import FILES, Contents
from mspipe_triton.devices import resolve_device
from mspipe_triton.distributed.agreement import agree, refuse
from mspipe_triton.distributed.ranks import ALONE, Ranks
from mspipe_triton.errors import ConfigError
from mspipe_triton.models.stored import digest
from mspipe_triton.processes.start import choose_device, is_process, world_size


def group_ranks() -> Ranks:
    """Return the ranks of the process group of `torch.distributed`, or this process alone without a group.

    Raises:
        ConfigError: torchrun has started several processes, and they have no group.
    """
    if distributed.is_available() and distributed.is_initialized():
        return Ranks.of_group(torch.device("cpu" if "cpu:" in get_backend_config() else "cuda"))
    if is_process() and world_size() > 1:
        raise ConfigError(
            f"this is one of {world_size()} processes, and torch.distributed is not initialised; call "
            "torch.distributed.init_process_group first, or pass ranks=ALONE to train in this process alone"
        )
    return ALONE


def device_of(ranks: Ranks, config: RunConfig) -> tuple[RunConfig, str | None]:
    """Set the device to "cpu" or "cuda", as `resolve_device` does; "auto" is the GPUs if each rank has one.

    Raises:
        ConfigError: as `resolve_device`; or several ranks cannot share the settings.
    """
    if ranks.alone:
        return resolve_device(config)
    train = config.train
    if train.mitigation != "none":
        raise ConfigError(
            f"mitigation {train.mitigation} compares all rows of a batch, and {ranks.count} ranks share each batch; "
            "omit --mitigation, or train in one process"
        )
    if is_process() and train.device != "cpu" and choose_device(train.device) == "cpu":
        gpus = torch.cuda.device_count()
        line = f"Running on the CPU: there are more ranks on this machine than GPUs, {gpus}." if gpus else None
        return config.with_flags({"device": "cpu"}), line
    return resolve_device(config)


def on_device(ranks: Ranks, device: str) -> Ranks:
    """Return the ranks of a run on a device, "cpu" or "cuda".

    Raises:
        ConfigError: another rank has another device, or the process group does not exchange tensors on it.
    """
    if ranks.alone:
        return ranks
    agree(ranks, {"device": device}, "use --device cpu")
    backends = str(get_backend_config())
    if f"{device}:" not in backends:
        raise ConfigError(
            f"the process group ({backends}) exchanges no tensors on device {device}; initialise it with backend "
            "cpu:gloo,cuda:nccl, or use another device"
        )
    return replace(ranks, device=torch.device(device))


def check_settings(ranks: Ranks, config: RunConfig, resume: bool, trace: bool) -> None:
    """Refuse a rank with other settings than rank 0, or with another version of this package or of torch.

    Files may be in other places on other hosts.

    Raises:
        ConfigError: with the rank, its host, and all settings that differ.
    """
    versions = {"mspipe-triton": mspipe_triton.__version__, "torch": torch.__version__}
    agree(ranks, versions, "install the same on all hosts")
    data = {name: value for name, value in vars(config.data).items() if name not in (*FILES, "history")}
    values: dict[str, Any] = {**data, **vars(config.model.resolved()), **vars(config.train)}
    values |= {"settings": config.settings, "resume": resume, "trace": trace}
    names = {f"--{name.replace('_', '-')}": value for name, value in values.items()}
    agree(ranks, names, "start all ranks with the same flags and settings")


def check_contents(ranks: Ranks, contents: Contents, place: str, history: str, labels: bool) -> None:
    """Refuse a rank whose events, or whose run to continue, are not those of rank 0.

    Args:
        contents: of this rank's stream. place: the file that holds it, or other words for it.
        history: the folder of the run that this one continues, or "".
        labels: the run learns labels, so these must be the same too.

    Raises:
        ConfigError: with the rank, its host, and what differs.
    """
    if ranks.alone:
        return
    first, first_place = ranks.from_first(lambda: (contents, place))
    changes = first.changes(contents, labels)
    difference = None
    if changes and str(first) == str(contents):
        others = either(changes, "and")
        difference = f"other {others} in {place} than {{first}} in {first_place}; copy rank 0's file"
    elif changes:
        difference = f"{contents} in {place}, and {{first}} has {first} in {first_place}; copy rank 0's file"
    refuse(ranks, difference)
    form = {"number of nodes": contents.nodes, "split at events": tuple(contents.split)}
    agree(ranks, form, "pass the same stream to all ranks")
    if history:
        agree(ranks, {f"model of {Path(history).name}": digest(Path(history))}, "copy rank 0's run")
