"""Writing of files as a whole or not at all, and names of files that do not exist."""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EINVAL
from itertools import islice
from pathlib import Path

from mspipe_triton.errors import InputError, RunFolderError, closest

_MOST = 10_000  # names that a missing file's is compared with
TEMPORARY = ".*.tmp"  # pattern of the names of temporary files, which remain if their process is killed


def check_output(path: Path) -> None:
    """Refuse a path where no file can be written.

    Raises:
        InputError: its folder does not exist or is not writable, or it is a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; use the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; create it, or use another")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} is not writable; use another")


def check_writable(path: Path) -> None:
    """Refuse a folder in which nothing can be created; it need not exist.

    Raises:
        RunFolderError: there is no permission to write, or a folder above it is a file.
    """
    nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
    if nearest.is_dir() and not os.access(nearest, os.W_OK):
        raise RunFolderError(f"{path}: cannot be written: no permission to write")
    if nearest != path and not nearest.is_dir():
        raise RunFolderError(f"{path}: cannot be written: Not a directory")


def close_file(path: str | Path) -> str:
    """Return the end of a message on a missing file or folder, as in "; did you mean data/events.csv?".

    It names the one in the same folder whose name is closest, or is "" if none is close.
    """
    path, names = Path(path), dict[str, str]()
    with suppress(OSError), os.scandir(path.parent) as entries:
        names = {entry.name.partition(".")[0]: entry.name for entry in islice(entries, _MOST) if entry.name[0] != "."}
    stem = closest(path.name.partition(".")[0], names)
    return "" if stem is None else f"; did you mean {path.with_name(names[stem])}?"


def run_folders(path: Path) -> list[Path]:
    """Return the folders of runs directly in a folder, by name."""
    return sorted(config.parent for config in path.glob("*/config.toml"))


def settle(folder: Path) -> None:
    """Bring the names in a folder to disk, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


class atomic_file:
    """Context manager that yields a temporary path; on success that file replaces `path`, on failure it is removed.

    Raises:
        OSError: `path` is a device or the like, or the file system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
            raise OSError(EINVAL, "not a regular file", str(self.path))
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with open(self.temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)
