"""Writing of files as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


class atomic_file:
    """Context manager that yields a temporary path; on success that file replaces `path`, on failure it is removed."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with open(self.temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)
