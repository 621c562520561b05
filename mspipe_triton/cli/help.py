"""Help of the commands as plain text: flags in groups, the most used ones first, in lines that fit the terminal."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from textwrap import fill, indent, wrap
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MOST_USED = "Most used"
_GROUPS = (MOST_USED, "Arguments", "Options", "Data", "Model", "Training", "Pipeline", "Tuning", "Machine", "Output")
_COMMANDS = {
    "Train a model and use it": ("train", "evaluate", "predict", "rank", "embed", "serve", "report"),
    "Tune and plan": ("autotune", "plan", "graphpipe"),
    "Look at data and the machine": ("data", "doctor"),
}
_NAMES = 24  # columns of names; a longer name has a line of its own
_FIXED = "\0"  # a blank where no line ends
_LONGEST = 100  # columns of text, which is harder to read in longer lines


class PlainHelp(TyperCommand):
    """A command with plain help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the command."""
        formatter.write(help_text(self, ctx))


class PlainGroup(TyperGroup):
    """A group of commands with plain help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the group and the list of its commands."""
        formatter.write(help_text(self, ctx))


def help_text(command: Any, ctx: typer.Context) -> str:
    """Return a command's help: its usage, its description, its flags by group, its commands and its examples."""
    width = min(shutil.get_terminal_size().columns, _LONGEST)
    blocks = [f"{_heading('Usage:')} {ctx.command_path} {' '.join(_usage(command))}"]
    blocks += [fill(" ".join(part.split()), width) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    groups: dict[str, list[tuple[str, str]]] = {}
    for each in command.get_params(ctx):
        home = each.rich_help_panel or ("Arguments" if each.param_type_name == "argument" else "Options")
        groups.setdefault(home, []).append(_entry(each, ctx))
    ordered = sorted(groups, key=lambda name: _GROUPS.index(name) if name in _GROUPS else len(_GROUPS))
    if len(groups["Options"]) == 1:  # --help alone
        ordered.append(ordered.pop(ordered.index("Options")))
    flags = [_block(name, groups[name], width) for name in ordered]
    blocks += [*_commands(command, width), *flags] if isinstance(command, TyperGroup) else flags
    if command.epilog:
        blocks.append(inspect.cleandoc(command.epilog))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _usage(command: Any) -> list[str]:
    """Return the parts of a command line after the command."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    names = [_argument(each) if each.required else f"[{_argument(each)}]" for each in arguments]
    if isinstance(command, TyperGroup):
        names.append("[COMMAND ...]" if command.invoke_without_command else "COMMAND ...")
    return ["[OPTIONS]", *names]


def _argument(parameter: Any) -> str:
    """Return the name of an argument."""
    name: str = parameter.metavar or parameter.name
    return name.upper()


def _commands(group: TyperGroup, width: int) -> list[str]:
    """Return blocks of commands, by their purpose if it is the whole program."""
    entries = {name: _first_sentence(each.help or "") for name, each in group.commands.items()}
    homes = {title: [name for name in names if name in entries] for title, names in _COMMANDS.items()}
    if not homes["Train a model and use it"]:
        homes = {"Commands": list(entries)}
    placed = {name for names in homes.values() for name in names}
    homes["Others"] = [name for name in entries if name not in placed]
    return [_block(title, [(n, entries[n]) for n in names], width) for title, names in homes.items() if names]


def _first_sentence(text: str) -> str:
    """Return the start of a description, up to its first semicolon, colon or full stop."""
    text = " ".join(inspect.cleandoc(text).split())
    return min((text.split(mark)[0] for mark in (";", ": ", ". ")), key=len).rstrip(".") + "."


def _entry(parameter: Any, ctx: typer.Context) -> tuple[str, str]:
    """Return the names of a flag or an argument with its value, and its text with the default."""
    if parameter.param_type_name == "argument":
        name = _argument(parameter)
    else:
        name = " / ".join((", ".join(sorted(parameter.opts, key=len)), *parameter.secondary_opts))
        if not parameter.is_flag:
            name += f" {parameter.metavar or _value(parameter.display_type(ctx))}"
    text = f"{(parameter.help or '').rstrip('.')}."
    if parameter.required and parameter.param_type_name == "option":
        return name, f"{text} (required)"
    default = _default(parameter).replace(" ", _FIXED)  # in one line
    return name, f"{text} (default:{_FIXED}{default})" if default else text


def _value(kind: str) -> str:
    """Return the word for a value of a flag by its type: N is a whole number, X a number."""
    return "N" if "int" in kind else "X" if "float" in kind else "TEXT"


def _default(parameter: Any) -> str:
    shown, default = parameter.show_default, parameter.default
    if isinstance(shown, str):
        return shown
    if not shown or default in (None, "", False) or callable(default):
        return ""
    return "yes" if default is True else str(default)


def _block(title: str, entries: list[tuple[str, str]], width: int) -> str:
    """Return a heading and lines of names and texts."""
    lines, margin = [_heading(title)], " " * (_NAMES + 2)
    for name, text in entries:
        rows = wrap(text, width - len(margin), break_long_words=False, break_on_hyphens=False)
        if len(name) < _NAMES and rows:
            lines.append(f"  {name:<{_NAMES}}{rows.pop(0)}")
        else:
            lines.append(f"  {name}")
        lines += [indent(row, margin) for row in rows]
    return "\n".join(lines).replace(_FIXED, " ")


def _heading(text: str) -> str:
    """Return a heading, bold on a terminal that shows it."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[0m"
