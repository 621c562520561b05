"""Every command in a table of the data page, run on a file of that format, reads all events and nodes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.example_tables import EVENTS, ITEMS, USERS, write_tables

Command = Callable[..., subprocess.CompletedProcess[str]]
PAGE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "data.md"
COMMANDS = re.findall(r"^\|[^|]*\| `mspipe-triton (data info [^`]*)` \|$", PAGE.read_text(encoding="utf-8"), re.M)


def test_the_page_has_a_command_for_each_format() -> None:
    assert len(COMMANDS) >= 18


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_tables(line: str, tmp_path: Path, command: Command) -> None:
    write_tables(tmp_path)
    done = command(*shlex.split(line), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["events"], facts["nodes"], facts["self_loops"]) == (EVENTS, USERS + ITEMS, 0)
    assert facts["last_time"] > facts["first_time"]
