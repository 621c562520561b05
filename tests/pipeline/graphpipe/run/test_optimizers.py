"""Optimisers by name: torch's with a learning rate, those of users, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.run.optimizers import load_optimizer

MODULE = """
import torch
other = torch.nn.Parameter(torch.ones(1))
number = 1
def groups(parameters):
    parameters = iter(parameters)
    return torch.optim.SGD([{"params": [next(parameters)], "lr": 5.0}, {"params": list(parameters)}], lr=2.0)
def foreign(parameters): return torch.optim.SGD([*parameters, other])
def nothing(parameters): return None
def broken(parameters): raise ValueError("bad\\nsecond line")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optimizers_of_mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "optimizers_of_mine", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimisers_of_torch(name: str, kind: type[torch.optim.Optimizer]) -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    optimizer = load_optimizer(name, 0.25)(iter(parameters))
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["params"] == parameters


def test_an_optimiser_of_a_user() -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = load_optimizer("optimizers_of_mine:groups", 0.25)(parameters)
    assert [(each["lr"], len(each["params"])) for each in optimizer.param_groups] == [(5.0, 1), (2.0, 2)]
    assert isinstance(load_optimizer("torch.optim:RMSprop", 0.25)(iter(parameters)), torch.optim.RMSprop)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adm", " is not one of adam, adamw, sgd; use one, or module:attribute; did you mean adam?"),
        ("optimizers_of_mine:", " is not module:attribute; name a callable, such as optimizers.mine:build"),
        ("optimizers_of_mine:number", " is of type int; name a callable that returns a torch.optim.Optimizer"),
        ("optimizers_of_mine:nothing", " returned NoneType; return a torch.optim.Optimizer"),
        ("optimizers_of_mine:foreign", " returned an optimiser of other parameters; use those that it takes"),
        ("optimizers_of_mine:broken", ": the call raised ValueError: bad; fix the callable"),
        ("torch.optim:LBFGS", ": the step of LBFGS needs arguments; use an optimiser without"),
    ],
)
def test_what_is_no_optimiser_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'--optimizer {name!r}{message}')}$"):
        load_optimizer(name, 0.1)([nn.Parameter(torch.ones(2))])
