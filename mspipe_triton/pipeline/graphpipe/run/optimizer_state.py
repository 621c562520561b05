"""State of an optimiser by names of parameters, so that stages of another plan can take it over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from mspipe_triton.errors import ConfigError, RunFolderError
from mspipe_triton.pipeline.graphpipe.run.folder import SavedOptimizer

# Entries of a group of parameters that are no settings, or that tell how an update is computed and not which.
_OTHERS = ("params", "param_names", "foreach", "fused", "capturable", "differentiable")
_SIMPLE = (bool, int, float, str, type(None))


def identity(optimizer: Optimizer | None) -> SavedOptimizer | None:
    """Return the class of an optimiser, and the settings that it was made with."""
    if optimizer is None:
        return None
    settings = {
        name: list(one) if isinstance(one, tuple) else one for name, one in _settings(optimizer.defaults).items()
    }
    return SavedOptimizer(f"{type(optimizer).__module__}.{type(optimizer).__qualname__}", settings)


def check_identity(path: Path, saved: SavedOptimizer | None, optimizer: SavedOptimizer | None) -> None:
    """Refuse an optimiser of another class or with other settings than the one of a checkpoint.

    Args:
        path: of the checkpoint.
        saved: the checkpoint's.
        optimizer: the run's.

    Raises:
        RunFolderError: they differ.
    """
    there, here = (each.name if each else "none" for each in (saved, optimizer))
    if there != here:
        raise RunFolderError(f"{path}: was saved with optimizer {there}, and this run has {here}; use the same")
    if saved and optimizer:
        for name in {**saved.settings, **optimizer.settings}:
            values = [each.settings.get(name, "not set") for each in (saved, optimizer)]
            if values[0] != values[1]:
                problem = f"was saved with {name} {values[0]}, and this run has {values[1]}"
                raise RunFolderError(f"{path}: {problem}; use the same --optimizer and --lr")


def pack(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], store: Callable[[Tensor], Tensor]) -> Any:
    """Return an optimiser's state by names of parameters, and the settings of their groups.

    Args:
        optimizer: holds tensors and simple values for each parameter.
        parameters: by name.
        store: returns a tensor as it is to be saved.

    Raises:
        ConfigError: the optimiser holds something else.
    """
    names = {id(each): name for name, each in parameters.items()}
    kind = type(optimizer).__name__
    if any(id(each) not in names for each in optimizer.state):
        raise ConfigError(f"{kind} holds state that belongs to no parameter, which no checkpoint can hold; use another")

    def stored(value: Any) -> Any:
        if isinstance(value, Tensor):
            return store(value)
        if not isinstance(value, _SIMPLE):
            problem = f"{kind} holds a {type(value).__name__} for a parameter"
            raise ConfigError(f"{problem}; checkpoints hold tensors and numbers, so use another optimizer")
        return value

    return {
        names[id(each)]: {
            "settings": _settings(group),
            "state": {key: tree_map(stored, value) for key, value in optimizer.state.get(each, {}).items()},
            "dtype": each.dtype,
        }
        for group in optimizer.param_groups
        for each in group["params"]
    }


def unpack(path: Path, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Any]) -> None:
    """Restore the state of an optimiser, and the settings of its groups.

    Args:
        path: of the checkpoint.
        optimizer: of the class that was saved.
        parameters: by name.
        saved: the result of `pack`, of these parameters at least.

    Raises:
        RunFolderError: parameters that have one group now had other settings.
    """
    names = {id(each): name for name, each in parameters.items()}
    for group in optimizer.param_groups:
        present = [each for each in group["params"] if names[id(each)] in saved]
        for parameter in present:
            one, first = saved[names[id(parameter)]], saved[names[id(present[0])]]
            if one["settings"] != first["settings"]:
                raise RunFolderError(
                    f"{path}: was saved with {names[id(parameter)]} and {names[id(present[0])]} in two groups of "
                    "parameters, and this run has them in one; use the same --optimizer"
                )
            optimizer.state[parameter] = {
                key: tree_map(_mover(parameter, one["dtype"], group, key), value) for key, value in one["state"].items()
            }
        if present:
            _set(group, first["settings"])


def _mover(parameter: nn.Parameter, saved: torch.dtype, group: Mapping[str, Any], key: str) -> Callable[[Any], Any]:
    """Return the function that copies a value to a parameter's device, and to its type if it had that before.

    Only a step that compiled or fused updates count is on the device: elsewhere each update would wait for it.
    """
    counted = key == "step" and not (group.get("capturable") or group.get("fused"))
    device = torch.device("cpu") if counted else parameter.device

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        follows = value.dtype == saved and key != "step"
        return value.to(device, parameter.dtype if follows else value.dtype, copy=True)

    return move


def _set(group: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Restore the settings of a group of parameters."""
    for name, value in settings.items():
        if isinstance(group.get(name), Tensor):
            group[name].fill_(value)
        else:
            group[name] = value


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group of parameters that are simple values, lists of them, or tensors of one number."""
    result: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        simple = isinstance(value, _SIMPLE) or (
            isinstance(value, tuple | list) and all(isinstance(each, _SIMPLE) for each in value)
        )
        if simple and name not in _OTHERS:
            result[name] = value
    return result
