"""Messages on wrong usage of the command line: the flag or command at fault, the closest one, and the help to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer.exceptions
import typer.main

from mspipe_triton.errors import closest

PROGRAM = "mspipe-triton"
_VERSION = ("--version", "-V")  # flags of the program alone
_KINDS = (
    (r"valid int", "a whole number"), (r"valid (float|number)", "a number"),
    (r"less than or equal to (\S+)", r"at most \1"), (r"greater than or equal to (\S+)", r"at least \1"),
)  # fmt: skip


def usage_message(error: typer.exceptions.TyperException, app: typer.Typer, arguments: Sequence[str]) -> str:
    """Return one line on an error of usage.

    Args:
        app: the application. arguments: those of the command line, without the program's name.
    """
    words, command = _command(app, arguments)
    name, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    text = error.format_message().rstrip(".")
    unknown = re.match(r"No such command '(.*?)'", text)
    extra = re.match(r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)", text)
    if text.startswith("No such option"):
        close = f"`{PROGRAM} --version`" if name in _VERSION else _close_flag(str(name), command, arguments)
        text = f"No such option {name}{_did_you_mean(close)}"
    elif unknown is not None:
        text = f"No such command '{unknown[1]}'{_did_you_mean(_close_command(unknown[1], command, words))}"
    elif extra is not None:
        text = f"Unexpected argument {extra[1]}"
    elif parameter is not None and (kind := _kind(text)) is not None:
        value = _value(parameter.opts, arguments)
        text = f"{parameter.opts[0]} must be {kind}, not {value!r}{_without_commas(value, kind)}"
    elif text.startswith("Option ") and name is not None:
        text = f"{name} {'needs a' if 'requires' in text else 'takes no'} value"
    end = "" if text.endswith("?") else "."
    return f"{text}{end} See `{' '.join((PROGRAM, *words, '--help'))}`."


def _command(app: typer.Typer, arguments: Sequence[str]) -> tuple[list[str], Any]:
    """Return the words of the command that arguments begin with, and the command."""
    command: Any = typer.main.get_command(app)
    words = list[str]()
    for argument in arguments:
        if argument.startswith("-"):
            continue
        if argument not in getattr(command, "commands", {}):
            break
        words.append(argument)
        command = command.commands[argument]
    return words, command


def _close_flag(name: str, command: Any, arguments: Sequence[str]) -> str | None:
    """Return the flag that a wrong one may stand for; -epochs, which is read as single letters, stands for --epochs."""
    flags = [flag for each in command.params for flag in (*each.opts, *each.secondary_opts) if flag.startswith("--")]
    if not name.startswith("--"):
        name = next((each for each in arguments if each.startswith(name)), name)
    return closest(f"--{name.partition('=')[0].lstrip('-')}", flags)


def _close_command(name: str, command: Any, words: Sequence[str]) -> str | None:
    """Return the command that a wrong one may stand for; a file stands for training on it."""
    if not words and Path(name).exists():
        return f"`{PROGRAM} train {name}`"
    return closest(name, command.commands)


def _did_you_mean(name: str | None) -> str:
    return "" if name is None else f"; did you mean {name}?"


def _kind(text: str) -> str | None:
    """Return the values that a flag takes, by the message that refuses another."""
    for pattern, kind in _KINDS:
        if (match := re.search(pattern, text)) is not None:
            return match.expand(kind)
    return None


def _without_commas(value: str, kind: str) -> str:
    """Return the end of a message on a number with commas: of thousands in a whole number, else of decimals."""
    if kind == "a whole number" and re.fullmatch(r"\d{1,3}(,\d{3})+", value):
        return f"; write {value.replace(',', '')}"
    return f"; write {value.replace(',', '.')}" if kind == "a number" and re.fullmatch(r"\d+,\d+", value) else ""


def _value(flags: Sequence[str], arguments: Sequence[str]) -> str:
    """Return the value of the last of these flags among arguments."""
    value = ""
    for place, argument in enumerate(arguments):
        flag, equals, rest = argument.partition("=")
        if flag in flags:
            value = rest if equals else "".join(arguments[place + 1 : place + 2])
    return value
