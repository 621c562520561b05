"""Values of a JSON file that a user may have edited, each of which is checked where it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mspipe_triton.errors import InputError
from mspipe_triton.files import close_file

Result = TypeVar("Result")
LARGEST = 10**30  # beyond any size or time; products of a few such numbers are still floats


@dataclass(frozen=True)
class JsonValue:
    """A value, with its place in the file for messages.

    Args:
        path: the file.
        fix: end of every message: what to do if the file is wrong.
        value: as the json module reads it.
        place: such as "problem.edges[3]"; "" for the whole file.
    """

    path: Path
    fix: str
    value: Any
    place: str = ""

    def error(self, words: str) -> InputError:
        """Return an error that says what is wrong with the value, and the fix."""
        return InputError(f"{self.path}: {f'{self.place} ' if self.place else ''}{words}; {self.fix}")

    def __getitem__(self, name: str) -> JsonValue:
        """Return a member of an object.

        Raises:
            InputError: the value is no object, or has no such member.
        """
        if not isinstance(self.value, dict):
            raise self._not("an object")
        if name not in self.value:
            raise self.error(f'has no "{name}"')
        return JsonValue(self.path, self.fix, self.value[name], f"{self.place}.{name}" if self.place else name)

    def members(self) -> dict[str, JsonValue]:
        """Return all members of an object.

        Raises:
            InputError: the value is no object.
        """
        if not isinstance(self.value, dict):
            raise self._not("an object")
        return {name: self[name] for name in self.value}

    def items(self, length: int | None = None) -> list[JsonValue]:
        """Return the items of a list.

        Raises:
            InputError: the value is no list, or not of this length.
        """
        if not isinstance(self.value, list) or length not in (None, len(self.value)):
            raise self._not("a list" if length is None else f"a list of {length}")
        return [
            JsonValue(self.path, self.fix, each, f"{self.place}[{number}]") for number, each in enumerate(self.value)
        ]

    def text(self) -> str:
        """Return a string.

        Raises:
            InputError: the value is no string, or has half of a surrogate pair, which no file or screen can show.
        """
        if not isinstance(self.value, str) or any("\ud800" <= each <= "\udfff" for each in self.value):
            raise self._not("a string")
        return self.value

    def whole(self, least: int = 0) -> int:
        """Return a whole number.

        Raises:
            InputError: the value is no whole number, or is not in [least, `LARGEST`].
        """
        if type(self.value) is not int or not least <= self.value <= LARGEST:
            raise self._not(f"a whole number of at least {least}")
        return self.value

    def number(self) -> Any:
        """Return a number, an int or a float as in the file.

        Raises:
            InputError: the value is no number, or is not in [0, `LARGEST`].
        """
        if type(self.value) not in (int, float) or not 0 <= self.value <= LARGEST:
            raise self._not("a number of at least 0")
        return self.value

    def optional(self, read: Callable[[JsonValue], Result]) -> Result | None:
        """Return None for null, and else what a method reads."""
        return None if self.value is None else read(self)

    def _not(self, kind: str) -> InputError:
        if isinstance(self.value, list | dict):
            value = "an object" if isinstance(self.value, dict) else f"a list of {len(self.value)}"
        else:
            value = json.dumps(self.value)
            value = value if len(value) <= 40 else f"{value[:40]}…"
        return self.error(f"{'must be' if self.place else 'the file must hold'} {kind}, not {value}")


def read_json(path: Path, content: str, fix: str) -> JsonValue:
    """Read a JSON file of any Unicode encoding.

    Args:
        path: the file.
        content: what it must hold, for messages, such as "a plan".
        fix: end of every message.

    Raises:
        InputError: there is no such file, it cannot be read, it is a folder or empty, or it is not JSON.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file of {content}")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name the file of {content}, or {fix}{close_file(path)}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name the file of {content}, or {fix}") from error
    if not data.strip():
        raise InputError(f"{path} is empty: what wrote {content} failed; {fix}")
    try:
        value = json.loads(data)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON (line {error.lineno}: {error.msg}); {fix}") from error
    except RecursionError as error:
        raise InputError(f"{path} is JSON nested too deeply for {content}; {fix}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not JSON but binary data; {fix}") from error
    except ValueError as error:
        raise InputError(f"{path} has a number of too many digits for {content}; {fix}") from error
    return JsonValue(path, fix, value)
