"""Features of events in .npy files: rows and their order, mapped files and copies, messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mspipe_triton.data.feature_files import EdgeFeatures, RowNumbers, load_edge_features
from mspipe_triton.data.origin import Origin
from mspipe_triton.data.scaling import Scaling
from mspipe_triton.errors import DataError

VALUES = np.random.default_rng(3).normal(7, 2, (20, 3)).astype(np.float32)
TRAINING = 14
ORIGIN = Origin((("events.csv", 20),))


def save(folder: Path, values: Any) -> Path:
    np.save(folder / "edges.npy", values)
    return folder / "edges.npy"


def rows(features: EdgeFeatures) -> torch.Tensor:
    """Final rows of the features."""
    return features.table if features.scaling is None else features.scaling.apply(features.table)


def scaled(values: np.ndarray) -> torch.Tensor:
    """Values without long tails, standardised by the training part."""
    part = values[:TRAINING].astype(np.float64)
    return torch.from_numpy(((values - part.mean(0)) / part.std(0)).astype(np.float32))


def close(features: EdgeFeatures, values: np.ndarray) -> None:
    torch.testing.assert_close(rows(features), scaled(values), rtol=1e-6, atol=1e-6)


def fault(path: Path, *more: Any, events: int = 20, **others: Any) -> str:
    with pytest.raises(DataError) as error:
        load_edge_features(path, events, TRAINING, *more, **others)
    return re.sub(r"^\S*edges\.npy", "edges.npy", str(error.value))


def test_a_file_in_order_is_mapped(tmp_path: Path) -> None:
    path = save(tmp_path, VALUES)
    features = load_edge_features(path, 20, TRAINING)
    assert features.scaling is not None
    assert torch.equal(features.table, torch.from_numpy(VALUES))
    close(features, VALUES)
    assert features.transform.describe()[0].endswith("edges.npy: 3 numbers")
    with open(path, "r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(123).tobytes())
    assert features.table[19, 2] == 123, "the table is the file"


def test_a_first_row_of_zeros_is_of_no_event(tmp_path: Path) -> None:
    padded = np.concatenate([np.zeros((1, 3), np.float32), VALUES])
    features = load_edge_features(save(tmp_path, padded), 20, TRAINING)
    assert features.scaling is not None
    close(features, VALUES)
    padded[0, 1] = 1
    message = (
        "edges.npy: the file has 21 rows for 20 events; give one row per event; its first row may be left over only"
    )
    assert fault(save(tmp_path, padded)).startswith(message)


def test_row_numbers_select_rows(tmp_path: Path) -> None:
    padded = np.concatenate([np.zeros((1, 3), np.float32), VALUES])
    for values, first in ((VALUES, 0), (padded, 1)):
        numbers = RowNumbers(np.arange(first, first + 20), "idx", ORIGIN)
        features = load_edge_features(save(tmp_path, values), 20, TRAINING, numbers)
        assert features.scaling is not None, "the rows are in order"
        close(features, VALUES)
    some = np.array([3, 1, 19, 4] * 4)
    features = load_edge_features(save(tmp_path, VALUES), 16, TRAINING, RowNumbers(some, "idx", ORIGIN))
    assert features.scaling is None
    assert features.table.dtype == torch.float32
    close(features, VALUES[some])


def test_sorted_events_take_their_rows_along(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(20)
    close(load_edge_features(save(tmp_path, VALUES), 20, TRAINING, order=order), VALUES[order])
    numbers = RowNumbers(np.arange(20)[::-1].copy(), "idx", ORIGIN)
    features = load_edge_features(save(tmp_path, VALUES), 20, TRAINING, numbers, order)
    close(features, VALUES[::-1][order])
    back = load_edge_features(save(tmp_path, VALUES), 20, TRAINING, numbers, np.arange(20)[::-1].copy())
    assert back.scaling is not None, "sorting restores the order of the file"


@pytest.mark.parametrize("dtype", ["f2", "f8", "i1", "u2", "i8", ">f4", "g", "?"])
def test_numbers_of_every_type(dtype: str, tmp_path: Path) -> None:
    values = np.arange(20).astype(dtype)
    features = load_edge_features(save(tmp_path, values), 20, TRAINING)
    assert (features.scaling is None) == (dtype in (">f4", "g"))
    close(features, values[:, None].astype(np.float64))


def test_columns_that_are_not_side_by_side_are_copied(tmp_path: Path) -> None:
    features = load_edge_features(save(tmp_path, np.asfortranarray(VALUES)), 20, TRAINING)
    assert features.scaling is None
    close(features, VALUES)


def test_raw_values_stay_as_they_are(tmp_path: Path) -> None:
    features = load_edge_features(save(tmp_path, VALUES), 20, TRAINING, raw=True)
    assert torch.equal(rows(features), torch.from_numpy(VALUES))
    assert isinstance(features.scaling, Scaling)
    assert features.transform.describe()[0].endswith("edges.npy: 3 numbers, not scaled")


def test_values_that_are_not_finite_are_reported_with_the_row_of_the_file(tmp_path: Path) -> None:
    values = np.concatenate([np.zeros((1, 3), np.float32), VALUES])
    values[18, 2] = np.nan
    end = "not finite; correct it in the file (rows and columns count from 0)"
    assert fault(save(tmp_path, values)) == f"edges.npy: row 18, column 2 is nan, {end}"
    numbers = RowNumbers(np.array([18, 2] * 10), "idx", ORIGIN)
    assert fault(save(tmp_path, values), numbers) == f"edges.npy: row 18, column 2 is nan, {end}"
    unused = RowNumbers(np.array([17, 2] * 10), "idx", ORIGIN)
    close(load_edge_features(save(tmp_path, values), 20, TRAINING, unused), values[unused.values])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((12, 3)), "the file has 12 rows for 20 events; give one row per event"),
        (np.zeros((20, 3, 2)), "the array has shape (20, 3, 2); give it one row per event or node"),
        (np.zeros((20, 0)), "the array has shape (20, 0); give it one row per event or node"),
        (np.float32(3), "the array has shape (); give it one row per event or node"),
        (np.array(["a"] * 20), "the array is of type <U1; convert it to numbers"),
        (np.ones(20, complex), "the array is of type complex128; convert it to numbers"),
        (np.array([{}] * 20, object), "the array holds Python objects; convert it to numbers"),
    ],
)
def test_wrong_arrays(values: Any, message: str, tmp_path: Path) -> None:
    assert fault(save(tmp_path, values)).startswith(f"edges.npy: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is not in the .npy format; save the array with numpy.save"),
        (b"0.1,0.2\n", "the file is not in the .npy format; save the array with numpy.save"),
        (b"PK\x03\x04..", "the file is an archive of arrays; save one array with numpy.save"),
        (b"\x93NUMPY\x01\x00", "the file is damaged (EOF"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': 'x'   }", "the file is damaged ("),
        (b"\x80\x04]q.", "the file is not in the .npy format"),
    ],
)
def test_files_of_other_formats(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "edges.npy").write_bytes(content)
    assert fault(tmp_path / "edges.npy").startswith(f"edges.npy: {message}")


def test_files_that_are_cut_short_or_missing(tmp_path: Path) -> None:
    assert fault(tmp_path / "edges.npy") == "edges.npy: no such file; name a .npy file"
    path = save(tmp_path, VALUES)
    path.write_bytes(path.read_bytes()[:200])
    assert fault(path).startswith("edges.npy: the file is damaged (")
    path.unlink()
    path.mkdir()
    assert fault(path) == "edges.npy: the file cannot be read (Is a directory); name a .npy file"


def test_row_numbers_out_of_range(tmp_path: Path) -> None:
    numbers = RowNumbers(np.arange(1, 21), "idx", ORIGIN)
    message = "events.csv: row 20: idx is 20, but edges.npy has rows 0 to 19; give the number of its row, from 0"
    folder = str(tmp_path) + "/"
    assert fault(save(tmp_path, VALUES), numbers).replace(folder, "") == message
    padded = np.concatenate([np.zeros((1, 3), np.float32), VALUES])
    numbers = RowNumbers(np.arange(20), "idx", ORIGIN)
    message = "events.csv: row 1: idx is 0, but row 0 of edges.npy is zeros, of no event"
    assert fault(save(tmp_path, padded), numbers).replace(folder, "").startswith(message)
