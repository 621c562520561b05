"""Writing of streams: as a whole or not at all, and never over a file by accident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.data.writers import write_stream
from mspipe_triton.errors import DataError

EVENTS = EventStream(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([5, 6]), name="tiny")


@pytest.mark.parametrize("name", ["events.csv", "events.parquet"])
def test_an_existing_file_is_replaced_only_by_force(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(DataError, match=f"{name}: exists already; use --force to replace it, or another name"):
        write_stream(EVENTS, path)
    assert path.read_text() == "mine"
    write_stream(EVENTS, path, force=True)
    read = pyarrow.csv.read_csv if name.endswith(".csv") else pyarrow.parquet.read_table
    assert read(path).to_pydict() == {"src": [0, 1], "dst": [2, 2], "time": [5, 6]}
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("format_name", ["csv", "parquet"])
def test_a_failure_leaves_the_old_file_and_no_half_one(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(table: object, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.csv, "write_csv", fail)
    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    path = tmp_path / f"events.{format_name}"
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        write_stream(EVENTS, path)
    assert not list(tmp_path.iterdir())
    path.write_text("mine")
    with pytest.raises(DataError, match="cannot be written"):
        write_stream(EVENTS, path, force=True)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(path.name, "mine")]


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "events.csv").mkdir()
    with pytest.raises(DataError, match=r"events.csv: cannot be written: Is a directory"):
        write_stream(EVENTS, tmp_path / "events.csv", force=True)
    assert [each.name for each in tmp_path.iterdir()] == ["events.csv"]


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (torch.tensor([1.0, float("nan")]), [1.0, None]),
        (torch.tensor([True, False]), [True, False]),
        (torch.tensor([1, 0]), [1, 0]),
    ],
)
def test_an_event_without_a_label_gets_an_empty_value(labels: torch.Tensor, values: list[Any], tmp_path: Path) -> None:
    write_stream(replace(EVENTS, labels=labels), tmp_path / "events.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "events.parquet")["label"].to_pylist() == values
