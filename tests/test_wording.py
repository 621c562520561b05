"""The wording of code: docstrings open with a verb or a noun, nouns name variables, messages use common words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "mspipe_triton", "tuning", "bench", "tests", "examples")
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


def faults(path: Path) -> Iterator[str]:
    """Everything that the rules of this file find in a module."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            docstring = ast.get_docstring(node) or ""
            if OPENING.match(docstring):
                yield f"a docstring opens with {docstring.split()[0]}: {docstring[:60]}"
    yield from (f"line {line}: the name {name} is a participle" for line, name in names(tree) if name in PARTICIPLES)
    for number, line in enumerate(text.splitlines(), 1):
        if UNCOMMON.search(line):
            yield f"line {number}: {line.strip()}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_names_and_words(folder: str) -> None:
    paths = [path for path in sorted((ROOT / folder).rglob("*.py")) if path != Path(__file__).resolve()]
    assert paths
    assert not [f"{path.relative_to(ROOT)}: {fault}" for path in paths for fault in faults(path)]


def test_pages_use_common_words() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    assert not [page for page in pages if UNCOMMON.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    "code",
    [
        '"""What it holds."""',
        "def f(given): ...",
        "made = 1",
        "self.kept = 1",
        "for found in []: ...",
        "x = 1  # mends it",
    ],
)
def test_a_fault_is_found(code: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(code, encoding="utf-8")
    assert len(list(faults(tmp_path / "module.py"))) == 1
