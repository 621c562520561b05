"""Storage of tuning profiles: one file each in the user's cache, replaced atomically, renamed when stale or damaged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_dir

from mspipe_triton.tuning.profile.key import Key
from mspipe_triton.tuning.profile.profile import Profile, ProfileError, configurations


class ProfileStore:
    """Profiles by key. Errors with the files never stop a run; each adds a line to `notices`.

    Args:
        folder: `profiles` in the user's cache folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(user_cache_dir("mspipe-triton")) / "profiles"
        self.notices: list[str] = []

    def path(self, key: Key) -> Path:
        """Return the file of a key's profile, as in tgn-wiki-0123456789abcdef.json; the dataset's name may differ."""
        paths = sorted(self.folder.glob(f"*-{key.digest}.json"))
        names = (_safe(name) for name in (key.subject["model"]["model"], key.dataset))
        return paths[0] if paths else self.folder / f"{'-'.join(names)}-{key.digest}.json"

    def find(self, key: Key) -> Profile | None:
        """Return the profile of a key, or None; a damaged or stale file is renamed to *.damaged or *.stale."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._note(f"{path}: cannot be read: {error.strerror}")
            return None
        try:
            profile = Profile.parse(content)
            if profile.key.subject != key.subject:
                raise ProfileError("its subject does not match the file name")
            changes = profile.key.changes(key)
            if not changes:
                configurations(profile)
                return profile
            self._set_aside(path, "stale", "; ".join(changes))
        except ProfileError as error:
            self._set_aside(path, "damaged", str(error))
        return None

    def save(self, profile: Profile) -> Path | None:
        """Write a profile atomically, replacing the key's former one; returns the path, or None on failure."""
        path = self.path(profile.key)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            text = json.dumps(profile.to_json(), indent=1, allow_nan=False) + "\n"
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, ValueError) as error:
            self._note(f"{path}: cannot be written, so the profile is not saved: {_reason(error)}")
            return None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return path

    def studies(self, key: Key) -> Path | None:
        """Return the SQLite file for a key's studies, after creating its folder; None if that fails."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._note(f"{self.folder}: cannot be created, so trials are not saved: {_reason(error)}")
            return None
        return self.path(key).with_suffix(".db")

    def tell(self, note: Callable[[str], None]) -> None:
        """Pass the notices on, each once."""
        for notice in self.notices:
            note(notice)
        self.notices.clear()

    def _note(self, line: str) -> None:
        if line not in self.notices:
            self.notices.append(line)

    def _set_aside(self, path: Path, state: str, reason: str) -> None:
        aside = path.with_name(f"{path.name}.{state}")
        outcome = f"renamed to {aside.name}"
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            outcome = f"cannot be renamed: {_reason(error)}"
        self._note(f"{path}: {state} ({reason}); {outcome}")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _safe(name: str) -> str:
    """Return a name with only characters that are safe in a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60] or "stream"
