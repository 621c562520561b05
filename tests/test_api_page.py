"""Page of the public names: docs/api.md is what the generator writes, and leaves no name, member or field out."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from types import ModuleType

import pytest

import mspipe_triton
from bench.api import PAGE, items, page, parsed, signature
from mspipe_triton.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mspipe_triton.pipeline import graphpipe

TEXT = PAGE.read_text(encoding="utf-8")


def entry(name: str) -> str:
    """The part of the page about a public name."""
    return re.split(r"^##?#? ", TEXT.split(f"\n### {name}\n")[1], flags=re.MULTILINE)[0]


def sample(first: int, second: str = "a", *, third: bool = True) -> None:
    """Do a thing.

    It has more
    lines.

    Args:
        first: one, which
            goes on. second: see `first`.
        third: three;
            more.

    Raises:
        DataError: wrong.
        ConfigError: out of
            range.
    """


def test_the_page_is_what_the_generator_writes() -> None:
    assert page() == TEXT, "run `python -m bench.api`"


NAMES = [(mspipe_triton, name) for name in mspipe_triton.__all__] + [
    (graphpipe, name) for name in graphpipe.__all__ if not name.isupper()
]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[name for _, name in NAMES])
def test_every_public_name_has_an_entry(package: ModuleType, name: str) -> None:
    assert TEXT.count(f"\n### {name}\n") == 1
    assert f"[`{name}`](#{name.lower()})" in TEXT
    first = (getattr(package, name).__doc__ or "").split("\n")[0]
    assert first in " ".join(entry(name).split())


def test_members_of_a_predictor_and_of_its_base_are_there() -> None:
    methods = {"score", "rank", "embed", "observe", "predict", "save"}
    assert methods <= set(re.findall(r"^#### Predictor\.(\w+)$", TEXT, re.MULTILINE))
    properties = {"time", "kinds", "dim", "batch_size", "nodes"}
    assert properties <= set(re.findall(r"^\* `(\w+)`, `", entry("Predictor"), re.MULTILINE))


@pytest.mark.parametrize("config", [DataConfig, ModelConfig, RunConfig, TrainConfig])
def test_tables_have_every_field_of_settings(config: type) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", entry(config.__name__), re.MULTILINE)
    assert rows == [each.name for each in fields(config)]


def test_signatures_are_python() -> None:
    blocks = re.findall(r"```python\n(.*?)\n```", TEXT, re.DOTALL)
    assert len(blocks) > 20
    for block in blocks:
        call = block.split("(", 1)[1]
        ast.parse(f"def function({call.replace('…', '...')}: ...")


def test_a_docstring_becomes_lists() -> None:
    doc = parsed(sample)
    assert doc.text == "Do a thing.\n\nIt has more\nlines."
    names = ["first", "second", "third"]
    assert list(items(doc.sections["Args"], names)) == [
        "* `first`: one, which goes on.",
        "* `second`: see `first`.",
        "* `third`: three; more.",
    ]
    assert list(items(doc.sections["Raises"], ["DataError", "ConfigError"])) == [
        "* `DataError`: wrong.",
        "* `ConfigError`: out of range.",
    ]
    assert signature("sample", sample) == (
        '```python\nsample(first: int, second: str = "a", *, third: bool = True) -> None\n```'
    )
