"""The wording of code: docstrings open with a verb or a noun, nouns name variables, messages use common words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "mspipe_triton", "tuning", "bench", "tests", "examples")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
OPENING = re.compile(r"(What|How|Whether|Where|Who|When|Which)\b")
# Participles that say of a value that it was made, and not what it is.
PARTICIPLES = {"asked", "drawn", "found", "given", "held", "kept", "known", "left", "made", "meant", "own", "told"}
PARTICIPLES |= {"spent", "taken", "wanted"}
UNCOMMON = re.compile(r"\b(mend(s|ed|ing)?|lays? over|laid over)\b", re.IGNORECASE)


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Variables, arguments and attributes that a module binds, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_wording(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree, wrong = ast.parse(text), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            if OPENING.match(docstring):
                wrong.append(f"a docstring opens with {docstring.split()[0]}: {docstring[:60]}")
    wrong += [f"line {line}: the name {name} is a participle" for line, name in names(tree) if name in PARTICIPLES]
    if path != Path(__file__).resolve():
        lines = enumerate(text.splitlines(), 1)
        wrong += [f"line {number}: {line.strip()}" for number, line in lines if UNCOMMON.search(line)]
    assert not wrong
