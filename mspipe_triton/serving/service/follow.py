"""Following of a source: events from a file that grows, or from standard input, taken in as they come."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NamedTuple

from mspipe_triton.data.new_events import NewEvents, Reading, read_new_events
from mspipe_triton.errors import DataError, InputError
from mspipe_triton.serving.service.engine import Service
from mspipe_triton.serving.service.settings import STANDARD_INPUT
from mspipe_triton.serving.service.web.refusals import Refusal
from mspipe_triton.serving.service.web.schema import Observe
from mspipe_triton.serving.service.words import in_words_of
from mspipe_triton.serving.service.work import Batch, BusyError, Lines, LogError, Place, Rejected, StartingError

_CHUNK = 1 << 18  # bytes read at once
_PAUSE = 0.2  # seconds between looks at a file that has not grown
_RETRY = 1.0  # seconds until a request is made again
_FIELDS = {"src", "dst", "t", "features"}
_LONGEST = 1 << 20  # bytes of a line


class Line(NamedTuple):
    """A line with its number, from 1, and the byte after it."""

    number: int
    end: int
    content: bytes


class Follower:
    """A thread that passes the lines of a source to a service, each once: the place is in the log with the events.

    Lines are JSON objects with the names of the run's table, or with src, dst, t and features as in requests; or they
    are rows of delimited text as the run's table has them, whose header is the file's first line. A line that is no
    event that fits is put aside in the log, and the others go on.

    Args:
        source: path of a file, or "-" for standard input. place: how far it has been read before.
        reading: of the run's events. size: the most events that are taken in at once.
        late: see `Predictor.observe`; with "refuse", a late event is put aside.
        repeats: standard input starts again from its first line, so skip those that have been read before.
        note: called with a line about the source's end.

    Raises:
        DataError: the file is missing, or it is not the one that was read before.
    """

    def __init__(
        self, source: str, place: Place, reading: Reading, size: int, late: str, repeats: bool,
        note: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.failure: BaseException | None = None
        self._source, self._place, self._reading, self._size, self._late = source, place, reading, size, late
        self._repeats, self._note, self._stopping = repeats, note, threading.Event()
        self._name = "standard input" if source == STANDARD_INPUT else Path(source).name
        self._header, self._faulty = b"", False
        if source != STANDARD_INPUT:
            self._open().close()
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self, service: Service, failed: Callable[[], None]) -> None:
        """Start to read; `failed` is called if the source cannot be read any further."""
        self._service, self._failed = service, failed
        self._thread.start()

    def stop(self) -> None:
        """Stop after the lines that are being taken in; a thread that waits for standard input is not waited for."""
        self._stopping.set()
        if self._source != STANDARD_INPUT:
            self._thread.join()

    def _run(self) -> None:
        try:
            for lines in self._groups(sys.stdin.buffer if self._source == STANDARD_INPUT else self._open()):
                self._send(lines)
        except Exception as error:
            self.failure = error
            self._failed()

    def _open(self) -> BinaryIO:
        """Open the file at the place, and read its header if that is before it.

        Raises:
            DataError: it is missing, or shorter than what was read, or another file.
        """
        try:
            file = open(self._source, "rb")  # noqa: SIM115 - it is read until the service stops
        except OSError as error:
            raise DataError(f"{self._source}: cannot be followed: {error.strerror}; name a file that exists") from error
        if self._place.offset:
            self._note_header(file.readline(_LONGEST))
            file.seek(self._place.offset - 1)
            if file.read(1) != b"\n":
                file.close()
                raise DataError(
                    f"{self._source}: is not the file that was followed, of which {self._place.offset:,} bytes were "
                    "read; restore it, or start anew with another --state"
                )
        return file

    def _note_header(self, first: bytes) -> None:
        """Note the first line of a file, unless the file has no header."""
        if not first.removeprefix(BOM_UTF8).lstrip().startswith(b"{") and not self._reading.data.no_header:
            self._header = first.rstrip(b"\r\n") + b"\n"

    def _groups(self, file: BinaryIO) -> Iterator[list[Line]]:
        """Yield lines as they come, at most as many at once as the memory moves on by."""
        standard = self._source == STANDARD_INPUT
        number, end = (0, 0) if self._repeats else (self._place.lines, self._place.offset)
        rest, ended = b"", False
        while not self._stopping.is_set() and not ended:
            part = os.read(file.fileno(), _CHUNK) if standard else file.read(_CHUNK)
            if not part and not standard:
                self._check(file)
                self._stopping.wait(_PAUSE)
                continue
            ended = not part
            *whole, rest = (rest + part).split(b"\n")
            if ended and rest:
                whole, rest = [rest], b""
            lines = []
            for content in whole:
                number, end = number + 1, end + len(content) + 1
                if number == 1 and not standard:
                    self._note_header(content)
                if number > self._place.lines:
                    lines.append(Line(number, end, content))
            for start in range(0, len(lines), self._size):
                yield lines[start : start + self._size]
            if len(rest) > _LONGEST:
                raise DataError(
                    f"{self._name}: line {number + 1} is longer than {_LONGEST:,} bytes; write shorter ones"
                )
        if ended:
            self._note(f"Standard input has ended after line {number:,}. Questions are still answered.")

    def _check(self, file: BinaryIO) -> None:
        """Refuse a file that was cut or replaced.

        Raises:
            DataError: it was.
        """
        try:
            now, ours = os.stat(self._source), os.fstat(file.fileno())
        except OSError:
            return  # it may come back, and what it held is read
        if now.st_size < file.tell() or (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino):
            raise DataError(f"{self._source}: was cut or replaced while it was followed; append to it instead")

    def _send(self, lines: Sequence[Line]) -> None:
        """Pass lines on; if one of them does not fit, halve them until it is alone, and put it aside."""
        place = Place(self._place.source, lines[-1].number, lines[-1].end)
        try:
            self._observe(lambda: Lines(self._events(lines), self._late, place))
        except InputError as error:
            if len(lines) > 1:
                half = len(lines) // 2
                self._send(lines[:half])
                self._send(lines[half:])
                return
            reason = self._reason(error)
            aside = Rejected(lines[0].number, reason, lines[0].content.decode("utf-8", "backslashreplace"))
            self._observe(lambda: Lines(None, self._late, place, [aside]))
            if not self._faulty:
                self._faulty = True
                self._note(
                    f"Line {aside.line} of {self._name} is put aside in the log, as later ones will be: {reason}"
                )

    def _reason(self, error: InputError) -> str:
        """Return what is wrong with a line that was read alone, without the names of a file and of a row."""
        message = in_words_of("line", str(error))
        return re.sub(rf"^(.*{re.escape(self._name)}: )?((row 1|event 0)(: |(?= )))?", "", message).lstrip()

    def _events(self, lines: Sequence[Line]) -> NewEvents | Batch | None:
        """Read lines in the form of requests, or as a file of the run's form; None if they are empty, or the header.

        Raises:
            InputError: one is no event.
        """
        contents = [line.content for line in lines if line.content.strip() and (line.number > 1 or not self._header)]
        if not contents:
            return None
        if not self._header and (records := _records(contents)) is not None:
            _check_values(records, {*_FIELDS, *self._reading.columns().values()} - {"features"})
            if "features" not in self._reading.roles and all(each.keys() == _FIELDS for each in records):
                return _batch(contents)
        with TemporaryDirectory(prefix="mspipe-") as folder:
            path = Path(folder) / self._name
            path.write_bytes(self._header + b"\n".join(contents) + b"\n")
            try:
                return read_new_events(path, self._reading)
            except InputError as error:
                raise type(error)(str(error).replace(str(path), self._name)) from error

    def _observe(self, lines: Callable[[], Lines]) -> None:
        """Let the service take in lines, as soon as it can and there is room on the disk.

        Raises:
            InputError: an event does not fit.
        """
        waits = False
        while not self._stopping.is_set():
            try:
                self._service.observe(lines()).result()
                return
            except (BusyError, StartingError, LogError, OSError) as error:
                if not waits and not isinstance(error, StartingError):
                    self._note(f"Following waits: {error}.")
                    waits = True
                self._stopping.wait(_RETRY)


def _records(contents: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Read lines as JSON objects; None if one is something else, which `read_new_events` reports."""
    try:
        records = [json.loads(content) for content in contents]
    except (ValueError, RecursionError):
        return None
    return records if all(isinstance(each, dict) for each in records) else None


def _check_values(records: Sequence[dict[str, Any]], names: set[str]) -> None:
    """Refuse ids and times that are true, false, a list or an object, which a table could read as text.

    Raises:
        DataError: about the first of them.
    """
    for record in records:
        for name in names & record.keys():
            if isinstance(record[name], bool | list | dict):
                value = json.dumps(record[name])[:60]
                raise DataError(f"{name} is {value}, neither text nor a number; a line is one event")


def _batch(contents: Sequence[bytes]) -> Batch:
    """Read lines in the form of requests, each of one event.

    Raises:
        DataError: a field does not fit.
    """
    try:
        forms = [Observe.of_json(content) for content in contents]
    except Refusal as error:
        raise DataError(str(error)) from error
    src, dst, t = ([getattr(form, name) for form in forms] for name in ("src", "dst", "t"))
    return Batch(src, dst, t, [form.features for form in forms])
