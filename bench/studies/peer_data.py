"""The stream of `make peers`: JODIE's Wikipedia edits, downloaded from SNAP and cut to sources, destinations and times.

`python -m bench.studies.peer_data` writes data/wiki.csv, and nothing if the result is not the stream of our figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Annotated
from urllib.request import urlopen

import typer
from rich.console import Console
from rich.progress import track

from mspipe_triton.errors import InputError
from mspipe_triton.files import atomic_file

URL = "http://snap.stanford.edu/jodie/wikipedia.csv"
PATH = Path("data/wiki.csv")
HEAD = "src,dst,time\n"
USERS, EVENTS = 8_227, 157_474
DIGEST = "12f6c7b810e477bbb9a297a234a347eafd45bb6b82c3ff6e5fb18ab7fc237cda"  # SHA-256 of the table
WAIT = 60.0  # seconds without a byte, at most
FETCH = (
    f"`make peers-data` downloads JODIE's Wikipedia stream (about 530 MB, {URL}) and writes its columns src,dst,time "
    f"to {PATH}"
)


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """End the process with the exit status of an `InputError`, and with its message alone."""
    try:
        yield
    except InputError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def refuse_missing(data: str) -> None:
    """Refuse a table that does not exist.

    Raises:
        InputError: there is no such file; the message says where the stream comes from.
    """
    if data != "synthetic" and not Path(data).exists():
        raise InputError(f"{data}: no such file; {FETCH}, and --data synthetic needs no file")


def cut(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the table's lines for those of JODIE's: users are 1 … 8,227, pages follow, times are whole seconds.

    Args:
        lines: a header, then lines that begin with user, page and time, users and pages from 0.

    Raises:
        ValueError: a line has another form.
    """
    for number, line in enumerate(lines):
        if number:
            user, page, time, _ = line.split(b",", 3)
            yield f"{int(user) + 1},{int(page) + USERS + 1},{int(float(time))}\n"


def fetch(url: str, path: Path) -> None:
    """Download the stream, and write its table as a whole or not at all.

    Raises:
        InputError: the download fails, or is not the stream.
    """
    console, digest = Console(stderr=True), sha256(HEAD.encode())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(url, timeout=WAIT) as answer, atomic_file(path) as temporary:
            events = track(cut(answer), "Downloading", EVENTS, console=console, disable=not console.is_terminal)
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                file.write(HEAD)
                for event in events:
                    digest.update(event.encode())
                    file.write(event)
            if digest.hexdigest() != DIGEST:
                raise ValueError(f"its SHA-256 is {digest.hexdigest()}")
    except ValueError as error:
        raise InputError(f"{url}: is not the stream of our figures ({error}), so {path} is not written") from error
    except (OSError, HTTPException) as error:
        raise InputError(f"{url}: cannot be downloaded to {path}: {error}; try again, or use another --url") from error


def main(
    url: Annotated[str, typer.Option(help="Address of JODIE's wikipedia.csv.")] = URL,
    out: Annotated[Path, typer.Option(help="The table to write.")] = PATH,
) -> None:
    """Write the table unless it is there."""
    if out.exists():
        print(f"{out} is there already")
        return
    with errors_in_a_line():
        fetch(url, out)
    print(f"Wrote {EVENTS:,} events to {out}")


if __name__ == "__main__":
    typer.run(main)
