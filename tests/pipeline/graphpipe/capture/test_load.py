"""Models by name: the callable is imported, also from the current folder, and what is wrong is said in one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.capture import load_model

MODULE = """
import torch
from torch import nn

number = 3
layer = nn.Linear(2, 3)
inputs = (torch.ones(4, 2),)

class Builders:
    pair = staticmethod(lambda: (layer, inputs))

def pair(): return layer, list(inputs)
def triple(): return layer, (), {"input": inputs[0]}
def single(): return layer
def swapped(): return inputs, layer
def bare(): return layer, inputs[0]
def four(): return layer, inputs, {}, 1
def numbers(): return layer, (1, 2.0)
def words(): return layer, inputs, "x"
def broken(): raise ValueError("no such data\\nsecond line")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of the tests in the current folder, forgotten afterwards."""
    files = {
        "models_of_mine": MODULE,
        "models_that_fail": "x = 1 /\n",
        "models_that_need": "import absent_package.part\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "folder_of_models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])


@pytest.mark.parametrize("attribute", ["pair", "triple", "Builders.pair"])
def test_a_model_is_a_module_with_its_inputs(attribute: str) -> None:
    module, args, kwargs = load_model(f"models_of_mine:{attribute}")
    assert torch.equal(module(*args, **kwargs), module(torch.ones(4, 2)))
    assert isinstance(args, tuple)


FIX = "return (module, inputs): a torch.nn.Module and a tuple of tensors"
CALLABLE = "name a callable of the module"
ABSENT = "installed or in this folder; change the folder, or install it"
REFUSED = {
    "mmt": "is not module:attribute; name a callable, such as models.mine:build",
    ":pair": "is not module:attribute; name a callable, such as models.mine:build",
    "models_of_mine:": "is not module:attribute; name a callable, such as models.mine:build",
    "absent_models:pair": f": there is no module absent_models, {ABSENT}",
    "folder_of_models.one:pair": f": there is no module folder_of_models.one, {ABSENT}",
    "models_that_need:pair": ": models_that_need needs module absent_package; install it",
    "models_that_fail:pair": ": importing models_that_fail raised SyntaxError: invalid syntax (models_that_fail.py, "
    "line 1); fix the module",
    "models_of_mine:absent": f": module 'models_of_mine' has no attribute 'absent'; {CALLABLE}",
    "models_of_mine:number": "is of type int; name a callable that returns (module, inputs)",
    "models_of_mine:broken": ": the call raised ValueError: no such data; fix the callable",
    "models_of_mine:layer": ": the call raised TypeError: Linear.forward() missing 1 required positional argument: "
    "'input'; fix the callable",
    "models_of_mine:single": f"returned Linear; {FIX}",
    "models_of_mine:swapped": f"returned (tuple, Linear); {FIX}",
    "models_of_mine:bare": f"returned (Linear, Tensor); {FIX}",
    "models_of_mine:four": f"returned (Linear, tuple, dict, int); {FIX}",
    "models_of_mine:words": f"returned (Linear, tuple, str); {FIX}",
    "models_of_mine:numbers": f"returned no tensors as inputs; {FIX}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_is_refused_in_one_line(name: str) -> None:
    gap = "" if REFUSED[name].startswith(":") else " "
    with pytest.raises(ConfigError, match=f"^{re.escape(f'model {name!r}{gap}{REFUSED[name]}')}$") as error:
        load_model(name)
    assert error.value.exit_code == 2
