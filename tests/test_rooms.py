"""Imports between rooms: each goes down in the order that CONTRIBUTING.md draws, and every room is drawn."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DRAWING = re.compile(r"```rooms (\S+)\n(.*?)```", re.DOTALL)
FOLDERS = {"mspipe_triton": "mspipe_triton", "mspipe_triton.kernels": "kernels", "mspipe_triton.tuning": "tuning"}


def floors(package: str) -> dict[str, int]:
    """The floor of every room of a package, 0 at the bottom."""
    drawings = dict(DRAWING.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    lines = [line.split("·") for line in reversed(drawings[package].strip().splitlines())]
    return {room.strip(): floor for floor, rooms in enumerate(lines) for room in rooms}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Names of the modules in a package's folder, with their paths."""
    folder = ROOT / FOLDERS[package]
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).with_suffix("").as_posix().replace("/", "."), path


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room(name: str, rooms: dict[str, int]) -> str | None:
    """The room of a module: the longest name that it begins with."""
    fitting = [each for each in rooms if name == each or name.startswith(f"{each}.")]
    return max(fitting, key=len, default=None)


@pytest.mark.parametrize("package", FOLDERS)
def test_every_module_is_in_a_room_of_the_drawing(package: str) -> None:
    rooms = floors(package)
    lost = {name for name, _ in modules(package) if room(name, rooms) is None} - {"__init__", "__main__"}
    assert not lost
    empty = {each for each in rooms if not any(room(name, rooms) == each for name, _ in modules(package))}
    assert empty <= {"kernels", "tuning"}, "these have folders of their own"


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_go_down(package: str) -> None:
    rooms, wrong = floors(package), []
    for name, path in modules(package):
        if name in ("__init__", "__main__"):
            continue
        here = room(name, rooms)
        for target in imported(path):
            there = room(target.removeprefix(f"{package}."), rooms) if target.startswith(f"{package}.") else None
            if there is not None and there != here and rooms[there] >= rooms[here or ""]:
                wrong.append(f"{name} ({here}) imports {target} ({there})")
    assert not wrong


@pytest.mark.parametrize(("folder", "floor"), [("kernels", "kernels"), ("tuning", "tuning")])
def test_packages_in_folders_of_their_own_keep_to_their_floor(folder: str, floor: str) -> None:
    rooms, wrong = floors("mspipe_triton"), []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for target in imported(path):
            there = room(target.removeprefix("mspipe_triton."), rooms) if target.startswith("mspipe_triton.") else None
            if there is not None and there != floor and rooms[there] >= rooms[floor]:
                wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert not wrong


def test_nothing_that_is_installed_imports_what_is_not() -> None:
    for folder in FOLDERS.values():
        for path in sorted((ROOT / folder).rglob("*.py")):
            assert not [name for name in imported(path) if name.split(".")[0] in ("bench", "tests")], path


def test_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = {name for name in re.findall(r"`([\w/.]+\.(?:py|md|toml))`", text) if name.upper() != name}
    missing = [name for name in names if not any((ROOT / folder / name).exists() for folder in ("", "mspipe_triton"))]
    assert sorted(missing) == [
        "kernels/ROOM/NAME.py",
        "session.py",
        "test_NAME_triton.py",
        "tests/kernels/ROOM/test_NAME.py",
    ]
