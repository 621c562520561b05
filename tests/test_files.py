"""Files written as a whole or not at all, and the places where none can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mspipe_triton.errors import InputError
from mspipe_triton.files import atomic_file, check_output, close_file


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("first", "second"):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text
    with pytest.raises(UnicodeEncodeError), atomic_file(path) as temporary:
        temporary.write_text("half, and then \ud800", encoding="utf-8")
    assert [each.read_text(encoding="utf-8") for each in tmp_path.iterdir()] == ["second"]


def test_a_pipe_or_device_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"), atomic_file(pipe):
        pass
    assert pipe.is_fifo()
    with pytest.raises(InputError, match="pipe is no regular file"):
        check_output(pipe)


def test_outputs_need_a_folder(tmp_path: Path) -> None:
    check_output(tmp_path / "new")
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; create it"):
        check_output(tmp_path / "nowhere" / "file")


def test_the_closest_file_in_the_same_folder_is_named(tmp_path: Path) -> None:
    for name in ("events.csv.gz", "other.csv", ".hidden"):
        (tmp_path / name).touch()
    assert close_file(tmp_path / "event.csv") == f"; did you mean {tmp_path / 'events.csv.gz'}?"
    assert close_file(tmp_path / "none.csv") == ""
    assert close_file(tmp_path / "nowhere" / "events.csv") == ""
