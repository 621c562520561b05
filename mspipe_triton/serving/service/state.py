"""Folder of a service's state: the log, snapshots of the predictor, and the way back to the state after the log."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from mspipe_triton.errors import RunFolderError
from mspipe_triton.files import atomic_file, settle
from mspipe_triton.models.stored import StoredModel, digest
from mspipe_triton.serving.files import Saved, is_saved
from mspipe_triton.serving.loading import load
from mspipe_triton.serving.predictor import Predictor
from mspipe_triton.serving.service.log import EventLog

LOG, SNAPSHOTS, LOCK = "events.db", "snapshots", "lock.db"
_TEMPORARY, _SUMS = ".writing", "sha256.txt"
_KEEP = 2  # snapshots, so that a damaged one leaves another


class StateFolder:
    """Folder that one service at a time uses.

    Args:
        path: the folder, which is made if there is none. run: the run folder, or folder of a saved predictor, that the
            log starts from.

    Raises:
        RunFolderError: the run has no model, another service uses the folder, or it cannot be written.
    """

    def __init__(self, path: Path, run: Path) -> None:
        self.path, self.run = path, run
        self._events = StoredModel.read(run).events
        try:
            (path / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
            self._lock = sqlite3.connect(path / LOCK, timeout=0, isolation_level=None, check_same_thread=False)
            self._lock.execute("BEGIN EXCLUSIVE")  # until the process ends, however it does
        except OSError as error:
            raise RunFolderError(f"{path}: cannot be written: {error.strerror or error}") from error
        except sqlite3.Error as error:
            if "locked" not in str(error):
                raise RunFolderError(f"{path}: cannot be used ({error}); name another folder with --state") from error
            raise RunFolderError(
                f"{path}: another service uses it; stop that one, or name another folder with --state"
            ) from error
        shutil.rmtree(path / SNAPSHOTS / _TEMPORARY, ignore_errors=True)

    def restore(self, data: str | None, share: float, note: Callable[[str], None]) -> tuple[Predictor, int]:
        """Load the last good snapshot, or the run if there is none.

        Args:
            data, share: see `load`. note: called with a line about each snapshot that is damaged, and on training that
                has not finished.

        Returns:
            The predictor, and the number of log entries that it contains.

        Raises:
            InputError: see `load`.
        """
        for entries, path in self.snapshots():
            try:
                _check_sums(path)
                return load(path, share=share), entries
            except RunFolderError as error:
                note(f"{error}; an earlier state is used")
        return load(self.run, None if is_saved(self.run) else data, share=share, note=note), 0

    def log(self, predictor: Predictor) -> EventLog:
        """Open the log of events after the run; `predictor` is of the run.

        Raises:
            RunFolderError: see `EventLog`.
        """
        return EventLog(self.path / LOG, {"model": digest(self.run)}, self._events, predictor.reading.width)

    def snapshots(self) -> list[tuple[int, Path]]:
        """Return the snapshots with the number of log entries that they contain, the latest first."""
        paths = [path for path in (self.path / SNAPSHOTS).iterdir() if path.name.isdecimal()]
        return sorted(((int(path.name), path) for path in paths), reverse=True)

    def write_snapshot(self, image: Saved, entries: int) -> None:
        """Write a snapshot, as a whole or not at all, and remove all but the last few.

        Raises:
            RunFolderError: it cannot be written.
        """
        folder = self.path / SNAPSHOTS
        temporary, final = folder / _TEMPORARY, folder / f"{entries:012}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            image.write(temporary)
            with atomic_file(temporary / _SUMS) as target:
                target.write_text(_sums(temporary), encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            settle(folder)
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for _, path in self.snapshots()[_KEEP:]:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Let another service use the folder."""
        self._lock.close()


def _sums(folder: Path) -> str:
    """Return the hash and the name of each file of a snapshot, in lines as sha256sum has them."""
    lines = []
    for path in sorted(folder.glob("[!.]*")):
        if path.name != _SUMS:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return "".join(lines)


def _check_sums(folder: Path) -> None:
    """Refuse a snapshot whose files are not those that were written.

    Raises:
        RunFolderError: they are not.
    """
    try:
        same = (folder / _SUMS).read_bytes() == _sums(folder).encode()
    except OSError:
        same = False
    if not same:
        raise RunFolderError(f"{folder}: damaged or incomplete (its files do not have the sums in {_SUMS})")
