"""Checks of tables that are passed through `data info`: what it must print for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import Command


class Read(NamedTuple):
    """A table that must be read: its content, its flags, and what `data info` must say.

    Args:
        name: the file. content: text, bytes, or a function that writes the file or folder.
        flags: of the command line. facts: (events, nodes, kinds, first time, last time).
    """

    name: str
    content: str | bytes | Callable[[Path], None]
    flags: str
    facts: tuple[int, int, dict[str, int] | None, float, float]


class Refused(NamedTuple):
    """A table that must be refused with a message, after the file's name; `...` stands for any text."""

    name: str
    content: str | bytes | Callable[[Path], None]
    flags: str
    message: str


def write(path: Path, content: str | bytes | Callable[[Path], None]) -> None:
    """Write a table."""
    if isinstance(content, str):
        path.write_bytes(content.encode())
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)


def check_read(case: Read, folder: Path, command: Command) -> None:
    """Assert that `data info` reads a table and says what is right."""
    write(folder / case.name, case.content)
    run = command("data", "info", case.name, "--json", *case.flags.split())
    assert run.returncode == 0, run.stderr
    facts: dict[str, Any] = json.loads(run.stdout)
    assert tuple(facts[each] for each in ("events", "nodes", "kinds", "first_time", "last_time")) == case.facts


def check_refused(case: Refused, folder: Path, command: Command) -> None:
    """Assert that `data info` refuses a table with one line."""
    write(folder / case.name, case.content)
    run = command("data", "info", case.name, "--json", *case.flags.split())
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run.stderr
    begin, _, end = case.message.partition("...")
    message = run.stderr.rstrip("\n").removeprefix("mspipe-triton: ")
    assert message.startswith(f"{case.name}{begin}"), message
    assert message.endswith(end), message
